package cmp

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// Proof says that the sender holds the private half of the WireGuard key it asks for.
type Proof struct {
	KeyID string // Welcome.ProofKeyID
	MAC   []byte // 32 bytes, of MakeProof
}

// ProofInput is what the proof binds together.
type ProofInput struct {
	TransactionID []byte   // of the message that carries the proof
	SPKI          []byte   // DER SubjectPublicKeyInfo that is to be certified
	WireGuard     [32]byte // public key
	Reference     string   // the OTP's; empty in KUR, whose signature says who asks
}

// MakeProof computes the proof from the X25519 secret that the WireGuard key shares with
// the gateway's proof key: HMAC-SHA-256 keyed by HKDF-SHA-256 (salt: transaction ID, info:
// "lazaret wireguard proof") over SHA-256(SPKI), WireGuard key and reference.
func MakeProof(shared []byte, in ProofInput) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, shared, in.TransactionID, "lazaret wireguard proof", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving key of the WireGuard proof: %w", err)
	}
	spki := sha256.Sum256(in.SPKI)
	mac := hmac.New(sha256.New, key)
	mac.Write(spki[:])
	mac.Write(in.WireGuard[:])
	mac.Write([]byte(in.Reference))
	return mac.Sum(nil), nil
}

// VerifyProof reports whether mac is the proof, in constant time.
func VerifyProof(shared, mac []byte, in ProofInput) bool {
	want, err := MakeProof(shared, in)
	return err == nil && hmac.Equal(want, mac)
}

// ProofInfo carries p.
func ProofInfo(p Proof) Info {
	var b builder
	b.AddASN1(asn1.SEQUENCE, func(b *builder) {
		addText(b, p.KeyID)
		b.AddASN1OctetString(p.MAC)
	})
	return Info{Type: IDProof, Value: b.BytesOrPanic()}
}

// ReadProof reads the proof; the bool says whether there is one.
func ReadProof(infos []Info) (Proof, bool, error) {
	v, ok := Find(infos, IDProof)
	if !ok {
		return Proof{}, false, nil
	}
	r := newReader(v)
	s := r.enter(asn1.SEQUENCE, "proof")
	p := Proof{KeyID: string(s.bytes(asn1.UTF8String, "key ID of the proof")), MAC: s.octets("proof")}
	s.end("the proof")
	r.end("the proof")
	return p, true, r.err()
}

const wireGuardScheme = "wireguard:"

// WireGuardURI is the subjectAltName URI that carries a WireGuard public key: its scheme
// and the key in base64url without padding.
func WireGuardURI(key [32]byte) string {
	return wireGuardScheme + base64.RawURLEncoding.EncodeToString(key[:])
}

// ParseWireGuardURI reads what WireGuardURI wrote, and nothing else.
func ParseWireGuardURI(uri string) ([32]byte, error) {
	text, ok := strings.CutPrefix(uri, wireGuardScheme)
	if !ok {
		return [32]byte{}, fmt.Errorf("%w: not a %s URI", ErrFormat, wireGuardScheme)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != 32 || strings.ContainsAny(text, "\r\n") {
		return [32]byte{}, fmt.Errorf("%w: a WireGuard URI needs 32 bytes in base64url without padding", ErrFormat)
	}
	return [32]byte(b), nil
}

// FindWireGuardKey returns the key of the one WireGuard URI among uris. None, or more
// than one, is an error.
func FindWireGuardKey(uris []string) ([32]byte, error) {
	var key [32]byte
	found := 0
	for _, u := range uris {
		if !strings.HasPrefix(u, wireGuardScheme) {
			continue
		}
		k, err := ParseWireGuardURI(u)
		if err != nil {
			return [32]byte{}, err
		}
		key, found = k, found+1
	}
	if found != 1 {
		return [32]byte{}, fmt.Errorf("%w: want one WireGuard URI in subjectAltName, found %d", ErrFormat, found)
	}
	return key, nil
}
