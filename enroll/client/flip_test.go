package client

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"lazaret/enroll/cmp"
)

// captured is an exchange as it went, with the check that the device made of the answer.
type captured struct {
	request *cmp.Message
	answer  []byte
}

// record runs act against a gateway and returns the answer to each kind of request.
func record(g *gateway, act func()) map[cmp.Kind][]byte {
	out := map[cmp.Kind][]byte{}
	g.tamper = func(kind cmp.Kind, der []byte) []byte {
		out[kind] = der
		return der
	}
	act()
	g.tamper = nil
	return out
}

// protectedEnd is where a message's unprotected certificates begin, or its length.
func protectedEnd(t *testing.T, der []byte) int {
	in := cryptobyte.String(der)
	if !in.ReadASN1(&in, asn1.SEQUENCE) {
		t.Fatal("not a message")
	}
	for range 3 { // header, body, protection
		var skip cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1(&skip, &tag) {
			t.Fatal("not a message")
		}
	}
	return len(der) - len(in)
}

// flips gives check the answer with two bits of every byte flipped, one at a time. None
// may pass but in extraCerts, and there the result is to be what it was.
func flips(t *testing.T, c captured, check func(request, answer *cmp.Message) error) {
	t.Helper()
	good, err := cmp.Parse(c.answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(c.request, good); err != nil {
		t.Fatalf("the true answer: %v", err)
	}
	end := protectedEnd(t, c.answer)
	for i := range c.answer {
		for _, bit := range []byte{0x01, 0x40} {
			bad := slices.Clone(c.answer)
			bad[i] ^= bit
			m, err := cmp.Parse(bad)
			if err != nil {
				continue
			}
			if check(c.request, m) == nil && i < end {
				t.Errorf("byte %d of %d (protected up to %d), bit %#x: accepted", i, len(bad), end, bit)
			}
		}
	}
	for n := range c.answer {
		if m, err := cmp.Parse(c.answer[:n]); err == nil && check(c.request, m) == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
}

// TestFlippedAnswers flips every byte of messages 2, 4 and 6.
func TestFlippedAnswers(t *testing.T) {
	g, store := newGateway(t), &memory{}
	var e *Enrollment
	answers := record(g, func() {
		var err error
		if e, err = g.client(t).Begin(t.Context(), g.code); err != nil {
			t.Fatal(err)
		}
	})
	defer e.Close()
	request := replay(t, answers[cmp.GenM])
	t.Run("welcome", func(t *testing.T) {
		flips(t, captured{request, answers[cmp.GenM]}, e.checkWelcome)
	})
	keys, err := store.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answers = record(g, func() {
		if _, err := e.Request(t.Context(), keys); err != nil {
			t.Fatal(err)
		}
	})
	certificate := e.result.Certificate
	t.Run("certificate", func(t *testing.T) {
		flips(t, captured{e.requested, answers[cmp.P10CR]}, func(request, answer *cmp.Message) error {
			err := e.checkIssued(t.Context(), keys, request, answer)
			if err == nil && (!e.result.Certificate.Equal(certificate) || !e.result.Chain[0].Equal(g.issuing)) {
				t.Error("another certificate or issuer accepted")
			}
			return err
		})
	})
	answers = record(g, func() {
		if err := e.Confirm(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	request = replay(t, answers[cmp.CertConf])
	t.Run("confirmation", func(t *testing.T) {
		flips(t, captured{request, answers[cmp.CertConf]}, func(request, answer *cmp.Message) error {
			return checkAnswer(request, answer, cmp.PKIConf, e.checkMAC)
		})
	})
}

// replay makes up the request that an answer belongs to: its IDs are what is checked.
func replay(t *testing.T, answer []byte) *cmp.Message {
	m, err := cmp.Parse(answer)
	if err != nil {
		t.Fatal(err)
	}
	return &cmp.Message{Header: cmp.Header{TransactionID: m.Header.TransactionID, SenderNonce: m.Header.RecipNonce}}
}

// TestFlippedRenewal flips every byte of kup and its pkiConf, which are signed.
func TestFlippedRenewal(t *testing.T) {
	g, current, key := enrolled(t)
	store := &memory{}
	answers := record(g, func() {
		if _, err := g.client(t).Renew(t.Context(), current, key, store); err != nil {
			t.Fatal(err)
		}
	})
	r := &renewal{current: current, key: key, keys: *store.keys, wire: &wire{client: g.client(t)}}
	t.Run("certificate", func(t *testing.T) {
		flips(t, captured{replay(t, answers[cmp.KUR]), answers[cmp.KUR]}, func(request, answer *cmp.Message) error {
			err := r.check(t.Context(), request, answer)
			if err == nil && !r.result.Certificate.Equal(store.saved.Certificate) {
				t.Error("another certificate accepted")
			}
			return err
		})
	})
	t.Run("confirmation", func(t *testing.T) {
		flips(t, captured{replay(t, answers[cmp.CertConf]), answers[cmp.CertConf]}, func(request, answer *cmp.Message) error {
			return checkAnswer(request, answer, cmp.PKIConf, r.signed)
		})
	})
}

// TestFlippedOnTheWire flips a byte here and there of the answers as they travel.
func TestFlippedOnTheWire(t *testing.T) {
	g := newGateway(t)
	for _, kind := range []cmp.Kind{cmp.GenM, cmp.P10CR} {
		for at := 0; at < 40; at++ {
			store, touched := &memory{}, false
			g.tamper = func(k cmp.Kind, der []byte) []byte {
				if k != kind {
					return der
				}
				end := protectedEnd(t, der)
				bad := slices.Clone(der)
				bad[at*(end-1)/39] ^= 0x10
				touched = true
				return bad
			}
			if _, err := g.client(t).Enroll(t.Context(), g.code, store); err == nil || store.saved != nil || !touched {
				t.Errorf("answer to %d, part %d of 39: %v", kind, at, err)
			}
		}
	}
	g.tamper = nil
	if _, err := g.client(t).Enroll(t.Context(), g.code, &memory{}); err != nil {
		t.Errorf("the code is no longer usable: %v", err)
	}
}

// TestSwappedSigner: a signed answer with another signer's certificate in front, which
// nothing protects, is refused.
func TestSwappedSigner(t *testing.T) {
	g, current, key := enrolled(t)
	for name, first := range map[string][]byte{
		"issuing CA": g.issuing.Raw, "root": g.root.Raw, "the device itself": current.Certificate.Raw,
	} {
		g.tamper = func(_ cmp.Kind, der []byte) []byte {
			m, err := cmp.Parse(der)
			if err != nil {
				t.Error(err)
				return der
			}
			m.ExtraCerts = [][]byte{first, g.responder.Raw}
			out, err := m.Marshal()
			if err != nil || bytes.Equal(out, der) {
				t.Error("nothing swapped", err)
			}
			return out
		}
		if _, err := g.client(t).Renew(t.Context(), current, key, &memory{}); !errors.Is(err, ErrInBetween) {
			t.Errorf("%s in front: %v", name, err)
		}
	}
	if sum := sha256.Sum256(current.Root.Raw); sum != sha256.Sum256(g.root.Raw) {
		t.Error("root changed meanwhile")
	}
}
