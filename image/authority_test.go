package image

import (
	"bytes"
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

// inside is what the first block of text holds.
func inside(t *testing.T, text []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(text)
	if block == nil {
		t.Fatal("there is no block")
	}
	return block.Bytes
}

// TestOwnAuthorities: what an image believes besides the public authorities is in it, in
// its list of parts, and nothing but certificates of authorities.
func TestOwnAuthorities(t *testing.T) {
	c := standIns(t)
	one, two := certificate(t, true), certificate(t, true)
	c.Authorities = slices.Concat([]byte("\r\n "), bytes.ReplaceAll(one, []byte("\n"), []byte("\r\n")), []byte("\n"), two)
	written := slices.Concat(one, two)
	r := build(t, c)
	slot, err := os.ReadFile(r.UKI)
	if err != nil {
		t.Fatal(err)
	}
	if names := list(t, slot); !slices.Contains(names, "etc/ssl/certs/own.crt") {
		t.Errorf("the authorities are not in the root file system: %v", names)
	}
	if !slices.ContainsFunc(r.Parts, func(p Part) bool {
		return p.Name == "authorities" && p.Size == int64(len(written)) && p.SHA256 == sum(written)
	}) {
		t.Errorf("the authorities are no part: %+v", r.Parts)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("a key that must not be in an image")})
	broken := bytes.Replace(key, []byte("\n"), []byte("\n*"), 1)
	for _, bad := range [][]byte{
		[]byte("text"), written[:len(written)-40], certificate(t, false), key,
		slices.Concat(broken, one), slices.Concat(one, broken, two), slices.Concat(one, broken),
		slices.Concat([]byte("password: x\n"), one), slices.Concat(one, []byte("text\n"), two),
		slices.Concat(bytes.ReplaceAll(broken, []byte("PRIVATE KEY"), []byte("CERTIFICATE")), one),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Password": "x"}, Bytes: inside(t, one)}),
	} {
		c := standIns(t)
		c.Authorities, c.Log = bad, slog.New(slog.DiscardHandler)
		if _, err := Build(t.Context(), c); err == nil || !strings.Contains(errors.Unwrap(err).Error(), "authorit") {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}
