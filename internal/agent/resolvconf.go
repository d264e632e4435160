package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// DefaultResolvConf is the file of resolv.conf(5).
const DefaultResolvConf = "/etc/resolv.conf"

// before is what the file that was there is called meanwhile.
const before = ".before-lazaret"

// resolvConf is the resolver's file. What was there is kept beside it, and comes back when
// the tunnel goes; whoever else writes the file meanwhile is left alone. Everything that
// must be known for that stands in the two files, since this process may be killed.
type resolvConf struct {
	path string
	log  *slog.Logger
}

const mark1 = "# Written by lazaret while its tunnel is up. What was here is in "

// conf is the file with these servers. Its sum shows whether somebody has edited it.
func (f *resolvConf) conf(servers []netip.Addr) []byte {
	var body strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&body, "nameserver %s\n", s)
	}
	return fmt.Appendf(nil, "%s%s\n# and comes back. Sum of what follows: %x\n%s", mark1, f.path+before, sha256.Sum256([]byte(body.String())), body.String())
}

// ours reports whether text is a file as conf makes it, unchanged.
func ours(text []byte) bool {
	lines := bytes.SplitN(text, []byte("\n"), 3)
	if len(lines) < 3 || !bytes.HasPrefix(lines[0], []byte(mark1)) {
		return false
	}
	return bytes.HasSuffix(lines[1], fmt.Appendf(nil, " %x", sha256.Sum256(lines[2])))
}

// standing is how the two files stand.
type standing string

const (
	untouched standing = "untouched" // the file is the device's own
	replaced  standing = "replaced"  // it is ours, and the device's own is beside it, if it had one
	foreign   standing = "foreign"   // it was ours, and somebody else has written it since
)

func (f *resolvConf) standing() (standing, error) {
	text, err := os.ReadFile(f.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading %s: %w", f.path, err)
	}
	if err == nil && ours(text) {
		return replaced, nil
	}
	own, err := os.Lstat(f.path + before)
	if errors.Is(err, fs.ErrNotExist) {
		return untouched, nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for what was in %s: %w", f.path, err)
	}
	now, err := os.Lstat(f.path)
	switch {
	case err == nil && os.SameFile(own, now): // kept, and then nothing more was done
		return untouched, nil
	case err == nil && now.Mode().IsRegular() && now.Size() == 0: // written in place, and cut short
		return replaced, nil
	}
	return foreign, nil
}

// left says whether the file is, or was, one of ours.
func (f *resolvConf) left() (bool, error) {
	s, err := f.standing()
	return s == replaced || s == foreign, err
}

func (f *resolvConf) set(servers []netip.Addr) error {
	if len(servers) == 0 {
		return f.restore()
	}
	s, err := f.standing()
	if err != nil {
		return err
	}
	switch s {
	case foreign:
		f.log.Warn("another program has written the resolver's file since: it is left alone", "file", f.path)
		return nil
	case untouched:
		if err := f.keep(); err != nil {
			return fmt.Errorf("keeping what is in %s: %w", f.path, err)
		}
	}
	if err := f.write(f.conf(servers)); err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	return nil
}

// keep gives the device's own file, or link to one, a second name.
func (f *resolvConf) keep() error {
	if err := os.Remove(f.path + before); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Link(f.path, f.path+before)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the device has none
	}
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) { // a mount of its own, as in a container
		text, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		return replace(f.path+before, text)
	}
	return err
}

// write replaces the file as a whole; one that is a mount of its own is written in place.
func (f *resolvConf) write(text []byte) error {
	err := replace(f.path, text)
	if errors.Is(err, syscall.EBUSY) {
		return os.WriteFile(f.path, text, 0o644)
	}
	return err
}

// replace puts text in a file's place, wholly or not at all.
func replace(path string, text []byte) error {
	n, err := os.CreateTemp(filepath.Dir(path), ".lazaret-*")
	if err != nil {
		return err
	}
	defer os.Remove(n.Name())
	_, err = n.Write(text)
	if err = errors.Join(err, n.Chmod(0o644), n.Sync(), n.Close()); err != nil {
		return err
	}
	return os.Rename(n.Name(), path)
}

func (f *resolvConf) restore() error {
	s, err := f.standing()
	if err != nil {
		return err
	}
	switch s {
	case replaced:
		err = f.bringBack()
	case foreign:
		f.log.Warn("another program has written the resolver's file since: what it wrote stays", "file", f.path)
		err = os.Remove(f.path + before)
	case untouched:
		if err = os.Remove(f.path + before); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("bringing back %s: %w", f.path, err)
	}
	return nil
}

func (f *resolvConf) bringBack() error {
	err := os.Rename(f.path+before, f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist): // the device had none
		return os.Remove(f.path)
	case errors.Is(err, syscall.EBUSY):
		text, err := os.ReadFile(f.path + before)
		if err == nil {
			err = os.WriteFile(f.path, text, 0o644)
		}
		if err != nil {
			return err
		}
		return os.Remove(f.path + before)
	}
	return err
}
