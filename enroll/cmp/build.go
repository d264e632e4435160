package cmp

import (
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

type builder = cryptobyte.Builder

// NewHeader returns a header with a fresh transaction ID and nonce of 16 bytes each.
func NewHeader(now time.Time) Header {
	return Header{Version: 2, Time: now, TransactionID: random16(), SenderNonce: random16()}
}

// Reply returns the header of an answer to h: same version, transaction and sender's
// key ID, its nonce given back, and a fresh one.
func (h Header) Reply(now time.Time) Header {
	return Header{
		Version: h.Version, Time: now,
		Sender: h.Recipient, Recipient: h.Sender,
		SenderKID: h.SenderKID, TransactionID: h.TransactionID,
		SenderNonce: random16(), RecipNonce: h.SenderNonce,
	}
}

func random16() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says its documentation
	return b
}

// NullDN is the empty directory name.
func NullDN() GeneralName { return GeneralName{0xa4, 2, 0x30, 0} }

// DirectoryName wraps a DER Name, such as x509.Certificate.RawSubject.
func DirectoryName(rawName []byte) GeneralName {
	var b builder
	b.AddASN1(context(4), func(b *builder) { b.AddBytes(rawName) })
	return b.BytesOrPanic()
}

// CommonName is the directory name of a single CN.
func CommonName(cn string) GeneralName {
	var b builder
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1(asn1.SET, func(b *builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *builder) {
				addOID(b, idCommonName)
				addText(b, cn)
			})
		})
	})
	return DirectoryName(b.BytesOrPanic())
}

// Refusal is the one answer to anybody whose MAC is not valid: error{rejection,
// badMessageCheck}, unprotected. Its bytes depend on the transaction ID and nonce of h alone.
func Refusal(h Header) []byte {
	m := Message{
		Header: Header{Version: 2, TransactionID: h.TransactionID, RecipNonce: h.SenderNonce},
		Body:   Body{Kind: Error, Error: ErrorContent{Status: StatusInfo{Status: Rejection, Fail: BadMessageCheck}}},
	}
	der, err := m.Marshal()
	if err != nil { // IDs so long that no parsed message can have them
		return nil
	}
	return der
}

// NewError builds an error message in answer to h, yet to be protected.
func NewError(h Header, now time.Time, fail Failure, text string) *Message {
	return &Message{Header: h.Reply(now), Body: Body{Kind: Error, Error: ErrorContent{
		Status: StatusInfo{Status: Rejection, Text: []string{text}, Fail: fail},
	}}}
}

// Marshal encodes the message: what was protected or received, or all of it if nothing was.
func (m *Message) Marshal() ([]byte, error) {
	protected := m.protected
	if protected == nil {
		var err error
		if protected, err = m.encode(); err != nil {
			return nil, err
		}
	}
	var b builder
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddBytes(protected)
		if m.Protection != nil {
			b.AddASN1(context(0), func(b *builder) { b.AddASN1BitString(m.Protection) })
		}
		if len(m.ExtraCerts) > 0 {
			b.AddASN1(context(1), func(b *builder) { addRaws(b, m.ExtraCerts) })
		}
	})
	return checked(b.Bytes())
}

// checked holds what is built to the bounds of what is read: it also finds a raw field
// that a caller filled with something else than DER.
func checked(der []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("encoding message: %w", err)
	}
	left := maxElements
	if err := strict(der, maxDepth, &left); err != nil {
		return nil, fmt.Errorf("encoding message: %w", err)
	}
	if len(der) > MaxSize {
		return nil, fmt.Errorf("encoding message: larger than %d bytes", MaxSize)
	}
	return der, nil
}

// encode returns header and body, one after the other.
func (m *Message) encode() ([]byte, error) {
	var b builder
	m.Header.add(&b)
	m.Body.add(&b)
	return checked(b.Bytes())
}

