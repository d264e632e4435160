package update

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"sync"
	"time"
)

// MaxImage bounds a slot's file, in bytes: three of them fit the EFI system partition.
const MaxImage = 160 << 20

// Schema is the version of the data that this build writes below appliance.DataDir. A build
// reads that of the build before, and writes what that one reads, or else has a number of
// its own here: then the data are copied before it first touches them (snapshot.go).
const Schema = 1

// Manifest says what a bundle holds.
type Manifest struct {
	V            int       `json:"v"` // 1
	Version      string    `json:"version"`
	Architecture string    `json:"architecture"` // as GOARCH: amd64, arm64
	Flavour      string    `json:"flavour"`      // of the kernel: cloud, metal
	Follows      string    `json:"follows"`      // the oldest version that it may be started after
	Schema       int       `json:"schema"`       // of the data that it writes
	Reads        int       `json:"reads"`        // the oldest schema that it reads
	Size         int64     `json:"size"`         // of the image, bytes
	SHA256       string    `json:"sha256"`       // of the image, hexadecimal
	Created      time.Time `json:"created"`
	Notes        string    `json:"notes,omitempty"` // URL of what is new
}

var (
	flavourForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`) })
	sumForm     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })
)

// Check says what is wrong with a manifest.
func (m Manifest) Check() error {
	switch {
	case m.V != 1:
		return refused("its manifest is of version %d; this build knows 1", m.V)
	case CheckVersion(m.Version) != nil:
		return CheckVersion(m.Version)
	case CheckVersion(m.Follows) != nil:
		return CheckVersion(m.Follows)
	case CompareVersions(m.Follows, m.Version) >= 0:
		return refused("version %s may follow %s only, which is not older", m.Version, m.Follows)
	case !flavourForm().MatchString(m.Architecture) || !flavourForm().MatchString(m.Flavour):
		return refused("it names no architecture or flavour")
	case m.Schema < 1 || m.Reads < 1 || m.Reads > m.Schema || m.Schema > 1<<20:
		return refused("it reads schema %d and writes %d", m.Reads, m.Schema)
	case m.Size < 1 || m.Size > MaxImage:
		return refused("its image has %d bytes, which is not 1 to %d", m.Size, MaxImage)
	case !sumForm().MatchString(m.SHA256):
		return refused("its image has no SHA-256")
	}
	return checkNotes(m.Notes)
}

func checkNotes(notes string) error {
	if notes == "" {
		return nil
	}
	if u, err := url.Parse(notes); err != nil || u.Scheme != "https" || u.Host == "" || len(notes) > 500 {
		return refused("its notes are at no https URL")
	}
	return nil
}

// Target is a machine that may take a bundle.
type Target struct {
	Version, Architecture, Flavour string
	Schema                         int // of the data on its disk
}

// Admit says why a machine does not take a bundle with this manifest. There is no way to an
// older version but back to the slot that holds it.
func (t Target) Admit(m Manifest) error {
	switch {
	case m.Architecture != t.Architecture:
		return refused("the bundle is for %s; this machine is %s", m.Architecture, t.Architecture)
	case m.Flavour != t.Flavour:
		return refused("the bundle is of flavour %s; this machine has %s", m.Flavour, t.Flavour)
	case CompareVersions(m.Version, t.Version) == 0:
		return refused("version %s runs already", m.Version)
	case CompareVersions(m.Version, t.Version) < 0:
		return refused("version %s is older than %s, which runs: roll back to the version before instead", m.Version, t.Version)
	case CompareVersions(t.Version, m.Follows) < 0:
		return refused("version %s follows %s or newer, and %s runs: update to one in between first", m.Version, m.Follows, t.Version)
	case t.Schema > m.Schema || t.Schema < m.Reads:
		return refused("version %s reads data of schema %d to %d, and this machine's are of %d", m.Version, m.Reads, m.Schema, t.Schema)
	}
	return nil
}

// Open reads a bundle's header. What follows in r is the image, which Copy takes.
func Open(r io.Reader, keys Keys) (Manifest, error) {
	text, err := bundles.open(r, keys)
	if err != nil {
		return Manifest{}, fmt.Errorf("opening the bundle: %w", err)
	}
	var m Manifest
	if err := decode(text, &m); err != nil {
		return Manifest{}, fmt.Errorf("opening the bundle: %w", err)
	}
	return m, m.Check()
}

// Copy writes the image to w and says whether it was the one of the manifest, whole and
// with nothing behind it. Nobody may use what was written if it was not.
func (m Manifest) Copy(w io.Writer, r io.Reader) error {
	h := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(w, h), r, m.Size); err == io.EOF {
		return refused("the bundle ends in the middle")
	} else if err != nil {
		return fmt.Errorf("copying the image: %w", err)
	}
	if err := m.sum(h.Sum(nil)); err != nil {
		return err
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 {
		return refused("something follows the image")
	} else if err != io.EOF {
		return fmt.Errorf("copying the image: %w", err)
	}
	return nil
}

func (m Manifest) sum(sum []byte) error {
	want, err := hex.DecodeString(m.SHA256)
	if err != nil || subtle.ConstantTimeCompare(want, sum) != 1 {
		return refused("the image is not the one that was signed")
	}
	return nil
}

// Write makes a bundle of an image. Size and SHA256 of the manifest are filled in.
func Write(w io.Writer, m Manifest, image io.ReadSeeker, keys ...ed25519.PrivateKey) (Manifest, error) {
	h := sha256.New()
	size, err := io.Copy(h, image)
	if err != nil {
		return m, fmt.Errorf("reading the image: %w", err)
	}
	m.V, m.Size, m.SHA256 = 1, size, hex.EncodeToString(h.Sum(nil))
	if err := m.Check(); err != nil {
		return m, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	head, err := bundles.seal(text, keys)
	if err != nil {
		return m, err
	}
	if _, err := w.Write(head); err != nil {
		return m, fmt.Errorf("writing the bundle: %w", err)
	}
	if _, err := image.Seek(0, io.SeekStart); err != nil {
		return m, fmt.Errorf("reading the image: %w", err)
	}
	if n, err := io.Copy(w, image); err != nil || n != size {
		return m, fmt.Errorf("writing the bundle: %d of %d bytes of the image: %w", n, size, err)
	}
	return m, nil
}
