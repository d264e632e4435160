package cmp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"math/big"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// TestMACKnownAnswer: the key is SHA-256 applied 100 times to secret and salt, and the MACs
// are of 30 03 02 01 07, all computed with openssl dgst in a shell loop.
func TestMACKnownAnswer(t *testing.T) {
	p := MACParams{Salt: []byte{0, 1, 2, 3, 4, 5, 6, 7}, OWF: crypto.SHA256, Iterations: 100}
	for hash, want := range map[crypto.Hash]string{
		crypto.SHA1:   "dc55e0e441c5c820ee7557035323ac7a8fef5cee",
		crypto.SHA256: "0323fd8ed0630bdba671b7ca5cbda07bf4ac20b8eb825dd10d257e671708ba3c",
		crypto.SHA384: "7f4f36645f456cb295d5fef265d694b2574e58e3259a104ff5d428a193ee02a9b4b6ead4de6e3a92052cfe65407a8e33",
	} {
		p.MAC = hash
		if got := hex.EncodeToString(p.mac([]byte("SECRET"), []byte{0x30, 3, 2, 1, 7})); got != want {
			t.Errorf("%v: got %s, want %s", hash, got, want)
		}
	}
}

// forged is a message whose MAC parameters ProtectMAC would refuse.
func forged(t *testing.T, p MACParams) *Message {
	t.Helper()
	m := &Message{Header: NewHeader(noon), Body: Body{Kind: GenM, Infos: []Info{CACertsInfo()}}}
	m.Header.Algorithm = p.identifier()
	m.Protection = make([]byte, 32)
	der, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, der)
}

// TestMACBounds: what costs the receiver work, or is weak, is refused before anything is
// computed; the largest count would otherwise take longer than any test may.
func TestMACBounds(t *testing.T) {
	for _, c := range []struct {
		iterations, salt int
		want             error
	}{
		{100, 8, ErrProtection}, {10_000, 128, ErrProtection},
		{99, 16, ErrAlgorithm}, {0, 16, ErrAlgorithm}, {-1, 16, ErrAlgorithm}, {10_001, 16, ErrAlgorithm},
		{1 << 62, 16, ErrAlgorithm}, {500, 7, ErrAlgorithm}, {500, 0, ErrAlgorithm}, {500, 129, ErrAlgorithm},
	} {
		p := MACParams{Salt: make([]byte, c.salt), OWF: crypto.SHA256, Iterations: c.iterations, MAC: crypto.SHA256}
		if err := forged(t, p).VerifyMAC([]byte("x"), Policy{}); !errors.Is(err, c.want) {
			t.Errorf("%d iterations, salt of %d: got %v, want %v", c.iterations, c.salt, err, c.want)
		}
		m := &Message{Header: NewHeader(noon), Body: Body{Kind: PKIConf}}
		if err := m.ProtectMAC([]byte("x"), p); errors.Is(err, ErrAlgorithm) != (c.want == ErrAlgorithm) {
			t.Errorf("protecting with %d iterations, salt of %d: %v", c.iterations, c.salt, err)
		}
	}
	for _, p := range []MACParams{{OWF: crypto.SHA1, MAC: crypto.SHA256}, {OWF: crypto.MD5, MAC: crypto.SHA256}, {OWF: crypto.SHA256, MAC: crypto.MD5}, {}} {
		p.Salt, p.Iterations = make([]byte, 16), 500
		if err := p.allowed(Policy{AllowSHA1: true}); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("one-way function %d with MAC %d: %v", p.OWF, p.MAC, err)
		}
	}
}

func TestMACRoundTrip(t *testing.T) {
	for _, p := range []MACParams{
		NewMACParams(),
		{OWF: crypto.SHA384, Iterations: 100, MAC: crypto.SHA384, Salt: make([]byte, 8)},
		{OWF: crypto.SHA512, Iterations: 1000, MAC: crypto.SHA512, Salt: make([]byte, 128)},
		{OWF: crypto.SHA256, Iterations: 500, MAC: crypto.SHA1, Salt: make([]byte, 16)},
	} {
		m := &Message{Header: NewHeader(noon), Body: Body{Kind: PKIConf}}
		if err := m.ProtectMAC([]byte("secret"), p); err != nil {
			t.Fatal(err)
		}
		der, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got := mustParse(t, der)
		if err := got.VerifyMAC([]byte("secret"), Policy{AllowSHA1: true}); err != nil {
			t.Errorf("%+v: %v", p, err)
		}
		if !got.Header.Time.Equal(noon) || !bytes.Equal(got.Header.TransactionID, m.Header.TransactionID) {
			t.Errorf("header came back as %+v", got.Header)
		}
	}
	if a, b := NewMACParams(), NewMACParams(); bytes.Equal(a.Salt, b.Salt) || bytes.Equal(a.Fresh().Salt, a.Salt) {
		t.Error("a salt came twice")
	}
}