func (h Header) add(b *builder) {
	version, sender, recipient := h.Version, h.Sender, h.Recipient
	if version == 0 {
		version = 2
	}
	if sender == nil {
		sender = NullDN()
	}
	if recipient == nil {
		recipient = NullDN()
	}
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1Int64(int64(version))
		b.AddBytes(sender)
		b.AddBytes(recipient)
		if !h.Time.IsZero() {
			b.AddASN1(context(0), func(b *builder) { b.AddASN1GeneralizedTime(h.Time.UTC().Truncate(time.Second)) })
		}
		if h.Algorithm != nil {
			b.AddASN1(context(1), func(b *builder) { b.AddBytes(h.Algorithm) })
		}
		for i, v := range [][]byte{h.SenderKID, h.RecipKID, h.TransactionID, h.SenderNonce, h.RecipNonce} {
			if v != nil {
				b.AddASN1(context(uint8(2+i)), func(b *builder) { b.AddASN1OctetString(v) })
			}
		}
		if len(h.FreeText) > 0 {
			b.AddASN1(context(7), func(b *builder) { addTexts(b, h.FreeText) })
		}
		if len(h.GeneralInfo) > 0 {
			b.AddASN1(context(8), func(b *builder) { addInfos(b, h.GeneralInfo) })
		}
	})
}

func (body Body) add(b *builder) {
	b.AddASN1(context(uint8(body.Kind)), func(b *builder) {
		switch body.Kind {
		case IR, CR, KUR:
			addList(b, body.Requests, func(b *builder, r CertRequest) { r.add(b) })
		case IP, CP, KUP:
			body.addReply(b)
		case P10CR:
			b.AddBytes(body.PKCS10)
		case RR:
			addList(b, body.Revocations, func(b *builder, r Revocation) { r.add(b) })
		case RP:
			body.addRevoked(b)
		case PKIConf:
			b.AddASN1NULL()
		case GenM, GenP:
			addInfos(b, body.Infos)
		case Error:
			body.Error.add(b)
		case CertConf:
			addList(b, body.Statuses, func(b *builder, c CertStatus) { c.add(b) })
		case PollReq, PollRep:
			addList(b, body.Polls, func(b *builder, p Poll) { p.add(b, body.Kind) })
		default:
			b.SetError(fmt.Errorf("no body of kind %d", body.Kind))
		}
	})
}

func (body Body) addReply(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		if len(body.CAPubs) > 0 {
			b.AddASN1(context(1), func(b *builder) { addRaws(b, body.CAPubs) })
		}
		addList(b, body.Responses, func(b *builder, r CertResponse) {
			b.AddASN1(asn1.SEQUENCE, func(b *builder) {
				b.AddASN1Int64(r.RequestID)
				r.Status.add(b)
				if r.Certificate != nil {
					b.AddASN1(asn1.SEQUENCE, func(b *builder) {
						b.AddASN1(context(0), func(b *builder) { b.AddBytes(r.Certificate) })
					})
				}
			})
		})
	})
}

func (s StatusInfo) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1Int64(int64(s.Status))
		if len(s.Text) > 0 {
			addTexts(b, s.Text)
		}
		if s.Fail != 0 {
			s.Fail.add(b)
		}
	})
}

func (e ErrorContent) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		e.Status.add(b)
		if e.Code != 0 {
			b.AddASN1Int64(e.Code)
		}
		if len(e.Details) > 0 {
			addTexts(b, e.Details)
		}
	})
}

func (c CertStatus) add(b *builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1OctetString(c.Hash)
		b.AddASN1Int64(c.RequestID)
		if c.Status != nil {
			c.Status.add(b)
		}
		if c.HashAlg != nil {
			b.AddASN1(context(0), func(b *builder) { b.AddBytes(c.HashAlg) })
		}
	})
}

func (p Poll) add(b *builder, kind Kind) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		b.AddASN1Int64(p.RequestID)
		if kind == PollReq {
			return
		}
		b.AddASN1Int64(int64(p.After / time.Second))
		if len(p.Reason) > 0 {
			addTexts(b, p.Reason)
		}
	})
}

func addList[T any](b *builder, list []T, add func(*builder, T)) {
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		for _, v := range list {
			add(b, v)
		}
	})
}

func addRaws(b *builder, list [][]byte) {
	addList(b, list, func(b *builder, v []byte) { b.AddBytes(v) })
}

func addTexts(b *builder, list []string) { addList(b, list, addText) }

func addText(b *builder, s string) {
	b.AddASN1(asn1.UTF8String, func(b *builder) { b.AddBytes([]byte(s)) })
}

func addOID(b *builder, id OID) {
	b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *builder) { b.AddBytes([]byte(id)) })
}

func addInfos(b *builder, list []Info) {
	addList(b, list, func(b *builder, i Info) {
		b.AddASN1(asn1.SEQUENCE, func(b *builder) {
			addOID(b, i.Type)
			b.AddBytes(i.Value)
		})
	})
}
