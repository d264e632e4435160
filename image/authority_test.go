package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// certificate makes one that signed itself.
func certificate(t *testing.T, authority bool) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own"}, NotAfter: time.Now().Add(time.Hour), IsCA: authority, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, &c, &c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestOwnAuthorities: what an image believes besides the public authorities is in it, in
// its list of parts, and nothing but certificates of authorities.
func TestOwnAuthorities(t *testing.T) {
	c := standIns(t)
	c.Authorities = slices.Concat(certificate(t, true), []byte("\n"), certificate(t, true))
	r := build(t, c)
	slot, err := os.ReadFile(r.UKI)
	if err != nil {
		t.Fatal(err)
	}
	if names := list(t, slot); !slices.Contains(names, "etc/ssl/certs/own.crt") {
		t.Errorf("the authorities are not in the root file system: %v", names)
	}
	if !slices.ContainsFunc(r.Parts, func(p Part) bool { return p.Name == "authorities" && p.Size == int64(len(c.Authorities)) }) {
		t.Errorf("the authorities are no part: %+v", r.Parts)
	}
	for _, bad := range [][]byte{[]byte("text"), c.Authorities[:len(c.Authorities)-40], certificate(t, false), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})} {
		c := standIns(t)
		c.Authorities, c.Log = bad, slog.New(slog.DiscardHandler)
		if _, err := Build(t.Context(), c); err == nil || !strings.Contains(errors.Unwrap(err).Error(), "authorit") {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}
