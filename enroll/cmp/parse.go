package cmp

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// Parse reads one message of at most MaxSize bytes, strictly DER. Errors are ErrFormat.
// A parsed message is neither authentic nor sensible yet.
func Parse(der []byte) (*Message, error) {
	if len(der) > MaxSize {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrFormat, MaxSize)
	}
	der = bytes.Clone(der)
	left := maxElements
	if err := strict(der, maxDepth, &left); err != nil {
		return nil, err
	}
	r := newReader(der)
	m := r.message()
	r.end("the message")
	if err := r.err(); err != nil {
		return nil, err
	}
	return m, nil
}

func (r *reader) message() *Message {
	m := &Message{}
	r = r.enter(asn1.SEQUENCE, "message")
	whole := r.in
	header := r.enter(asn1.SEQUENCE, "header")
	m.Header = header.header()
	kind := r.element("body")
	m.protected = whole[:len(whole)-len(r.in)]
	r.sub(kind).body(&m.Body)
	if p, ok := r.optional(context(0), "protection"); ok {
		m.Protection = p.bits("protection")
		p.end("protection")
	}
	if c, ok := r.optional(context(1), "extraCerts"); ok {
		m.ExtraCerts = c.certificates(asn1.SEQUENCE, "extraCerts")
		c.end("extraCerts")
	}
	r.end("the message's last field")
	return m
}

func (r *reader) header() Header {
	var h Header
	version := r.integer("pvno")
	if version != 2 && version != 3 {
		r.fail("pvno is neither 2 nor 3")
	}
	h.Version = int(version)
	h.Sender = r.name("sender")
	h.Recipient = r.name("recipient")
	explicit := func(n uint8, what string, read func(*reader)) {
		if f, ok := r.optional(context(n), what); ok {
			read(f)
			f.end(what)
		}
	}
	octets := func(to *[]byte, what string) func(*reader) {
		return func(f *reader) {
			if *to = f.octets(what); len(*to) > 128 {
				f.fail(what + " is longer than 128 bytes")
			}
		}
	}
	explicit(0, "messageTime", func(f *reader) { h.Time = f.time("messageTime") })
	explicit(1, "protectionAlg", func(f *reader) { h.Algorithm = f.elementOf(asn1.SEQUENCE, "protectionAlg") })
	explicit(2, "senderKID", octets(&h.SenderKID, "senderKID"))
	explicit(3, "recipKID", octets(&h.RecipKID, "recipKID"))
	explicit(4, "transactionID", octets(&h.TransactionID, "transactionID"))
	explicit(5, "senderNonce", octets(&h.SenderNonce, "senderNonce"))
	explicit(6, "recipNonce", octets(&h.RecipNonce, "recipNonce"))
	explicit(7, "freeText", func(f *reader) { h.FreeText = f.texts(asn1.SEQUENCE, "freeText") })
	explicit(8, "generalInfo", func(f *reader) { h.GeneralInfo = f.infos("generalInfo") })
	r.end("the header")
	return h
}

// body reads PKIBody into b, whose Kind is then known.
func (r *reader) body(b *Body) {
	if !r.ok() {
		return
	}
	tag := asn1.Tag(r.in[0])
	b.Kind = Kind(tag &^ 0xe0)
	if tag != context(uint8(b.Kind)) {
		r.fail("body")
		return
	}
	r = r.enter(tag, "body")
	switch b.Kind {
	case IR, CR, KUR:
		r.list(asn1.SEQUENCE, "requests", func(l *reader) { b.Requests = append(b.Requests, l.request()) })
	case IP, CP, KUP:
		r.reply(b)
	case P10CR:
		b.PKCS10 = r.elementOf(asn1.SEQUENCE, "certification request")
	case RR:
		r.list(asn1.SEQUENCE, "revocations", func(l *reader) { b.Revocations = append(b.Revocations, l.revocation()) })
	case RP:
		r.revoked(b)
	case PKIConf:
		r.enter(asn1.NULL, "pkiConf")
	case GenM, GenP:
		b.Infos = r.infosOrNone("general message")
	case Error:
		b.Error = r.errorContent()
	case CertConf:
		r.listOrNone(asn1.SEQUENCE, "certConf", func(l *reader) { b.Statuses = append(b.Statuses, l.certStatus()) })
	case PollReq, PollRep:
		r.listOrNone(asn1.SEQUENCE, "polls", func(l *reader) { b.Polls = append(b.Polls, l.poll(b.Kind)) })
	default:
		r.fail(fmt.Sprintf("a body of kind %d", b.Kind))
	}
	r.end("the body")
}

