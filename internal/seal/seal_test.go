package seal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSealOpens(t *testing.T) {
	r := New()
	for _, plain := range [][]byte{nil, {0}, []byte("a private key"), bytes.Repeat([]byte("x"), 100_000)} {
		sealed, err := r.Seal("secret/ca", plain)
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len(plain)+Overhead {
			t.Errorf("%d bytes sealed to %d, want %d more", len(plain), len(sealed), Overhead)
		}
		got, err := r.Open("secret/ca", sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %d of %d bytes, %v", len(got), len(plain), err)
		}
	}
}

// Static nonces were GO-2024-3057: two seals of one text must share nothing but the header.
func TestSealIsFreshEachTime(t *testing.T) {
	r := New()
	a, _ := r.Seal("c", bytes.Repeat([]byte("secret"), 10))
	b, _ := r.Seal("c", bytes.Repeat([]byte("secret"), 10))
	if !bytes.Equal(a[:headerSize], b[:headerSize]) {
		t.Error("headers of one ring differ")
	}
	for _, part := range [][2]int{{headerSize, headerSize + 12}, {headerSize + wrapSize, headerSize + wrapSize + 12}} {
		if bytes.Equal(a[part[0]:part[1]], b[part[0]:part[1]]) {
			t.Errorf("nonce at %d repeats", part[0])
		}
	}
	if bytes.Contains(a, []byte("secret")) {
		t.Error("the plaintext shows")
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	r := New()
	sealed, err := r.Seal("otp/ABCDEFGH/alice/2026", []byte("sixteen symbols."))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		for bit := range 8 {
			bad := bytes.Clone(sealed)
			bad[i] ^= 1 << bit
			if got, err := r.Open("otp/ABCDEFGH/alice/2026", bad); err == nil {
				t.Fatalf("byte %d bit %d flipped: opened %q", i, bit, got)
			}
		}
	}
	for n := range sealed {
		if _, err := r.Open("otp/ABCDEFGH/alice/2026", sealed[:n]); err == nil {
			t.Fatalf("cut to %d bytes: opened", n)
		}
	}
	if _, err := r.Open("otp/ABCDEFGH/alice/2026", append(bytes.Clone(sealed), 0)); !errors.Is(err, ErrOpen) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestContextIsBound(t *testing.T) {
	r := New()
	sealed, _ := r.Seal("secret/a", []byte("x"))
	for _, other := range []string{"", "secret/", "secret/b", "secret/aa", "\x00secret/a"} {
		if _, err := r.Open(other, sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("context %q: %v, want ErrOpen", other, err)
		}
	}
	if _, err := New().Open("secret/a", sealed); !errors.Is(err, ErrKey) {
		t.Errorf("another ring: %v, want ErrKey", err)
	}
}

// A wrapped data key of one value must not serve another.
func TestPartsDoNotMix(t *testing.T) {
	r := New()
	a, _ := r.Seal("a", []byte("first"))
	b, _ := r.Seal("a", []byte("other"))
	mixed := append(bytes.Clone(a[:headerSize+wrapSize]), b[headerSize+wrapSize:]...)
	if _, err := r.Open("a", mixed); !errors.Is(err, ErrOpen) {
		t.Errorf("mixed parts: %v", err)
	}
	// A wrapped key is itself an AES-GCM value under the ring key: it must not open as data.
	swapped := append(bytes.Clone(a[:headerSize]), a[headerSize+wrapSize:]...)
	if _, err := r.Open("a", append(swapped, a[headerSize:headerSize+wrapSize]...)); err == nil {
		t.Error("swapped parts opened")
	}
}

func TestRingSurvivesRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "node.key")
	first, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, _ := first.Seal("c", []byte("kept"))
	for _, p := range []string{path, path + ".ring"} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", p, info.Mode(), err)
		}
	}
	node, _ := os.ReadFile(path)
	ring, _ := os.ReadFile(path + ".ring")
	if len(node) != 32 || bytes.Contains(ring, first.keys[0].Key[:]) || bytes.Contains(ring, node) {
		t.Error("the ring's file shows a key")
	}
	second, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := second.Open("c", sealed); err != nil || string(got) != "kept" {
		t.Errorf("after restart: %q, %v", got, err)
	}
}

