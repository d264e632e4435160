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
// the tunnel goes; whoever else writes the file meanwhile is left alone until this process
// ends. Everything else that must be known stands in the two files, since this process may
// be killed.
type resolvConf struct {
	path   string
	log    *slog.Logger
	theirs bool // somebody else has written the file since this process did
}

const (
	mark1 = "# Written by lazaret while its tunnel is up. What was here is in "
	mark2 = "# and comes back. Servers, and a sum over them:"
)

func (f *resolvConf) head() []byte { return []byte(mark1 + f.path + before + "\n" + mark2) }

// conf is the file with these servers. Its head names them too, which shows whether
// somebody has edited the file, or it was not written to its end.
func (f *resolvConf) conf(servers []netip.Addr) []byte {
	var list, lines []byte
	for _, s := range servers {
		list = fmt.Appendf(list, " %s", s)
		lines = fmt.Appendf(lines, "nameserver %s\n", s)
	}
	return fmt.Appendf(f.head(), "%s %x\n%s", list, sha256.Sum256(list), lines)
}

// ours reports whether text is a file as conf makes it; cut, whether it is only the
// beginning of one, as a write in place leaves it that fails or is interrupted.
func (f *resolvConf) ours(text []byte) (whole, cut bool) {
	begun := bytes.TrimRight(text, "\x00") // a crash may leave the length without the text
	if bytes.HasPrefix(f.head(), begun) {
		return false, true
	}
	rest, ok := bytes.CutPrefix(begun, f.head())
	if !ok {
		return false, false
	}
	line, _, ended := bytes.Cut(rest, []byte("\n"))
	if !ended {
		return false, true
	}
	words := strings.Fields(string(line))
	var servers []netip.Addr
	for _, word := range words[:max(len(words)-1, 0)] { // the sum is compared with the rest
		s, err := netip.ParseAddr(word)
		if err != nil {
			return false, false
		}
		servers = append(servers, s)
	}
	want := f.conf(servers)
	return bytes.Equal(text, want), bytes.HasPrefix(want, begun)
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
	whole, cut := f.ours(text)
	if err == nil && whole {
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
	case err == nil && (os.SameFile(own, now) || f.sameLink()): // kept, and then nothing more was done
		return untouched, nil
	case err == nil && now.Mode().IsRegular() && (cut || f.begun(text)): // written in place, and cut short
		return replaced, nil
	}
	return foreign, nil
}

// sameLink reports whether both files are links to one place.
func (f *resolvConf) sameLink() bool {
	to, err := os.Readlink(f.path)
	kept, bad := os.Readlink(f.path + before)
	return err == nil && bad == nil && to == kept
}

// begun reports whether text is the device's own as far as it goes: bringing it back in
// place was cut short.
func (f *resolvConf) begun(text []byte) bool {
	kept, err := os.ReadFile(f.path + before)
	return err == nil && bytes.HasPrefix(kept, bytes.TrimRight(text, "\x00"))
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
	if s == foreign && !f.theirs {
		f.theirs = true
		f.log.Warn("another program has written the resolver's file since: it is left alone", "file", f.path)
	}
	if f.theirs {
		return nil
	}
	if s == untouched {
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
		return f.duplicate()
	}
	return err
}

// duplicate keeps the device's own file where it can have no second name: its text, or
// where it leads if it is a link, since whoever keeps what a link leads to goes on to.
func (f *resolvConf) duplicate() error {
	now, err := os.Lstat(f.path)
	if err != nil {
		return err
	}
	if now.Mode()&fs.ModeSymlink != 0 {
		to, err := os.Readlink(f.path)
		if err != nil {
			return err
		}
		return os.Symlink(to, f.path+before)
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return err
	}
	return replace(f.path+before, text)
}

// write replaces the file as a whole; one that is a mount of its own is written in place,
// and gets back what was there if that fails, as on a full disk.
func (f *resolvConf) write(text []byte) error {
	err := replace(f.path, text)
	if errors.Is(err, syscall.EBUSY) {
		if err = os.WriteFile(f.path, text, 0o644); err != nil {
			err = errors.Join(err, f.bringBack())
		}
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
		f.theirs = true
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
