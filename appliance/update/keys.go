package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// KeysPath is where an image has the keys that it takes updates from: the current one and
// the next, as PEM blocks "PUBLIC KEY" (openssl pkey -pubout).
const KeysPath = "/etc/lazaret/update-keys"

// mostKeys bounds keys and signatures: two are used, four leave room for a change of both.
const mostKeys = 4

// KeyID names a key: the first bytes of its SHA-256.
type KeyID [8]byte

// IDOf names a public key.
func IDOf(key ed25519.PublicKey) KeyID {
	sum := sha256.Sum256(key)
	return KeyID(sum[:8])
}

// Keys are the public keys that are believed.
type Keys map[KeyID]ed25519.PublicKey

// ParseKeys reads PEM blocks of Ed25519 public keys: 1 to 4 of them and nothing else.
func ParseKeys(text []byte) (Keys, error) {
	keys := Keys{}
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "PUBLIC KEY" {
			return nil, errors.New("reading update keys: something is there that is no PEM block of a public key")
		}
		any, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading update keys: %w", err)
		}
		key, ok := any.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("reading update keys: a %T is no Ed25519 key", any)
		}
		keys[IDOf(key)] = key
	}
	if len(keys) == 0 || len(keys) > mostKeys {
		return nil, fmt.Errorf("reading update keys: there are %d, which is not 1 to %d", len(keys), mostKeys)
	}
	return keys, nil
}

// LoadKeys reads KeysPath, or a file like it.
func LoadKeys(path string) (Keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading update keys: %w", err)
	}
	return ParseKeys(text)
}

// ParsePrivateKey reads a private key as openssl genpkey -algorithm ed25519 writes it.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("reading a signing key: it is no PEM block of a private key")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a signing key: %w", err)
	}
	key, ok := any.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading a signing key: a %T is no Ed25519 key", any)
	}
	return key, nil
}