func TestRingRefusals(t *testing.T) {
	fresh := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "node.key")
		if _, err := LoadOrCreate(path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string]func(t *testing.T, path string) error{
		"node key gone":           func(_ *testing.T, p string) error { return os.Remove(p) },
		"node key readable":       func(_ *testing.T, p string) error { return os.Chmod(p, 0o640) },
		"node key of another box": func(_ *testing.T, p string) error { return os.WriteFile(p, make([]byte, 32), 0o600) },
		"node key cut":            func(_ *testing.T, p string) error { return os.Truncate(p, 31) },
		"ring cut":                func(_ *testing.T, p string) error { return os.Truncate(p+".ring", 90) },
		"ring empty":              func(_ *testing.T, p string) error { return os.Truncate(p+".ring", 0) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			path := fresh(t)
			if err := spoil(t, path); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadOrCreate(path); err == nil {
				t.Error("loaded")
			}
		})
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	r, err := LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	old := r.Keys()[0]
	sealed, _ := r.Seal("c", []byte("kept"))
	added, err := r.Add()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Drop(added); err == nil {
		t.Error("dropped the newest key")
	}
	moved, err := r.Rewrap("c", sealed)
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := KeyOf(moved); id != added {
		t.Errorf("rewrapped under %s, want %s", id, added)
	}
	if again, _ := r.Rewrap("c", moved); !bytes.Equal(again, moved) {
		t.Error("a value under the newest key was rewrapped")
	}
	if _, err := r.Rewrap("other", sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("rewrap with another context: %v", err)
	}
	if err := r.Drop(old); err != nil {
		t.Fatal(err)
	}
	r, err = LoadOrCreate(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Open("c", moved); err != nil || string(got) != "kept" {
		t.Errorf("moved value: %q, %v", got, err)
	}
	if _, err := r.Open("c", sealed); !errors.Is(err, ErrKey) {
		t.Errorf("value under the dropped key: %v, want ErrKey", err)
	}
}

// fixed is a ring of one key that everybody knows.
func fixed() *Ring {
	k := ringKey{ID: ID{1, 2, 3, 4, 5, 6, 7, 8}}
	for i := range k.Key {
		k.Key[i] = byte(i)
	}
	return &Ring{keys: []ringKey{k}}
}

// known was sealed once under the fixed ring: later programs must still open it.
const known = "0101010203040506070866c333212c79e3c940231f53605594019fcfb076c0be5116ca86594368d9db7542853c642418f9730619fa424e1a3e250498bc455d637dd8d04d9987a5f62a7774e9bfb98cbeb8f15ca6369c8e4d3c1ddb70c1749f4316e5b1a1321541e0e5ed71a2d49ec3afc73bd193999e"

func TestFormatStays(t *testing.T) {
	sealed, err := hex.DecodeString(known)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fixed().Open("secret/a", sealed); err != nil || string(got) != "kept since version 1" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func FuzzOpen(f *testing.F) {
	r := fixed()
	good, err := hex.DecodeString(known)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:Overhead])
	f.Add([]byte{version1, algorithm})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.Open("secret/a", b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("opened a value nobody sealed: %x", b)
		}
	})
}

func ExampleRing_Seal() {
	r := New()
	sealed, _ := r.Seal("secret/responder", []byte("key"))
	plain, _ := r.Open("secret/responder", sealed)
	_, err := r.Open("secret/another", sealed)
	fmt.Println(string(plain), err)
	// Output: key sealed value does not open: altered, or sealed for another purpose
}

// TestUnfinishedRingIsSwept: what a crash left of a key goes with a later start.
func TestUnfinishedRingIsSwept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node.key")
	if _, err := LoadOrCreate(path); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	for _, name := range []string{"node.key.new", "node.key.ring.new", ".node.key.ring.new-1"} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600), os.Chtimes(filepath.Join(dir, name), long, long)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := LoadOrCreate(path); err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
		t.Errorf("left are %v (%v), want the key and the ring", list, err)
	}
}
