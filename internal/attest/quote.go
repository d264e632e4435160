package attest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
)

// Constants of TPM 2.0 Library, part 2.
const (
	generated    = 0xff544347 // TPM_GENERATED_VALUE
	attestQuote  = 0x8018     // TPM_ST_ATTEST_QUOTE
	algSHA256    = 0x000b
	selectedPCRs = 1<<0 | 1<<2 | 1<<4 | 1<<7 // of pcrs, in the first byte of a selection
)

// Clock is the TPM's own time and the counts that go with it.
type Clock struct {
	Millis   uint64 `json:"clock"` // while powered, since it was last cleared
	Resets   uint32 `json:"resets"`
	Restarts uint32 `json:"restarts"` // since the last reset
}

// quote is a TPMS_ATTEST of a quote, as far as it matters.
type quote struct {
	signer   []byte // qualified name
	extra    []byte
	clock    Clock
	digest   []byte // of the PCRs
	firmware uint64
}

var errQuote = errors.New("the quote is of another form")

// parseQuote reads a TPMS_ATTEST of a quote over exactly the PCRs of this package (TPM 2.0
// Library, part 2, section 10.12.12).
func parseQuote(b []byte) (quote, error) {
	if len(b) > maxQuote {
		return quote{}, errQuote
	}
	var q quote
	s := cryptobyte.String(b)
	var magic uint32
	var kind uint16
	if !s.ReadUint32(&magic) || !s.ReadUint16(&kind) || magic != generated || kind != attestQuote {
		return quote{}, fmt.Errorf("%w: no TPM made it as a quote", errQuote)
	}
	var signer, extra, digest cryptobyte.String
	var safe uint8
	var banks uint32
	var bank uint16
	var selection cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&signer) || !s.ReadUint16LengthPrefixed(&extra) ||
		!s.ReadUint64(&q.clock.Millis) || !s.ReadUint32(&q.clock.Resets) || !s.ReadUint32(&q.clock.Restarts) || !s.ReadUint8(&safe) ||
		!s.ReadUint64(&q.firmware) || !s.ReadUint32(&banks) || banks != 1 || !s.ReadUint16(&bank) || !s.ReadUint8LengthPrefixed(&selection) ||
		!s.ReadUint16LengthPrefixed(&digest) || !s.Empty() || safe > 1 {
		return quote{}, errQuote
	}
	if bank != algSHA256 || len(selection) < 1 || selection[0] != selectedPCRs {
		return quote{}, fmt.Errorf("%w: it is of other PCRs", errQuote)
	}
	for _, more := range selection[1:] {
		if more != 0 {
			return quote{}, fmt.Errorf("%w: it is of other PCRs", errQuote)
		}
	}
	q.signer, q.extra, q.digest = signer, extra, digest
	return q, nil
}

// verify checks that the AK's TPM made the evidence's quote for this qualifying data, over
// the evidence's PCRs.
func (a ak) verify(e Evidence, extra []byte) (quote, error) {
	if len(e.Signature) != 64 {
		return quote{}, errors.New("the signature is of another form")
	}
	sum := sha256.Sum256(e.Quote)
	r, s := new(big.Int).SetBytes(e.Signature[:32]), new(big.Int).SetBytes(e.Signature[32:])
	if !ecdsa.Verify(a.key, sum[:], r, s) {
		return quote{}, errors.New("the quote is not signed by the device's attestation key")
	}
	q, err := parseQuote(e.Quote)
	if err != nil {
		return quote{}, err
	}
	if subtle.ConstantTimeCompare(q.signer, a.qualified()) != 1 {
		return quote{}, errors.New("the attestation key is not in the endorsement hierarchy")
	}
	if subtle.ConstantTimeCompare(q.extra, extra) != 1 {
		return quote{}, errors.New("the quote is not for this nonce, channel, device and report")
	}
	h := sha256.New()
	for _, v := range e.PCRs {
		h.Write(v[:])
	}
	if subtle.ConstantTimeCompare(q.digest, h.Sum(nil)) != 1 {
		return quote{}, errors.New("the PCRs are not those of the quote")
	}
	return q, nil
}

// follows says whether now can come after the clock of an earlier quote of the same TPM.
// Within one power cycle its time only grows; over a reset it may fall behind by what was
// not yet saved (part 1, section 36.3), so there the count of resets alone speaks.
func (now Clock) follows(last Clock) bool {
	switch {
	case now.Resets != last.Resets:
		return now.Resets > last.Resets
	case now.Restarts != last.Restarts:
		return now.Restarts > last.Restarts
	default:
		return now.Millis >= last.Millis
	}
}
