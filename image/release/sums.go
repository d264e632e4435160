// Package release makes what stands beside the files of a release: their checksums, the
// signature of those, and a bill of materials. It decides nothing about what is released.
package release

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"lazaret/internal/durable"
)

// Files that stand beside those of a release.
const (
	SumsFile      = "SHA256SUMS"     // as sha256sum(1) writes and reads it
	SignatureFile = "SHA256SUMS.sig" // Ed25519 over the bytes of SumsFile, 64 bytes (RFC 8032)
	UnsignedFile  = "UNSIGNED.txt"   // says that a build is for development alone
)

// unsignedText is what UnsignedFile says.
const unsignedText = "This is a development build. Nobody signed it: do not install it where it matters.\n"

// maxSums bounds SumsFile, in bytes, where it is read.
const maxSums = 1 << 20

// nameForm is what files of a release may be called: nothing that a shell or a terminal
// takes for something else.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]*$`)

// Finish writes checksums of every file in dir, and their signature. Without a key it
// refuses, unless the build is said to be unsigned, which then stands in the release
// itself. It skips raw disks (.raw), which are published compressed.
func Finish(dir string, key ed25519.PrivateKey, unsigned bool) error {
	if err := finish(dir, key, unsigned); err != nil {
		return fmt.Errorf("finishing the release in %s: %w", dir, err)
	}
	return nil
}

func finish(dir string, key ed25519.PrivateKey, unsigned bool) error {
	switch {
	case key == nil && !unsigned:
		return errors.New("there is no signing key: make one with mkimage key new, or say --unsigned for a development build")
	case key != nil && unsigned:
		return errors.New("a key and --unsigned: choose one")
	}
	// A signature that does not belong to the sums must not be left beside them.
	for _, name := range []string{SignatureFile, UnsignedFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if unsigned {
		if err := durable.Write(filepath.Join(dir, UnsignedFile), []byte(unsignedText), 0o644); err != nil {
			return err
		}
	}
	sums, err := sumsOf(dir)
	if err != nil {
		return err
	}
	if err := durable.Write(filepath.Join(dir, SumsFile), sums, 0o644); err != nil {
		return err
	}
	if unsigned {
		return nil
	}
	return durable.Write(filepath.Join(dir, SignatureFile), ed25519.Sign(key, sums), 0o644)
}

// sumsOf is the text of SumsFile, sorted by name.
func sumsOf(dir string) ([]byte, error) {
	names, err := released(dir)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, name := range names {
		if err := keepsKey(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		sum, err := sumOf(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		out = fmt.Appendf(out, "%x  %s\n", sum, name)
	}
	return out, nil
}

// released are the names of the files that sums are made of. What is there that cannot be
// released is an error, and not left out in silence.
func released(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		name := e.Name()
		switch {
		case name == SumsFile || name == SignatureFile || strings.HasSuffix(name, ".raw"):
			continue
		case !e.Type().IsRegular():
			return nil, fmt.Errorf("%s is no regular file", name)
		case !nameForm.MatchString(name):
			return nil, fmt.Errorf("%q: files of a release are named with letters, digits and ._+~-", name)
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("there is nothing to release")
	}
	slices.Sort(names)
	return names, nil
}

// keyForm is how a private key begins in PEM, of whatever kind (RFC 7468). Programs that
// read keys hold its words, and not the line.
var keyForm = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]{0,64}PRIVATE KEY-----`)

// keepsKey is an error where a file holds a private key, or is called like one: what is
// released cannot be taken back.
func keepsKey(path string) error {
	if strings.HasSuffix(path, ".key") {
		return fmt.Errorf("%s is called like a private key: keys are kept elsewhere", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	const most = 128 // of keyForm, bytes
	b, kept := make([]byte, 1<<20), 0
	for {
		n, err := io.ReadFull(f, b[kept:])
		if keyForm.Match(b[:kept+n]) {
			return fmt.Errorf("%s holds a private key: keys are kept elsewhere", path)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
		kept = copy(b, b[len(b)-most:])
	}
}

func sumOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return h.Sum(nil), nil
}

// Verify holds every file of a release to its checksum and the checksums to the key. A
// file that is missing or that no checksum names is an error.
func Verify(dir string, key ed25519.PublicKey) error {
	if err := verify(dir, key); err != nil {
		return fmt.Errorf("verifying the release in %s: %w", dir, err)
	}
	return nil
}

func verify(dir string, key ed25519.PublicKey) error {
	sums, err := readBounded(filepath.Join(dir, SumsFile), maxSums)
	if err != nil {
		return err
	}
	sig, err := readBounded(filepath.Join(dir, SignatureFile), ed25519.SignatureSize)
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, sums, sig) {
		return errors.New("the signature is not this key's over " + SumsFile)
	}
	want, err := ParseSums(sums)
	if err != nil {
		return err
	}
	names, err := released(dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		if want[name] == nil {
			faults = append(faults, fmt.Errorf("%s has no checksum", name))
		}
	}
	for name, sum := range want {
		got, err := sumOf(filepath.Join(dir, name))
		if err == nil && !bytes.Equal(got, sum) {
			err = fmt.Errorf("%s is not the file that was released", name)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// ParseSums reads the text of SumsFile: the SHA-256 sums by name.
func ParseSums(text []byte) (map[string][]byte, error) {
	out := make(map[string][]byte)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		digits, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		sum, err := hex.DecodeString(digits)
		if !ok || err != nil || len(sum) != sha256.Size || !nameForm.MatchString(name) || out[name] != nil {
			return nil, fmt.Errorf("%s, line %d: want a SHA-256 sum, two blanks and a name, each name once", SumsFile, n)
		}
		out[name] = sum
	}
	return out, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, err
}
