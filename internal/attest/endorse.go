package attest

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Trust says which TPMs are believed. The zero Trust believes none: attestation is off.
type Trust struct {
	// FirstUse believes any TPM that is the device's first: from then on it is known to be
	// the same, and nothing is known of its kind. A program that plays a TPM passes.
	FirstUse bool `json:"first_use,omitempty"`
	// Makers are certificates (PEM) of CAs whose word makes an endorsement key a real
	// TPM's: roots, or intermediates, each trusted as it stands. With makers FirstUse does
	// not count.
	Makers []string `json:"makers,omitempty"`
}

// Off says that no TPM is believed.
func (t Trust) Off() bool { return !t.FirstUse && len(t.Makers) == 0 }

// Check reports the first maker's certificate that cannot be used.
func (t Trust) Check() error {
	_, err := t.pool()
	return err
}

func (t Trust) pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for i, text := range t.Makers {
		block, rest := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" || len(trimmed(rest)) > 0 {
			return nil, fmt.Errorf("maker %d: want one certificate in PEM", i+1)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("maker %d: %w", i+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("maker %d: %s is no CA", i+1, cert.Subject)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

func trimmed(b []byte) []byte {
	return slices.DeleteFunc(slices.Clone(b), func(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' })
}

var (
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
	oidAltName       = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// endorsed checks that a maker vouches for the EK (TCG EK Credential Profile, section 3.2).
func (t Trust) endorsed(ek crypto.PublicKey, certificate []byte, now time.Time) error {
	if len(t.Makers) == 0 {
		return nil
	}
	if len(certificate) == 0 {
		return errors.New("the TPM holds no certificate of its maker")
	}
	if len(certificate) > maxCertificate {
		return errors.New("the endorsement certificate is too large")
	}
	pool, err := t.pool()
	if err != nil {
		return fmt.Errorf("the trusted makers: %w", err)
	}
	cert, err := x509.ParseCertificate(certificate)
	if err != nil {
		return fmt.Errorf("the endorsement certificate: %w", err)
	}
	own, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(ek) {
		return errors.New("the endorsement certificate is of another key")
	}
	uses := cert.UnknownExtKeyUsage
	if len(cert.ExtKeyUsage)+len(uses) > 0 && !slices.ContainsFunc(uses, oidEKCertificate.Equal) || cert.IsCA {
		return errors.New("the endorsement certificate is not for an endorsement key")
	}
	// The alternative name holds the TPM's model alone, which x509 does not read; it is
	// critical by the profile.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidAltName.Equal)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("no trusted maker vouches for the TPM: %w", err)
	}
	return nil
}
