package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func sha(b []byte) [32]byte { return sha256.Sum256(b) }

func contextEnding(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// FuzzQuote holds the parser of quotes to go-tpm's, which reads every kind: what ours
// takes, the other must take and read the same.
func FuzzQuote(f *testing.F) {
	f.Add(sampleQuote())
	f.Add(sampleQuote()[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuote(b)
		if err != nil {
			return
		}
		other, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
		if err != nil {
			t.Fatalf("go-tpm refuses %s: %v", hex.EncodeToString(b), err)
		}
		info, err := other.Attested.Quote()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(other.QualifiedSigner.Buffer, q.signer) || !bytes.Equal(other.ExtraData.Buffer, q.extra) || !bytes.Equal(info.PCRDigest.Buffer, q.digest) ||
			other.ClockInfo.Clock != q.clock.Millis || other.ClockInfo.ResetCount != q.clock.Resets || other.ClockInfo.RestartCount != q.clock.Restarts ||
			len(info.PCRSelect.PCRSelections) != 1 || info.PCRSelect.PCRSelections[0].Hash != tpm2.TPMAlgSHA256 {
			t.Fatalf("read otherwise: %+v and %+v", q, other)
		}
	})
}

// sampleQuote is a quote as a TPM writes it.
func sampleQuote() []byte {
	return tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote, QualifiedSigner: tpm2.TPM2BName{Buffer: bytes.Repeat([]byte{1}, 34)},
		ExtraData: tpm2.TPM2BData{Buffer: bytes.Repeat([]byte{2}, 32)}, ClockInfo: tpm2.TPMSClockInfo{Clock: 3, ResetCount: 4, RestartCount: 5, Safe: true}, FirmwareVersion: 6,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs[:]...)}}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: bytes.Repeat([]byte{7}, 32)},
		}),
	})
}

// FuzzHello: whatever a device says first, the gateway answers, asks back or refuses; a
// credential is only made for the two kinds of key.
func FuzzHello(f *testing.F) {
	key := akTemplate()
	key.Unique = point(make([]byte, 32), make([]byte, 32))
	for _, h := range []Hello{{Version: 1, AK: tpm2.Marshal(key)}, {Version: 1, AK: tpm2.Marshal(key), EK: tpm2.Marshal(tpm2.ECCEKTemplate)}, {Version: 1, AK: tpm2.Marshal(key), EK: tpm2.Marshal(tpm2.RSAEKTemplate), Certificate: []byte{0x30, 0}}} {
		text, err := json.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		g := newGateway(Trust{FirstUse: true})
		out, err := g.Challenge(t.Context(), "d1", text, channel)
		if err != nil {
			return
		}
		var c Challenge
		if err := json.Unmarshal(out, &c); err != nil {
			t.Fatal(err)
		}
		if _, open := g.pending["d1"]; open != (len(c.Nonce) == nonceSize) || open && len(c.Credential) == 0 {
			t.Fatalf("answered %+v", c)
		}
	})
}

// FuzzEvidence: no evidence that a TPM did not sign is taken.
func FuzzEvidence(f *testing.F) {
	text, err := json.Marshal(Evidence{Version: 1, Quote: sampleQuote(), Signature: make([]byte, 64)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"v":1,"pcrs":["","","",""]}`))
	key := akTemplate()
	key.Unique = point(p256x, p256y)
	public := tpm2.Marshal(key)
	f.Fuzz(func(t *testing.T, text []byte) {
		k, err := parseAK(public)
		if err != nil {
			t.Fatal(err)
		}
		g := newGateway(Trust{FirstUse: true})
		g.states["d1"] = State{Version: 1, AK: public}
		if err := g.wait("d1", pending{hello: Hello{AK: public}, key: k, nonce: make([]byte, nonceSize), until: g.now}); err != nil {
			t.Fatal(err)
		}
		if ok, note := judged(g.Check(t.Context(), "d1", text, nil)); ok {
			t.Fatal(note)
		}
	})
}

// The base point of P-256 (FIPS 186-4, D.1.2.3), a public key as good as any.
var p256x, p256y = unhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"), unhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}
