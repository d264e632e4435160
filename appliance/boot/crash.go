package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Bounds of what is kept of crashes.
const (
	crashFiles = 64      // files in the directory; the newest stay
	crashSize  = 1 << 20 // bytes of one file
)

// SaveCrash moves what the kernel left in pstore when it died last to dir
// (appliance.CrashDir), where the newest few stay, and returns the new files' names. No
// file means that it did not die. What could not be saved stays in pstore.
func (c Config) SaveCrash(dir string) (saved []string, err error) {
	store := c.at("/sys/fs/pstore")
	left, err := os.ReadDir(store)
	if errors.Is(err, fs.ErrNotExist) || len(left) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for crashes: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("saving a crash: %w", err)
	}
	var faults []error
	stamp := time.Now().UTC().Format("20060102T150405Z")
	for _, e := range left {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		name, from := stamp+"-"+e.Name(), filepath.Join(store, e.Name())
		if len(saved) < crashFiles/2 { // one crash does not push out all others
			if err := copyFile(filepath.Join(dir, name), from, crashSize); err != nil {
				faults = append(faults, fmt.Errorf("saving a crash: %w", err))
				continue
			}
			saved = append(saved, name)
		}
		if err := os.Remove(from); err != nil {
			faults = append(faults, fmt.Errorf("removing a crash that was saved: %w", err))
		}
	}
	return saved, errors.Join(append(faults, thin(dir))...)
}

// copyFile writes a new file of mode 0600 with the first most bytes of another, and has it
// on the disk.
func copyFile(to, from string, most int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, most))
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(to))
	}
	return nil
}

// thin removes the oldest files of those too many; their names begin with the time.
func thin(dir string) error {
	all, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	var faults []error
	for _, name := range names[:max(len(names)-crashFiles, 0)] {
		faults = append(faults, os.Remove(filepath.Join(dir, name)))
	}
	return errors.Join(faults...)
}
