package release

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"lazaret/internal/durable"
)

// PublicSuffix is what the public key's file is called behind the private one's name.
const PublicSuffix = ".pub.pem"

// maxKey bounds a key's file, in bytes.
const maxKey = 1 << 16

// NewKey makes a signing key: the private one at path (PKCS#8 in PEM, mode 0600), the
// public one beside it. Neither may be there.
func NewKey(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	open, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	if err := durable.Create(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("making a signing key: %w", err)
	}
	if err := durable.Create(path+PublicSuffix, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open}), 0o644); err != nil {
		return nil, fmt.Errorf("making a signing key: %w", errors.Join(err, os.Remove(path)))
	}
	return public, nil
}

// LoadKey reads a private key that NewKey made. Its file must be its owner's alone.
func LoadKey(path string) (ed25519.PrivateKey, error) {
	at, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	if at.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading the signing key %s: others may read it too; chmod 600 it", path)
	}
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("reading the signing key: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading the signing key %s: it is no PKCS#8 key", path) // the cause may quote it
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the signing key %s: a %T is no Ed25519 key", path, k)
	}
	return key, nil
}

// LoadPublicKey reads the public half.
func LoadPublicKey(path string) (ed25519.PublicKey, error) {
	der, err := readPEM(path, "PUBLIC KEY")
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("reading the public key %s: %w", path, err)
	}
	key, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading the public key %s: a %T is no Ed25519 key", path, k)
	}
	return key, nil
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := readBounded(path, maxKey)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block %q", path, kind)
	}
	return block.Bytes, nil
}

// Fingerprint is the SHA-256 of a public key's SubjectPublicKeyInfo, hexadecimal: what
// `openssl pkey -pubin -in FILE -outform DER | sha256sum` prints.
func Fingerprint(key ed25519.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("naming a public key: %w", err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(der)), nil
}
