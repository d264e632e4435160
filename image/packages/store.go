package packages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Where packages come from. A pinned hash says what they are, so the way they travel need
// not be trusted; snapshot keeps what the archive has replaced by newer versions.
const (
	DefaultMirror   = "http://deb.debian.org"
	DefaultSnapshot = "https://snapshot.debian.org"
)

// Store keeps packages in a directory and fetches what is not there.
type Store struct {
	Dir      string       // required; made if it is not there
	Mirror   string       // URL of the archive's host, optional; empty: DefaultMirror
	Snapshot string       // URL, optional; empty: DefaultSnapshot
	Offline  bool         // never fetch
	Client   *http.Client // optional
	Log      *slog.Logger // required
}

// ErrMissing is wrapped by the error of a package that could not be had.
var ErrMissing = errors.New("package is missing")

// Get returns the path of a package's file, fetching it first if need be. A file with
// another hash is refused, and a part of one never kept.
func (s *Store) Get(ctx context.Context, p Package) (string, error) {
	name := filepath.Join(s.Dir, p.File())
	switch sum, err := hashOf(name); {
	case err == nil && sum == p.SHA256:
		return name, nil
	case err == nil:
		return "", fmt.Errorf("package %s has SHA-256 %s, and %s is pinned: remove it", name, sum, p.SHA256)
	case !errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("reading package: %w", err)
	}
	help := fmt.Sprintf("put %s into %s (apt-get download %s:%s=%s)", p.File(), s.Dir, p.Name, p.Arch, p.Version)
	if s.Offline {
		return "", fmt.Errorf("%w: %s %s for %s; %s", ErrMissing, p.Name, p.Version, p.Arch, help)
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return "", fmt.Errorf("making package directory: %w", err)
	}
	var failed []string
	for _, u := range s.urls(p) {
		s.Log.Info("fetching", "package", p.Name, "version", p.Version, "megabytes", (p.Size+1<<19)>>20, "from", u)
		err := s.fetch(ctx, u, name, p)
		if err == nil {
			return name, nil
		}
		failed = append(failed, err.Error())
		if ctx.Err() != nil {
			break
		}
	}
	return "", fmt.Errorf("%w: %s %s for %s: %s; else %s", ErrMissing, p.Name, p.Version, p.Arch, strings.Join(failed, "; "), help)
}

// urls lists where a package may be: the archive, and the archive of what once was there.
func (s *Store) urls(p Package) []string {
	mirror, snapshot := s.Mirror, s.Snapshot
	if mirror == "" {
		mirror = DefaultMirror
	}
	if snapshot == "" {
		snapshot = DefaultSnapshot
	}
	// A + in a path means itself, but some servers take it for a space.
	file := strings.ReplaceAll((&url.URL{Path: p.Path}).EscapedPath(), "+", "%2B")
	archive, rest, _ := strings.Cut(file, "/")
	return []string{
		strings.TrimSuffix(mirror, "/") + "/" + file,
		strings.TrimSuffix(snapshot, "/") + "/archive/" + archive + "/" + Taken + "/" + rest,
	}
}

func (s *Store) fetch(ctx context.Context, u, name string, p Package) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	client := s.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", u, res.Status)
	}
	return keep(name, p, res.Body)
}

// keep writes what is read under a name of its own, and gives it its name once its hash is
// right.
func keep(name string, p Package, r io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".fetching-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, p.Size+1))
	if err != nil {
		return fmt.Errorf("fetching %s: %w", p.File(), err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); n != p.Size || sum != p.SHA256 {
		return fmt.Errorf("fetching %s: %d bytes with SHA-256 %s, pinned are %d with %s", p.File(), n, sum, p.Size, p.SHA256)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func hashOf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
