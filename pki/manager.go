package pki

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"
)

// Manager signs what the gateway orders devices to do: id-kp-configSigning (RFC 9809,
// section 3), by the servers' authority, for the reasons of Responder. Neither can sign for
// the other.
const Manager Kind = "manager"

var oidConfigSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 41}

// NewManager makes a key and a certificate for signing orders to devices, which takes over
// from one that nears its end.
func (a *Authority) NewManager(ctx context.Context, life time.Duration) (KeyPair, error) {
	key, err := GenerateKey()
	if err != nil {
		return KeyPair{}, fmt.Errorf("making management signer: %w", err)
	}
	cert, err := a.Issue(ctx, Request{Kind: Manager, PublicKey: key.Public(), CommonName: "Management signer",
		NotAfter: a.now().Add(life)})
	if err != nil {
		return KeyPair{}, fmt.Errorf("making management signer: %w", err)
	}
	return KeyPair{Certificate: cert, Key: key}, nil
}

// VerifyManager returns nil only for a management signer's leaf, valid at now.
func (a *Authority) VerifyManager(leaf *x509.Certificate, now time.Time) error {
	return a.verify(Manager, leaf, now)
}
