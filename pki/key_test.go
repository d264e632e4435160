//lint:file-ignore SA1019 hostile keys are put together from raw coordinates, and of kinds nobody should use

package pki

import (
	"crypto"
	"crypto/dsa"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"testing"
)

// rsaLike returns a public key of the given size whose modulus nobody can factor or use.
func rsaLike(t *testing.T, bits int) *rsa.PublicKey {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n.Add(n, big.NewInt(1))
	for new(big.Int).GCD(nil, nil, n, smallPrimes()).Cmp(big.NewInt(1)) != 0 {
		n.Add(n, big.NewInt(2))
	}
	return &rsa.PublicKey{N: n, E: 65537}
}

func TestCheckKey(t *testing.T) {
	curve := func(c elliptic.Curve) crypto.PublicKey {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key.Public()
	}
	changed := func(edit func(*ecdsa.PublicKey)) crypto.PublicKey {
		k := newKey(t).PublicKey
		edit(&k)
		return &k
	}
	withRSA := func(bits int, edit func(*rsa.PublicKey)) crypto.PublicKey {
		k := rsaLike(t, bits)
		edit(k)
		return k
	}
	same := func(*rsa.PublicKey) {}
	ed, edPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key      crypto.PublicKey
		ok, rsad bool // accepted without, and with Allow.RSA
	}{
		"P-256":            {curve(elliptic.P256()), true, true},
		"P-384":            {curve(elliptic.P384()), true, true},
		"Ed25519":          {ed, true, true},
		"P-224":            {curve(elliptic.P224()), false, false},
		"P-521":            {curve(elliptic.P521()), false, false},
		"X25519":           {x25519.PublicKey(), false, false},
		"DSA":              {&dsa.PublicKey{}, false, false},
		"nil":              {nil, false, false},
		"nil ECDSA":        {(*ecdsa.PublicKey)(nil), false, false},
		"nil RSA":          {(*rsa.PublicKey)(nil), false, false},
		"empty ECDSA":      {&ecdsa.PublicKey{}, false, false},
		"empty Ed25519":    {ed25519.PublicKey{}, false, false},
		"short Ed25519":    {ed[:31], false, false},
		"private key":      {edPrivate, false, false},
		"ECDSA by value":   {newKey(t).PublicKey, false, false},
		"off the curve":    {changed(func(k *ecdsa.PublicKey) { k.Y = new(big.Int).Add(k.Y, big.NewInt(1)) }), false, false},
		"on another curve": {changed(func(k *ecdsa.PublicKey) { k.Curve = elliptic.P384() }), false, false},
		"infinity":         {changed(func(k *ecdsa.PublicKey) { k.X, k.Y = new(big.Int), new(big.Int) }), false, false},
		"negative":         {changed(func(k *ecdsa.PublicKey) { k.X = new(big.Int).Neg(k.X) }), false, false},
		"beyond the field": {changed(func(k *ecdsa.PublicKey) { k.X = new(big.Int).Add(k.X, k.Curve.Params().P) }), false, false},
		"no x":             {changed(func(k *ecdsa.PublicKey) { k.X = nil }), false, false},
		"RSA 2048":         {withRSA(2048, same), false, true},
		"RSA 3072":         {withRSA(3072, same), false, true},
		"RSA 4096":         {withRSA(4096, same), false, true},
		"RSA 1024":         {withRSA(1024, same), false, false},
		"RSA 2040":         {withRSA(2040, same), false, false},
		"RSA 2047":         {withRSA(2047, same), false, false},
		"RSA 2049":         {withRSA(2049, same), false, false},
		"RSA 4104":         {withRSA(4104, same), false, false},
		"RSA 16384":        {withRSA(16384, same), false, false},
		"exponent 3":       {withRSA(2048, func(k *rsa.PublicKey) { k.E = 3 }), false, false},
		"exponent 1":       {withRSA(2048, func(k *rsa.PublicKey) { k.E = 1 }), false, false},
		"exponent even":    {withRSA(2048, func(k *rsa.PublicKey) { k.E = 65538 }), false, false},
		"exponent huge":    {withRSA(2048, func(k *rsa.PublicKey) { k.E = 1<<31 + 1 }), false, false},
		"modulus even":     {withRSA(2048, func(k *rsa.PublicKey) { k.N.Add(k.N, big.NewInt(1)) }), false, false},
		"modulus by 751": {withRSA(2048, func(k *rsa.PublicKey) {
			k.N.Sub(k.N, new(big.Int).Mod(k.N, big.NewInt(751)))
			if k.N.Bit(0) == 0 {
				k.N.Add(k.N, big.NewInt(751))
			}
		}), false, false},
		"modulus nil":      {&rsa.PublicKey{E: 65537}, false, false},
		"modulus negative": {withRSA(2048, func(k *rsa.PublicKey) { k.N.Neg(k.N) }), false, false},
	} {
		for _, allow := range []Allow{{}, {RSA: true}} {
			want := c.ok
			if allow.RSA {
				want = c.rsad
			}
			if err := CheckKey(c.key, allow); (err == nil) != want || (err != nil && !errors.Is(err, ErrKey)) {
				t.Errorf("%s, RSA %t: %v", name, allow.RSA, err)
			}
		}
	}
}

// TestSmallOrderKeysAreForgeable shows what the refused Ed25519 keys have in common: a
// signature made without any private key (R the neutral point, S zero) verifies for one
// message in eight or more. With a sound key it never does.
func TestSmallOrderKeysAreForgeable(t *testing.T) {
	signature := make([]byte, ed25519.SignatureSize)
	signature[0] = 1
	forged := func(key ed25519.PublicKey) bool {
		for m := range byte(200) {
			if ed25519.Verify(key, []byte{m}, signature) {
				return true
			}
		}
		return false
	}
	for _, y := range smallOrder {
		for _, sign := range []byte{0, 0x80} {
			key := slices.Clone(y[:])
			key[31] |= sign
			if !forged(key) {
				t.Errorf("%x is not of small order", key)
			}
			if err := CheckKey(ed25519.PublicKey(key), Allow{}); !errors.Is(err, ErrKey) {
				t.Errorf("%x: %v", key, err)
			}
		}
	}
	if sound, _, err := ed25519.GenerateKey(rand.Reader); err != nil || forged(sound) {
		t.Errorf("a sound key is forgeable: %v", err)
	}
}

// TestSPKISum hashes a key written by hand in the form of RFC 8410, section 4.
func TestSPKISum(t *testing.T) {
	const public = `-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----`
	block, _ := pem.Decode([]byte(public))
	key, err := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a") // RFC 8032, section 7.1, test 1
	if err != nil {
		t.Fatal(err)
	}
	sum, err := SPKISum(ed25519.PublicKey(key))
	if err != nil || sum != sha256.Sum256(block.Bytes) {
		t.Errorf("sum %x, %v", sum, err)
	}
	r := deviceRequest(t)
	leaf := issued(t, authority(t), r)
	if sum, err = SPKISum(r.PublicKey); err != nil || sum != CertificateSPKISum(leaf) {
		t.Errorf("certificate and key have different sums: %v", err)
	}
	if _, err := SPKISum("key"); err == nil {
		t.Error("a string has a sum")
	}
}
