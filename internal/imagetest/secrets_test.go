package imagetest

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"regexp"
	"testing"
)

// TestNoSecretInside looks through the built slot and everything in its initial file
// system: there is no private key, and none of the test-only doors.
func TestNoSecretInside(t *testing.T) {
	slot, err := os.ReadFile(built(t, ".efi"))
	if err != nil {
		t.Fatal(err)
	}
	files := rootFS(t)
	if !bytes.Contains(files, []byte("070701")) || !bytes.Contains(files, []byte("BEGIN CERTIFICATE")) {
		t.Fatal("what was unpacked is no file system with certificates: nothing was looked at")
	}
	key, _ := os.ReadFile(updateKey()) // it may be kept elsewhere
	for name, b := range map[string][]byte{"slot": slot, "file system": files} {
		if at := privatePEM(b); at != "" {
			t.Errorf("the %s holds a private key: %s", name, at)
		}
		if p, _ := pem.Decode(key); p != nil && bytes.Contains(b, p.Bytes) {
			t.Errorf("the %s holds the private key of updates", name)
		}
		for kind, prefix := range derKeys {
			if bytes.Contains(b, prefix) {
				t.Errorf("the %s holds what may be a private key (%s)", name, kind)
			}
		}
		if bytes.Contains(b, []byte("lazarettest")) {
			t.Errorf("the %s holds a door for tests", name)
		}
	}
}

// TestNoSecretOutside looks through all of the disk that is shipped: what lies beside the
// slot, and what may be left over from how it was made.
func TestNoSecretOutside(t *testing.T) {
	f, err := os.Open(built(t, ".raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needles := [][]byte{[]byte("IMAGE_VERSION="), []byte("PRIVATE KEY-----"), []byte("lazarettest")}
	for _, prefix := range derKeys {
		needles = append(needles, prefix)
	}
	found := look(t, extents(t, f), needles...)
	if found[0] == 0 {
		t.Fatal("there is no slot on the disk: nothing was looked at")
	}
	for i, n := range found[1:] {
		if n != 0 {
			t.Errorf("%d times on the disk: %q", n, needles[i+1])
		}
	}
}

// derKeys is how private keys of the usual kinds begin in DER (RFC 5208, RFC 5915, RFC 8410,
// RFC 8017), as far as it is the same for every key.
var derKeys = map[string][]byte{
	"Ed25519, PKCS #8":    []byte("\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"),
	"X25519, PKCS #8":     []byte("\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x6e\x04\x22\x04\x20"),
	"EC, PKCS #8":         []byte("\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04"),
	"EC of 384, PKCS #8":  []byte("\x02\x01\x00\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00"),
	"EC of 256, SEC 1":    []byte("\x30\x77\x02\x01\x01\x04\x20"),
	"EC of 384, SEC 1":    []byte("\x30\x81\xa4\x02\x01\x01\x04\x30"),
	"RSA, PKCS #8":        []byte("\x02\x01\x00\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x04\x82"),
	"RSA of 2048, PKCS 1": []byte("\x02\x01\x00\x02\x82\x01\x01\x00"),
	"RSA of 4096, PKCS 1": []byte("\x02\x01\x00\x02\x82\x02\x01\x00"),
}

// TestKeysAreFound: what keys begin with is what Go writes.
func TestKeysAreFound(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	x, err2 := ecdh.X25519().GenerateKey(rand.Reader)
	p256, err3 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, err4 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r, err5 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	for _, key := range []any{ed, x, p256, p384, r} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		holdsKey(t, der)
	}
	for _, key := range []*ecdsa.PrivateKey{p256, p384} {
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		holdsKey(t, der)
	}
	holdsKey(t, x509.MarshalPKCS1PrivateKey(r))
}

func holdsKey(t *testing.T, der []byte) {
	t.Helper()
	for _, prefix := range derKeys {
		if bytes.Contains(der, prefix) {
			return
		}
	}
	t.Errorf("no search would find a key that begins with %x", der[:24])
}

var begins = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=:, \r\n-]{40}`)

// privatePEM finds a private key in PEM: the words alone stand in every program that reads
// one.
func privatePEM(b []byte) string {
	m := begins.Find(b)
	return string(m[:min(len(m), 40)])
}

// TestPrivatePEM: the search finds what it is for.
func TestPrivatePEM(t *testing.T) {
	key := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: bytes.Repeat([]byte{7}, 121)})
	if privatePEM(append([]byte("\x00\x01"), key...)) == "" {
		t.Error("a key was not found")
	}
	if privatePEM([]byte("-----BEGIN PRIVATE KEY-----\x00-----END")) != "" {
		t.Error("the words alone are taken for a key")
	}
}