func (r *reader) certificates(tag asn1.Tag, what string) [][]byte {
	var out [][]byte
	r.list(tag, what, func(l *reader) { out = append(out, l.elementOf(asn1.SEQUENCE, what)) })
	return out
}

func (r *reader) infos(what string) []Info {
	out := r.infosOrNone(what)
	if len(out) == 0 {
		r.fail("an empty " + what)
	}
	return out
}

// infosOrNone reads a list of InfoTypeAndValue in which no type stands twice.
func (r *reader) infosOrNone(what string) []Info {
	var out []Info
	seen := map[OID]bool{}
	r.listOrNone(asn1.SEQUENCE, what, func(l *reader) {
		l = l.enter(asn1.SEQUENCE, what)
		i := Info{Type: l.oid("type in " + what)}
		if !l.in.Empty() {
			i.Value = l.element("value in " + what)
		}
		l.end("a value in " + what)
		if seen[i.Type] {
			l.fail("a type twice in " + what)
		}
		seen[i.Type] = true
		out = append(out, i)
	})
	return out
}

// reply reads CertRepMessage.
func (r *reader) reply(b *Body) {
	r = r.enter(asn1.SEQUENCE, "reply")
	if c, ok := r.optional(context(1), "caPubs"); ok {
		b.CAPubs = c.certificates(asn1.SEQUENCE, "caPubs")
		c.end("caPubs")
	}
	r.listOrNone(asn1.SEQUENCE, "responses", func(l *reader) { b.Responses = append(b.Responses, l.response()) })
	r.end("the responses")
}

func (r *reader) response() CertResponse {
	r = r.enter(asn1.SEQUENCE, "response")
	c := CertResponse{RequestID: r.integer("certReqId"), Status: r.statusInfo()}
	if pair, ok := r.optional(asn1.SEQUENCE, "certifiedKeyPair"); ok {
		cert := pair.enter(context(0), "certificate in the clear")
		c.Certificate = cert.elementOf(asn1.SEQUENCE, "certificate")
		cert.end("the certificate")
		pair.end("the certificate: keys made by the CA are not supported")
	}
	if _, ok := r.optional(asn1.OCTET_STRING, "rspInfo"); ok {
		r.end("rspInfo")
	}
	r.end("a response")
	return c
}

func (r *reader) statusInfo() StatusInfo {
	r = r.enter(asn1.SEQUENCE, "status")
	v := r.integer("status")
	if v < int64(Accepted) || v > int64(KeyUpdateWarning) {
		r.fail("an unknown status")
	}
	s := StatusInfo{Status: Status(v)}
	if r.in.PeekASN1Tag(asn1.SEQUENCE) {
		s.Text = r.texts(asn1.SEQUENCE, "statusString")
	}
	if r.in.PeekASN1Tag(asn1.BIT_STRING) {
		s.Fail = r.failure()
	}
	r.end("a status")
	return s
}

func (r *reader) errorContent() ErrorContent {
	r = r.enter(asn1.SEQUENCE, "error")
	e := ErrorContent{Status: r.statusInfo()}
	if r.in.PeekASN1Tag(asn1.INTEGER) {
		e.Code = r.integer("errorCode")
	}
	if r.in.PeekASN1Tag(asn1.SEQUENCE) {
		e.Details = r.texts(asn1.SEQUENCE, "errorDetails")
	}
	r.end("the error")
	return e
}

func (r *reader) certStatus() CertStatus {
	r = r.enter(asn1.SEQUENCE, "certStatus")
	c := CertStatus{Hash: r.octets("certHash"), RequestID: r.integer("certReqId")}
	if r.in.PeekASN1Tag(asn1.SEQUENCE) {
		s := r.statusInfo()
		c.Status = &s
	}
	if a, ok := r.optional(context(0), "hashAlg"); ok {
		c.HashAlg = a.elementOf(asn1.SEQUENCE, "hashAlg")
		a.end("hashAlg")
	}
	r.end("certStatus")
	return c
}

func (r *reader) poll(kind Kind) Poll {
	r = r.enter(asn1.SEQUENCE, "poll")
	p := Poll{RequestID: r.integer("certReqId")}
	if kind == PollRep {
		s := r.integer("checkAfter")
		if s < 0 || s > int64(365*24*time.Hour/time.Second) {
			r.fail("checkAfter is out of reason")
		}
		p.After = time.Duration(s) * time.Second
		if r.in.PeekASN1Tag(asn1.SEQUENCE) {
			p.Reason = r.texts(asn1.SEQUENCE, "reason")
		}
	}
	r.end("a poll")
	return p
}
