package sign

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/image/fake"
	"lazaret/internal/testneed"
)

func newSigner(t testing.TB) (key crypto.Signer, cert *x509.Certificate, certFile string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "boot.key")
	if _, err := NewKey(path, "Lazaret test"); err != nil {
		t.Fatal(err)
	}
	key, cert, err := Load(path, path+CertSuffix)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert, path + CertSuffix
}

// TestVerifiedByOthers: sbverify and osslsigncode accept what was signed, and refuse it
// with one byte changed or with another certificate.
func TestVerifiedByOthers(t *testing.T) {
	sbverify, osslsigncode := testneed.Program(t, "sbverify"), testneed.Program(t, "osslsigncode")
	key, cert, certFile := newSigner(t)
	_, _, otherFile := newSigner(t)
	programs := map[string][]byte{"small": fake.PE()}
	for _, name := range []string{"systemd-bootx64.efi", "linuxx64.efi.stub"} {
		if b, err := os.ReadFile(filepath.Join("/usr/lib/systemd/boot/efi", name)); err == nil {
			programs[name] = b
		}
	}
	for name, b := range programs {
		out, err := Sign(b, key, cert)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		path := filepath.Join(t.TempDir(), "x.efi")
		check := func(b []byte, cert string) (string, error) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			one, err := exec.Command(sbverify, "--cert", cert, path).CombinedOutput()
			two, err2 := exec.Command(osslsigncode, "verify", "-CAfile", cert, "-in", path).CombinedOutput()
			if (err == nil) != (err2 == nil) {
				t.Errorf("%s: the two disagree: %v, %v\n%s%s", name, err, err2, one, two)
			}
			return string(one) + string(two), errors.Join(err, err2)
		}
		if text, err := check(out, certFile); err != nil || !strings.Contains(text, "Signature verification OK") || !strings.Contains(text, "Signature verification: ok") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		if _, err := check(out, otherFile); err == nil {
			t.Errorf("%s: another certificate was accepted", name)
		}
		bad := bytes.Clone(out)
		bad[0x210] ^= 1
		if _, err := check(bad, certFile); err == nil {
			t.Errorf("%s: a changed byte was accepted", name)
		}
	}
}

// TestSameSignature: no clock and no chance in it.
func TestSameSignature(t *testing.T) {
	key, cert, _ := newSigner(t)
	one, err := Sign(fake.PE(), key, cert)
	two, err2 := Sign(fake.PE(), key, cert)
	if err != nil || err2 != nil || !bytes.Equal(one, two) {
		t.Error("two signatures of one program differ:", err, err2)
	}
	if _, err := Sign(one, key, cert); err == nil || !strings.Contains(err.Error(), "signed already") {
		t.Error("a signed program:", err)
	}
	a, err := Digest(fake.PE())
	b, err2 := Digest(append(fake.PE(), 0)) // what padding adds
	if err != nil || err2 != nil || a != b {
		t.Error("padding changes the digest:", err, err2)
	}
}

// TestRefusedPrograms: what firmware could read in two ways, or not at all.
func TestRefusedPrograms(t *testing.T) {
	for what, change := range map[string]func([]byte) []byte{
		"cut":      func(b []byte) []byte { return b[:0x180] },
		"no MZ":    func(b []byte) []byte { b[0] = 0; return b },
		"far":      func(b []byte) []byte { binary.LittleEndian.PutUint32(b[60:], 0xfffffff0); return b },
		"a gap":    func(b []byte) []byte { binary.LittleEndian.PutUint32(b[64+24+240+40+20:], 0x380); return b },
		"overlap":  func(b []byte) []byte { binary.LittleEndian.PutUint32(b[64+24+240+40+20:], 0x280); return b },
		"outside":  func(b []byte) []byte { binary.LittleEndian.PutUint32(b[64+24+240+40+16:], 0xffffff00); return b },
		"no place": func(b []byte) []byte { binary.LittleEndian.PutUint32(b[64+24+108:], 4); return b },
	} {
		if _, err := Digest(change(fake.PE())); err == nil {
			t.Errorf("%s: it was taken", what)
		}
	}
	_, cert, _ := newSigner(t)
	other, _, _ := newSigner(t)
	if _, err := Sign(fake.PE(), other, cert); err == nil {
		t.Error("a certificate of another key was taken")
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Sign(fake.PE(), curve, cert); err == nil {
		t.Error("a key that firmware does not know was taken")
	}
}

// TestKeyFiles: keys are never written over, and are their owner's alone.
func TestKeyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "k")
	if _, err := NewKey(path, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := NewKey(path, "x"); !errors.Is(err, fs.ErrExist) {
		t.Error("a key was written over:", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Load(path, path+CertSuffix); err == nil {
		t.Error("a key that others may read was taken")
	}
}

// FuzzDigest: whatever the file, it is refused or digested; nothing breaks.
func FuzzDigest(f *testing.F) {
	f.Add(fake.PE())
	f.Add(fake.PE()[:0x1c0])
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Digest(b); err == nil && len(b) < 200 {
			t.Errorf("%d bytes are a program", len(b))
		}
	})
}