func TestUnprotected(t *testing.T) {
	m := &Message{Header: NewHeader(noon), Body: Body{Kind: PKIConf}}
	der, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	m = mustParse(t, der)
	if err := m.VerifyMAC(nil, Policy{}); !errors.Is(err, ErrUnprotected) {
		t.Errorf("VerifyMAC: %v", err)
	}
	if err := m.VerifySignature(ed25519.PublicKey(make([]byte, 32))); !errors.Is(err, ErrUnprotected) {
		t.Errorf("VerifySignature: %v", err)
	}
	if m.Signed() {
		t.Error("counts as signed")
	}
}

func TestSignatureKeys(t *testing.T) {
	p256, p384, p521 := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P521())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	weak := &rsa.PublicKey{N: new(big.Int).Rsh(rsa2048.N, 1024), E: 3}
	good := map[string]crypto.Signer{"P-256": p256, "P-384": p384, "Ed25519": ed, "RSA": rsa2048}
	for name, key := range good {
		m := &Message{Header: NewHeader(noon), Body: Body{Kind: PKIConf}}
		if err := m.ProtectSignature(key); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		der, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got := mustParse(t, der)
		for other, k := range good {
			if err := got.VerifySignature(k.Public()); (err == nil) != (other == name) {
				t.Errorf("signature by %s checked with %s: %v", name, other, err)
			}
		}
		if err := got.VerifySignature(weak); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("RSA of 1024 bits: %v", err)
		}
		r, err := NewCertRequest(0, Template{Subject: CommonName("x")[2:]}, nil, key)
		if err != nil || r.VerifyPOP() != nil {
			t.Errorf("%s: request proves nothing: %v", name, err)
		}
	}
	m := &Message{Header: NewHeader(noon), Body: Body{Kind: PKIConf}}
	if err := m.ProtectSignature(p521); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("P-521: %v", err)
	}
}

func ecKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestPOPKinds: no proof, and proofs of other kinds, prove nothing.
func TestPOPKinds(t *testing.T) {
	r, err := NewCertRequest(0, Template{}, nil, ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []proof{noProof, otherProof} {
		r.proof = p
		if err := r.VerifyPOP(); !errors.Is(err, ErrPOP) {
			t.Errorf("proof of kind %d: %v", p, err)
		}
	}
	r.proof = signed
	r.raw = append(bytes.Clone(r.raw), 0)
	if err := r.VerifyPOP(); !errors.Is(err, ErrPOP) {
		t.Errorf("another request: %v", err)
	}
	r.Template.PublicKey = []byte{0x30, 0}
	if err := r.VerifyPOP(); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("no key: %v", err)
	}
}

// TestRefusalUniform: whatever was wrong, the bytes follow from the echoed IDs alone.
func TestRefusalUniform(t *testing.T) {
	h := NewHeader(noon)
	h.SenderKID, h.Sender, h.Version = []byte("7K2M9QXA"), CommonName("me"), 3
	plain := Header{TransactionID: h.TransactionID, SenderNonce: h.SenderNonce}
	if !bytes.Equal(Refusal(h), Refusal(plain)) {
		t.Error("the answer shows more of the request than its IDs")
	}
	m := mustParse(t, Refusal(h))
	if m.Body.Kind != Error || m.Body.Error.Status.Status != Rejection || m.Body.Error.Status.Fail != BadMessageCheck ||
		m.Protection != nil || !bytes.Equal(m.Header.TransactionID, h.TransactionID) || !bytes.Equal(m.Header.RecipNonce, h.SenderNonce) {
		t.Errorf("refusal is %+v", m)
	}
	if Refusal(Header{}) == nil {
		t.Error("no refusal for a message without IDs")
	}
}

// TestFailureBits holds the numbers to RFC 9810, section 5.2.3, as DER shows them.
func TestFailureBits(t *testing.T) {
	for f, want := range map[Failure]string{
		BadAlg: "03020780", BadMessageCheck: "03020640", BadPOP: "0303060040", WrongIntegrity: "0303030008",
		BadCertTemplate: "030404000010", SignerNotTrusted: "030403000008", DuplicateCertReq: "03050500000020",
		BadMessageCheck | WrongIntegrity: "0303034008",
	} {
		var b builder
		f.add(&b)
		if got := hex.EncodeToString(b.BytesOrPanic()); got != want {
			t.Errorf("%s is %s, want %s", f, got, want)
		}
		if got := newReader(b.BytesOrPanic()).failure(); got != f {
			t.Errorf("%s reads as %s", f, got)
		}
	}
}
