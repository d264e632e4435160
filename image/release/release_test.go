package release

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/testneed"
)

// made is a directory with two files of a release, a raw disk that is none, and a key.
func made(t *testing.T) (dir, keyFile string, key ed25519.PrivateKey) {
	t.Helper()
	dir, keyFile = t.TempDir(), filepath.Join(t.TempDir(), "release.key")
	for name, text := range map[string]string{"lazaret-1.2.3-amd64-cloud.qcow2": "disk", "lazaret_1.2.3_amd64.deb": "package", "lazaret-1.2.3-amd64-cloud.raw": "left out"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewKey(keyFile); err != nil {
		t.Fatal(err)
	}
	key, err := LoadKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return dir, keyFile, key
}

func run(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	c := exec.Command(testneed.Program(t, name), args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	return string(out), err
}

// TestSignedRelease: OpenSSL and sha256sum, which know nothing of ours, accept what was
// released, and refuse it once a byte of anything changed.
func TestSignedRelease(t *testing.T) {
	dir, keyFile, key := made(t)
	if err := Finish(dir, key, false); err != nil {
		t.Fatal(err)
	}
	check := []string{"pkeyutl", "-verify", "-pubin", "-inkey", keyFile + PublicSuffix, "-rawin", "-in", SumsFile, "-sigfile", SignatureFile}
	if out, err := run(t, dir, "openssl", check...); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	if out, err := run(t, dir, "sha256sum", "--check", "--strict", SumsFile); err != nil || strings.Count(out, ": OK") != 2 {
		t.Errorf("sha256sum: %v\n%s", err, out)
	}
	public, err := LoadPublicKey(keyFile + PublicSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir, public); err != nil {
		t.Error(err)
	}
	print, err := Fingerprint(public)
	der, err2 := exec.Command(testneed.Program(t, "openssl"), "pkey", "-pubin", "-in", keyFile+PublicSuffix, "-outform", "DER").Output()
	other := filepath.Join(t.TempDir(), "der")
	if err = errors.Join(err, err2, os.WriteFile(other, der, 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, dir, "sha256sum", other); err != nil || !strings.HasPrefix(out, print) {
		t.Errorf("fingerprint %s, but %s (%v)", print, out, err)
	}
	for _, name := range []string{SumsFile, SignatureFile, "lazaret_1.2.3_amd64.deb"} {
		path := filepath.Join(dir, name)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(was)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir, public); err == nil {
			t.Errorf("%s was changed, and nothing noticed", name)
		}
		if _, err := run(t, dir, "openssl", check...); (err == nil) != (name == "lazaret_1.2.3_amd64.deb") {
			t.Errorf("%s was changed; openssl: %v", name, err)
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "more.qcow2"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir, public); err == nil || !strings.Contains(err.Error(), "more.qcow2 has no checksum") {
		t.Error("a file that was slipped in:", err)
	}
}

// TestNoKey: no release without a key, unless it says what it is; and no signature of an
// earlier one stays beside it.
func TestNoKey(t *testing.T) {
	dir, _, key := made(t)
	if err := Finish(dir, nil, false); err == nil || !strings.Contains(err.Error(), "--unsigned") {
		t.Error("without a key:", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, SumsFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("checksums were left:", err)
	}
	if err := Finish(dir, key, true); err == nil {
		t.Error("a key and --unsigned were taken")
	}
	if err := errors.Join(Finish(dir, key, false), Finish(dir, nil, true)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, SignatureFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the signature was left:", err)
	}
	sums, err := os.ReadFile(filepath.Join(dir, SumsFile))
	if err != nil || !bytes.Contains(sums, []byte(UnsignedFile)) {
		t.Errorf("the build does not say that it is unsigned: %s (%v)", sums, err)
	}
	if err := Verify(dir, key.Public().(ed25519.PublicKey)); err == nil {
		t.Error("an unsigned build was verified")
	}
	if err := Finish(dir, key, false); err != nil {
		t.Fatal(err)
	}
	if sums, err := os.ReadFile(filepath.Join(dir, SumsFile)); err != nil || bytes.Contains(sums, []byte(UnsignedFile)) {
		t.Error("a signed release says that it is unsigned:", err)
	}
}

// TestKeys: a key is never written over, is its owner's alone, and no error quotes it.
func TestKeys(t *testing.T) {
	_, path, _ := made(t)
	at, err := os.Stat(path)
	if err != nil || at.Mode().Perm() != 0o600 {
		t.Error("the key's mode:", at.Mode(), err)
	}
	if _, err := NewKey(path); !errors.Is(err, fs.ErrExist) {
		t.Error("a key was written over:", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path); err == nil {
		t.Error("a key that others may read was taken")
	}
	if _, err := LoadKey(path + PublicSuffix); err == nil {
		t.Error("a public key was taken for a private one")
	}
	if _, err := LoadPublicKey(path); err == nil {
		t.Error("a private key was taken for a public one")
	}
}

// TestWhatCannotBeReleased: names that mislead, links, directories and nothing.
func TestWhatCannotBeReleased(t *testing.T) {
	for what, do := range map[string]func(dir string) error{
		"nothing":     func(string) error { return nil },
		"a directory": func(dir string) error { return os.Mkdir(filepath.Join(dir, "d"), 0o700) },
		"a link":      func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "l")) },
		"a bad name":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "a\nb"), nil, 0o600) },
		"a dot":       func(dir string) error { return os.WriteFile(filepath.Join(dir, ".hidden"), nil, 0o600) },
	} {
		dir := t.TempDir()
		if err := do(dir); err != nil {
			t.Fatal(err)
		}
		if err := Finish(dir, make(ed25519.PrivateKey, ed25519.PrivateKeySize), false); err == nil {
			t.Errorf("%s was released", what)
		}
	}
}

