package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"lazaret/appliance"
)

// take does with a bundle what a machine does, short of keeping it.
func take(text []byte, keys Keys) error {
	r := bytes.NewReader(text)
	m, err := Open(r, keys)
	if err != nil {
		return err
	}
	if err := (Target{Version: old, Architecture: "amd64", Flavour: "cloud", Schema: 1}).Admit(m); err != nil {
		return err
	}
	return m.Copy(io.Discard, r)
}

// TestTamperedBundles changes every byte of the header and some of the image, and ends the
// bundle at every length of the header and some of the image. None is taken.
func TestTamperedBundles(t *testing.T) {
	for name, signers := range map[string][]ed25519.PrivateKey{"one signature": {testKey(1)}, "two": {testKey(1), testKey(2)}} {
		img := image(new_)[:4000]
		good := bundleOf(t, testManifest(new_, older), img, signers...)
		keys := testKeys(testKey(1), testKey(2))
		if err := take(good, keys); err != nil {
			t.Fatalf("%s: the bundle itself: %v", name, err)
		}
		header := len(good) - len(img)
		for at := range good {
			if at > header && at%97 != 0 && at != len(good)-1 {
				continue
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1 << (at % 8)
			if err := take(bad, keys); !errors.Is(err, appliance.ErrRefused) {
				t.Errorf("%s, byte %d changed: %v", name, at, err)
			}
			if err := take(good[:at], keys); !errors.Is(err, appliance.ErrRefused) {
				t.Errorf("%s, %d of %d bytes: %v", name, at, len(good), err)
			}
		}
		if err := take(append(bytes.Clone(good), 0), keys); !errors.Is(err, appliance.ErrRefused) {
			t.Errorf("%s, a byte more: %v", name, err)
		}
	}
}

// TestRefusedBundles: whole and signed, and still not for this machine.
func TestRefusedBundles(t *testing.T) {
	img := []byte("image")
	keys := testKeys(testKey(1), testKey(2))
	change := func(f func(*Manifest)) Manifest {
		m := testManifest(new_, older)
		f(&m)
		return m
	}
	for _, c := range []struct {
		name string
		m    Manifest
		says string
	}{
		{"older", testManifest("0.9.5", older), "roll back"},
		{"the same", testManifest(old, older), "runs already"},
		{"the same, written otherwise", testManifest("1.00.0", older), "runs already"},
		{"other architecture", change(func(m *Manifest) { m.Architecture = "arm64" }), "for arm64; this machine is amd64"},
		{"other flavour", change(func(m *Manifest) { m.Flavour = "metal" }), "flavour metal"},
		{"follows a newer one", testManifest("2.0.0", "1.5.0"), "in between first"},
		{"cannot read the data", change(func(m *Manifest) { m.Schema, m.Reads = 3, 2 }), "schema 2 to 3"},
	} {
		if err := take(bundleOf(t, c.m, img, testKey(1)), keys); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v; want %q", c.name, err, c.says)
		}
	}
	if err := take(bundleOf(t, testManifest(new_, older), img, testKey(3)), keys); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "no key") {
		t.Errorf("signed by a stranger: %v", err)
	}
	if err := take(bundleOf(t, testManifest(new_, older), img, testKey(3), testKey(2)), keys); err != nil {
		t.Errorf("signed by a stranger and by the next key: %v", err)
	}
	channel, err := testChannel().Sign(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	copy(channel, bundles.magic)
	if err := take(channel, keys); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "signature") {
		t.Errorf("a channel's signature as a bundle's: %v", err)
	}
	unsigned := bundleOf(t, testManifest(new_, older), img, testKey(1))
	n := 20 + int(binary.BigEndian.Uint32(unsigned[16:]))
	unsigned = append(append(bytes.Clone(unsigned[:n]), 0), img...)
	if err := take(unsigned, keys); !errors.Is(err, appliance.ErrRefused) {
		t.Errorf("without a signature: %v", err)
	}
	huge := make([]byte, 30)
	copy(huge, bundles.magic)
	binary.BigEndian.PutUint32(huge[16:], 1<<31)
	if err := take(huge, keys); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "out of bounds") {
		t.Errorf("a manifest of 2 GiB: %v", err)
	}
	large := testManifest(new_, older)
	large.V, large.Size, large.SHA256 = 1, MaxImage+1, strings.Repeat("0", 64)
	if err := large.Check(); !errors.Is(err, appliance.ErrRefused) {
		t.Errorf("an image that is too large: %v", err)
	}
}

// TestSignatureByItself works the signed message out by hand, with the standard library
// alone, from the words of the package's description.
func TestSignatureByItself(t *testing.T) {
	text := bundleOf(t, testManifest(new_, older), []byte("image"), testKey(1))
	n := 16 + 4 + int(binary.BigEndian.Uint32(text[16:20]))
	pub := testKey(1).Public().(ed25519.PublicKey)
	id := sha256.Sum256(pub)
	if text[n] != 1 || !bytes.Equal(text[n+1:n+9], id[:8]) {
		t.Fatalf("the bundle has %d signatures, the first by %x", text[n], text[n+1:n+9])
	}
	sum := sha256.Sum256(append(bytes.Clone(text[:n+1]), id[:8]...))
	if !ed25519.Verify(pub, append([]byte("lazaret update manifest 1\x00"), sum[:]...), text[n+9:n+9+64]) {
		t.Error("the signature is not over what the description says")
	}
	img := sha256.Sum256([]byte("image"))
	if !bytes.Contains(text[20:n], []byte(`"sha256":"`+hex.EncodeToString(img[:])+`"`)) || string(text[n+9+64:]) != "image" {
		t.Error("the image or its sum is not where the description says")
	}
}

// FuzzOpen: no bundle makes the parser fail otherwise than by an error, or is taken without
// a signature.
func FuzzOpen(f *testing.F) {
	good := bundleOf(f, testManifest(new_, older), []byte("image"), testKey(1))
	channel, _ := testChannel().Sign(testKey(1))
	f.Add(good)
	f.Add(good[:40])
	f.Add(channel)
	f.Add([]byte("lazaret-update1\n\x00\x00\x00\x01{\x01"))
	keys := testKeys(testKey(1))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := take(text, keys); err == nil && !bytes.Equal(text, good) {
			t.Errorf("%q was taken", text)
		}
		if _, err := OpenChannel(text, keys, testChannel().Created, testChannel().Created); err == nil && !bytes.Equal(text, channel) {
			t.Errorf("%q was taken for a channel", text)
		}
	})
}
