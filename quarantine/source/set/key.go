package set

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Keys are an issuer's public keys.
type Keys struct{ all []jose.JSONWebKey }

const (
	maxKeys = 100  // of one set
	minRSA  = 2048 // bits
	maxRSA  = 8192
)

// ParseKeys reads a JSON Web Key Set (RFC 7517). Keys that cannot verify are left out:
// symmetric ones, those for encryption, those of kinds that are not known here. A private
// key in it, and a set without any key that is left, are errors.
func ParseKeys(jwks []byte) (Keys, error) {
	var form struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &form); err != nil {
		return Keys{}, fmt.Errorf("reading a key set: %w", err)
	}
	if len(form.Keys) > maxKeys {
		return Keys{}, fmt.Errorf("reading a key set: it has %d keys, more than %d", len(form.Keys), maxKeys)
	}
	var out Keys
	for _, raw := range form.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil {
			continue // RFC 7517 section 5: what is not understood is ignored
		}
		if _, symmetric := k.Key.([]byte); !symmetric && !k.IsPublic() {
			return Keys{}, errors.New("reading a key set: it holds a private key, which is everybody's now")
		}
		if k.KeyID != "" && len(fits(k)) > 0 {
			out.all = append(out.all, k)
		}
	}
	if len(out.all) == 0 {
		return Keys{}, errors.New("reading a key set: no key in it has a kid and can verify a token")
	}
	return out, nil
}

// Has reports whether there is a key of that kid.
func (k Keys) Has(kid string) bool {
	for _, one := range k.all {
		if one.KeyID == kid {
			return true
		}
	}
	return false
}

// Len is how many keys there are.
func (k Keys) Len() int { return len(k.all) }

// fits are the algorithms that a public key may be used with here.
func fits(k jose.JSONWebKey) []jose.SignatureAlgorithm {
	if k.Use != "" && k.Use != "sig" {
		return nil
	}
	var out []jose.SignatureAlgorithm
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits >= minRSA && bits <= maxRSA {
			out = []jose.SignatureAlgorithm{jose.RS256, jose.PS256}
		}
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			out = []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			out = []jose.SignatureAlgorithm{jose.ES384}
		}
	case ed25519.PublicKey:
		out = []jose.SignatureAlgorithm{jose.EdDSA}
	}
	if k.Algorithm == "" {
		return out
	}
	for _, alg := range out {
		if string(alg) == k.Algorithm {
			return []jose.SignatureAlgorithm{alg}
		}
	}
	return nil
}

// Key signs tokens.
type Key struct {
	ID        string // kid: RFC 7638 thumbprint
	private   crypto.Signer
	algorithm jose.SignatureAlgorithm
}

// GenerateKey makes a key on P-256, for ES256.
func GenerateKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return NewKey(private)
}

// NewKey signs with an *ecdsa.PrivateKey on P-256 or P-384 (ES256, ES384), an *rsa.PrivateKey
// of at least 2048 bits (RS256) or an ed25519.PrivateKey (EdDSA).
func NewKey(private crypto.Signer) (*Key, error) {
	switch private.(type) {
	case *ecdsa.PrivateKey, *rsa.PrivateKey, ed25519.PrivateKey:
	default:
		return nil, fmt.Errorf("taking a key: %T cannot sign tokens", private)
	}
	public := jose.JSONWebKey{Key: private.Public()}
	fit := fits(public)
	if len(fit) == 0 {
		return nil, fmt.Errorf("taking a key: %T has a size or curve that is not used", private)
	}
	thumb, err := public.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("taking a key: %w", err)
	}
	return &Key{base64.RawURLEncoding.EncodeToString(thumb), private, fit[0]}, nil
}

// PKCS8 is the private key, to keep where nobody reads it.
func (k *Key) PKCS8() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k.private) }

// ParseKey reads what PKCS8 wrote.
func ParseKey(pkcs8 []byte) (*Key, error) {
	private, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("reading a key: %w", err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("reading a key: %T cannot sign tokens", private)
	}
	return NewKey(signer)
}

// JWKS is the public half of keys as a JSON Web Key Set, for a jwks_uri.
func JWKS(keys ...*Key) ([]byte, error) {
	out := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.ID, Algorithm: string(k.algorithm), Use: "sig"})
	}
	return json.Marshal(out)
}

// Build is the payload of a token.
func Build(t Token) ([]byte, error) {
	if t.ID == "" || t.Issuer == "" || len(t.Audience) == 0 || t.IssuedAt.IsZero() || len(t.Events) == 0 {
		return nil, errors.New("building a token: jti, iss, aud, iat and an event are needed")
	}
	events := map[string]any{}
	for _, e := range t.Events {
		claims := map[string]any{}
		for name, v := range e.Claims {
			claims[name] = v
		}
		if e.Subject != nil {
			claims["subject"] = e.Subject
		}
		events[e.Type] = claims
	}
	m := map[string]any{"jti": t.ID, "iss": t.Issuer, "iat": t.IssuedAt.Unix(), "events": events, "aud": t.Audience}
	if len(t.Audience) == 1 {
		m["aud"] = t.Audience[0]
	}
	if !t.Occurred.IsZero() {
		m["toe"] = t.Occurred.Unix()
	}
	if t.Transaction != "" {
		m["txn"] = t.Transaction
	}
	if t.Subject != nil {
		m["sub_id"] = t.Subject
	}
	out, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("building a token: %w", err)
	}
	return out, nil
}

// Sign builds and signs a token, and returns it in JWS compact form. What it returns, Parse
// reads: a token that would not be read back is an error.
func (k *Key) Sign(t Token) (string, error) {
	payload, err := Build(t)
	if err != nil {
		return "", err
	}
	var read Token
	if err := read.payload(payload); err != nil {
		return "", fmt.Errorf("building a token: %w", err)
	}
	opts := (&jose.SignerOptions{}).WithType(typeHeader)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.algorithm, Key: jose.JSONWebKey{Key: k.private, KeyID: k.ID}}, opts)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	text, err := signed.CompactSerialize()
	if err == nil && len(text) > MaxBytes {
		err = fmt.Errorf("it is longer than %d bytes", MaxBytes)
	}
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return text, nil
}

// Claims makes an event's claims of plain values; it panics on a value that is no JSON, as
// only a mistake of the program's can be.
func Claims(values map[string]any) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(values))
	for name, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			panic("set: claim " + name + ": " + err.Error())
		}
		out[name] = b
	}
	return out
}