// TestNoPrivateKeyIsReleased: not any kind of key, wherever in a file it lies, as OpenSSL
// writes it too; nothing is signed then. A program that only knows the words is released.
func TestNoPrivateKeyIsReleased(t *testing.T) {
	_, keyFile, key := made(t)
	ours, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(t.TempDir(), "rsa.pem")
	if out, err := run(t, t.TempDir(), "openssl", "genrsa", "-traditional", "-aes128", "-passout", "pass:abcd", "-out", theirs, "1024"); err != nil {
		t.Fatal(err, out)
	}
	rsa, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file string
		text []byte
		ok   bool
	}{
		"ours":            {"update.pem", ours, false},
		"OpenSSL's":       {"boot.pem", rsa, false},
		"over a boundary": {"disk.qcow2", append(make([]byte, 1<<20-20), ours...), false},
		"far behind":      {"disk.qcow2", append(make([]byte, 5<<20-150), ours...), false},
		"by its name":     {"der.key", []byte{0x30}, false},
		"a public key":    {"update.pub.pem", []byte("-----BEGIN PUBLIC KEY-----"), true},
		"words":           {"program", []byte("PRIVATE KEY-----BEGIN PRIVATE KEY"), true},
	} {
		dir, _, _ := made(t)
		if err := os.WriteFile(filepath.Join(dir, c.file), c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		err := Finish(dir, key, false)
		_, signed := os.Lstat(filepath.Join(dir, SignatureFile))
		if (err == nil) != c.ok || (signed == nil) != c.ok {
			t.Errorf("%s: %v (signed: %v)", name, err, signed == nil)
		}
	}
}

// FuzzParseSums: whatever stands in the file, what is read of it can be written again.
func FuzzParseSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("0a", 32) + "  lazaret.qcow2\n"))
	f.Add([]byte("\n"))
	f.Add([]byte(strings.Repeat("ff", 32) + "  ../x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sums, err := ParseSums(text)
		if err != nil {
			return
		}
		for name, sum := range sums {
			if len(sum) != 32 || strings.ContainsAny(name, "/\n\x00 ") || strings.HasPrefix(name, ".") {
				t.Errorf("read %q of %q", name, text)
			}
		}
	})
}

// contents are the smallest of everything.
func contents() Contents {
	return Contents{
		Name: "lazaret-cloud", Version: "1.2.3", Arch: "amd64",
		Program:  &debug.BuildInfo{GoVersion: "go1.26.8", Path: "lazaret/cmd/lazaretd", Deps: []*debug.Module{{Path: "golang.org/x/sys", Version: "v0.1.0", Sum: "h1:x="}}},
		Packages: []Package{{"linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1", "amd64", strings.Repeat("ab", 32)}},
		Files: []File{
			{"uki:/init", "lazaretd", 42, strings.Repeat("cd", 32)},
			{"uki:/lib/modules/6.12/kernel/net/wireguard.ko.xz", "linux-image-6.12.117+deb12-cloud-amd64", 7, ""},
		},
	}
}

// TestBOM: the list is what CycloneDX 1.6 calls for, with Debian's packages by their
// package URLs, and refers to nothing that is not in it.
func TestBOM(t *testing.T) {
	b, err := NewBOM(contents())
	if err != nil {
		t.Fatal(err)
	}
	again, err := NewBOM(contents())
	one, _ := json.Marshal(b)
	two, _ := json.Marshal(again)
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("not the same twice (%v):\n%s\n%s", err, one, two)
	}
	if !regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`).MatchString(b.Serial) {
		t.Error("serial number", b.Serial)
	}
	types := []string{"application", "library", "operating-system", "device-driver", "file"}
	known := map[string]bool{b.Metadata.Component.Ref: true}
	for _, c := range b.Components {
		if known[c.Ref] || c.Ref == "" || c.Name == "" || !slices.Contains(types, c.Type) {
			t.Errorf("component %+v", c)
		}
		known[c.Ref] = true
		for _, h := range c.Hashes {
			if h.Algorithm != "SHA-256" || !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(h.Content) {
				t.Errorf("hash %+v", h)
			}
		}
	}
	reached := make(map[string]bool)
	for _, d := range b.Dependencies {
		if !known[d.Ref] {
			t.Error("depends on something and is nothing:", d.Ref)
		}
		for _, on := range d.On {
			reached[on] = true
			if !known[on] {
				t.Error("depended on and not there:", on)
			}
		}
	}
	for ref := range known {
		if !reached[ref] && ref != b.Metadata.Component.Ref {
			t.Error("nothing is made of", ref)
		}
	}
	kernel := "pkg:deb/debian/linux-image-6.12.117%2Bdeb12-cloud-amd64@6.12.117-1~deb12u1?arch=amd64"
	if !known[kernel] || !known["pkg:golang/golang.org/x/sys@v0.1.0"] || !known["pkg:golang/std@1.26.8"] {
		t.Errorf("missing in %s", one)
	}
	c := contents()
	c.Packages[0].Version = "6.12.118-1"
	other, err := NewBOM(c)
	if err != nil || other.Serial == b.Serial {
		t.Error("another list has the same serial number", err)
	}
}
