package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
)

// Allow says which keys beyond P-256, P-384 and Ed25519 are accepted.
type Allow struct {
	RSA bool // 2048 to 4096 bits
}

// CheckKey returns an error that wraps ErrKey unless the policy accepts pub: a point on
// P-256 or P-384, an Ed25519 key not of small order, or, where allowed, an RSA key of
// 2048 to 4096 bits.
func CheckKey(pub crypto.PublicKey, allow Allow) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return checkECDSA(k)
	case ed25519.PublicKey:
		return checkEd25519(k)
	case *rsa.PublicKey:
		if !allow.RSA {
			return fmt.Errorf("%w: RSA is not allowed here", ErrKey)
		}
		return checkRSA(k)
	}
	return fmt.Errorf("%w: type %T", ErrKey, pub)
}

func checkECDSA(k *ecdsa.PublicKey) error {
	//lint:ignore SA1019 nil coordinates must be found before anything touches them
	if k == nil || k.X == nil || k.Y == nil {
		return fmt.Errorf("%w: no key", ErrKey)
	}
	if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
		return fmt.Errorf("%w: curve is neither P-256 nor P-384", ErrKey)
	}
	if _, err := k.ECDH(); err != nil { // refuses what is not on the curve
		return fmt.Errorf("%w: not a point of %s", ErrKey, k.Curve.Params().Name)
	}
	return nil
}

// smallOrder lists every y coordinate, little-endian and without the sign bit, with which
// an Ed25519 key has small order: 0, 1, -1, the two of order 8, and p and p+1, which are
// 0 and 1 written differently. Anyone can make signatures that verify under such a key.
var smallOrder = [][32]byte{
	{},
	{1},
	y25519(0xec), y25519(0xed), y25519(0xee),
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
}

// y25519 returns 2^255 - 256 + low, little-endian: p is 2^255 - 19.
func y25519(low byte) [32]byte {
	var y [32]byte
	for i := range y {
		y[i] = 0xff
	}
	y[0], y[31] = low, 0x7f
	return y
}

func checkEd25519(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: Ed25519 key of %d bytes", ErrKey, len(k))
	}
	y := [32]byte(k)
	y[31] &= 0x7f
	for _, bad := range smallOrder {
		if y == bad {
			return fmt.Errorf("%w: Ed25519 key of small order", ErrKey)
		}
	}
	return nil
}

// smallPrimes is the product of the odd primes below 752.
var smallPrimes = sync.OnceValue(func() *big.Int {
	product := big.NewInt(1)
	for n := int64(3); n < 752; n += 2 {
		if p := big.NewInt(n); p.ProbablyPrime(0) {
			product.Mul(product, p)
		}
	}
	return product
})

func checkRSA(k *rsa.PublicKey) error {
	if k == nil || k.N == nil || k.N.Sign() <= 0 {
		return fmt.Errorf("%w: no key", ErrKey)
	}
	switch bits := k.N.BitLen(); {
	case bits < 2048 || bits > 4096 || bits%8 != 0:
		return fmt.Errorf("%w: RSA key of %d bits", ErrKey, bits)
	case k.E < 65537 || k.E%2 == 0 || int64(k.E) > 1<<31-1:
		return fmt.Errorf("%w: RSA exponent %d", ErrKey, k.E)
	case k.N.Bit(0) == 0, new(big.Int).GCD(nil, nil, k.N, smallPrimes()).Cmp(big.NewInt(1)) != 0:
		return fmt.Errorf("%w: RSA modulus has a small factor", ErrKey)
	}
	return nil
}

// GenerateKey makes a P-256 key.
func GenerateKey() (crypto.Signer, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

// MarshalKey returns a private key in PKCS#8 (RFC 5958), DER, in the clear. It fails for
// a key that cannot leave its TPM or token.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshalling private key: %w", err)
	}
	return der, nil
}

// ParseKey reads what MarshalKey wrote.
func ParseKey(der []byte) (crypto.Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("parsing private key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("parsing private key: %T does not sign", parsed)
	}
	return key, nil
}

// SPKISum returns SHA-256 of pub's SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7). It
// fails only for what is no public key.
func SPKISum(pub crypto.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return [32]byte{}, fmt.Errorf("marshalling public key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// CertificateSPKISum returns SHA-256 of a parsed certificate's SubjectPublicKeyInfo.
func CertificateSPKISum(cert *x509.Certificate) [32]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}

// canonicalSPKI returns pub's SubjectPublicKeyInfo, or an error that wraps ErrKey when
// given is another encoding of the same key: one key has one sum.
func canonicalSPKI(pub crypto.PublicKey, given []byte) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if !bytes.Equal(der, given) {
		return nil, fmt.Errorf("%w: not in its usual encoding", ErrKey)
	}
	return der, nil
}
