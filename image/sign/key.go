package sign

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	"lazaret/internal/durable"
)

// CertSuffix is what the certificate's file is called behind the key's name.
const CertSuffix = ".crt.pem"

// NewKey makes an RSA key of 2048 bits at path (PKCS#8 in PEM, mode 0600), and beside it a
// certificate of its own that name stands in, for firmware to be told of. Neither may be
// there. Firmware does not look at the clock; the certificate is good for 20 years.
func NewKey(path, name string) (*x509.Certificate, error) {
	cert, err := newKey(path, name)
	if err != nil {
		return nil, fmt.Errorf("making a key for Secure Boot: %w", err)
	}
	return cert, nil
}

func newKey(path, name string) (*x509.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	now := time.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(public[:16]), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(20, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true, SignatureAlgorithm: x509.SHA256WithRSA,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := durable.Create(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	if err := durable.Create(path+CertSuffix, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), 0o644); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return x509.ParseCertificate(raw)
}

// Load reads a key, whose file must be its owner's alone, and its certificate.
func Load(keyPath, certPath string) (crypto.Signer, *x509.Certificate, error) {
	at, err := os.Stat(keyPath)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the key for Secure Boot: %w", err)
	}
	if at.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("reading the key %s: others may read it too; chmod 600 it", keyPath)
	}
	der, err := readPEM(keyPath, "PRIVATE KEY")
	if err != nil {
		return nil, nil, fmt.Errorf("reading the key for Secure Boot: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the key %s: it is no PKCS#8 key", keyPath) // the cause may quote it
	}
	key, ok := k.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("reading the key %s: a %T cannot sign", keyPath, k)
	}
	raw, err := readPEM(certPath, "CERTIFICATE")
	if err != nil {
		return nil, nil, fmt.Errorf("reading the certificate for Secure Boot: %w", err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the certificate %s: %w", certPath, err)
	}
	return key, cert, nil
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no PEM block %q", path, kind)
	}
	return block.Bytes, nil
}
