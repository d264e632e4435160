package imagetest

import (
	"bytes"
	"encoding/pem"
	"os"
	"regexp"
	"testing"

	"github.com/klauspost/compress/zstd"

	"lazaret/image/uki"
)

// TestNoSecretInside looks through the built slot and everything in its initial file
// system: there is no private key, and none of the test-only doors.
func TestNoSecretInside(t *testing.T) {
	slot, err := os.ReadFile(built(t, ".efi"))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := uki.Read(slot, ".initrd")
	if err != nil {
		t.Fatal(err)
	}
	r, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files, err := r.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
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
		if bytes.Contains(b, []byte("lazarettest")) {
			t.Errorf("the %s holds a door for tests", name)
		}
	}
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
