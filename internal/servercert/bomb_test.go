package servercert

import (
	"crypto/rand"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

// heavy is a certificate that says that it signed itself, with an RSA key of so many bits and
// an exponent that makes looking at the signature take as long as it can; DER.
func heavy(t testing.TB, bits int) []byte {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		t.Fatal(err)
	}
	n.SetBit(n, bits-1, 1)
	n.SetBit(n, 0, 1)
	der := func(v any) []byte {
		t.Helper()
		out, err := asn1.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	public := der(struct {
		N *big.Int
		E int
	}{n, 1<<31 - 1})
	kind := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}
	signed := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	who := pkix.Name{CommonName: "Heavy Root"}.ToRDNSequence()
	type span struct{ From, To time.Time }
	type key struct {
		Kind pkix.AlgorithmIdentifier
		Key  asn1.BitString
	}
	body := der(struct {
		Serial  *big.Int
		Signed  pkix.AlgorithmIdentifier
		Issuer  pkix.RDNSequence
		Valid   span
		Subject pkix.RDNSequence
		Key     key
	}{big.NewInt(5), signed, who, span{time.Now().Add(-time.Hour).UTC(), time.Now().Add(time.Hour).UTC()}, who, key{kind, asn1.BitString{Bytes: public, BitLength: 8 * len(public)}}})
	mark := make([]byte, (bits+7)/8)
	mark[len(mark)-1] = 7
	return der(struct {
		Body   asn1.RawValue
		Signed pkix.AlgorithmIdentifier
		Mark   asn1.BitString
	}{asn1.RawValue{FullBytes: body}, signed, asn1.BitString{Bytes: mark, BitLength: 8 * len(mark)}})
}

// TestHeavyKeysAreNotUsed: a certificate whose key would keep the gateway busy is refused by
// its size, before a signature is looked at: as what is brought, and as a server's authority.
func TestHeavyKeysAreNotUsed(t *testing.T) {
	l := newLab(t)
	key := newKey(t)
	leaf := l.leaf(t, key.Public(), server(name))
	for bits, want := range map[int]string{8192: "is not signed by", 8193: "its RSA key has 8193 bits, more than 8192", 64000: "its RSA key has 64000 bits"} {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: heavy(t, bits)})
		err := l.Set(t.Context(), l.note, Brought{Chain: append(text(leaf), block...), Key: keyText(t, key)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bits brought: %v; want %q", bits, err, want)
		}
		if b, err := Parse(append(text(leaf), block...), nil); (err == nil) != (bits <= maxRSA) {
			t.Errorf("%d bits parsed: %d certificates, %v", bits, len(b.Chain), err)
		}
		set := settings
		set.Roots = string(block)
		if err := l.SetACME(t.Context(), l.note, set); (err == nil) != (bits <= maxRSA) {
			t.Errorf("an authority of %d bits: %v", bits, err)
		}
		if bits <= maxRSA {
			if err := l.UnsetACME(t.Context(), l.note); err != nil {
				t.Error(err)
			}
		}
	}
}
