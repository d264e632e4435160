package tunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lazaret/internal/durable"
)

// LoadOrCreateKey reads the private key at path, one line as wg(8) writes it, or
// makes a new one there: mode 0600, whole or not at all, on the disk when it returns.
// A file that is there and holds no key, or that others may read, is refused, never
// replaced. Two that race end up with one key. What crashes left of earlier attempts in its
// directory goes after an hour: it may hold a key.
func LoadOrCreateKey(path string) (PrivateKey, error) {
	_ = durable.Sweep(filepath.Dir(path), time.Hour, ".key-*") // the next start tries again
	k, err := loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = GeneratePrivateKey(); err != nil {
		return PrivateKey{}, err
	}
	if err := durable.Create(path, []byte(k.Text()+"\n"), 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return PrivateKey{}, fmt.Errorf("keeping the private key %s: %w", path, err)
	}
	return loadKey(path)
}

func loadKey(path string) (PrivateKey, error) {
	f, err := os.Open(path)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the private key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the private key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return PrivateKey{}, fmt.Errorf("reading the private key %s: its mode is %v, want 0600", path, info.Mode().Perm())
	}
	var b [64]byte // a key is 44 characters and a line end
	n, err := f.Read(b[:])
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the private key %s: %w", path, err)
	}
	k, err := ParsePrivateKey(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return PrivateKey{}, fmt.Errorf("reading the private key %s: %w", path, err)
	}
	return k, nil
}
