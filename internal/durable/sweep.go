package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// stale is when a temporary file beside one that is written is nobody's: what a crash left.
const stale = time.Hour

// mark follows a file's name in the names of temporary files for it.
const mark = ".new-"

// prefix is what names of temporary files for path begin with.
func prefix(path string) string { return "." + filepath.Base(path) + mark }

// sweep removes what crashes left beside a file. It has no errors: the next one tries again.
func sweep(path string) {
	at, err := os.Lstat(path)
	if err != nil {
		return
	}
	_ = remove(filepath.Dir(path), func(name string) bool { return strings.HasPrefix(name, prefix(path)) }, func(changed time.Time) bool {
		return changed.Before(at.ModTime().Add(-stale))
	})
}

// Sweep removes what crashes left in a directory: temporary files of Write and Create, and
// files whose names match one of these patterns (see filepath.Match), as other ways of
// writing left. What was changed within this time may be another's work, and stays; zero is
// for who alone writes there.
func Sweep(dir string, within time.Duration, patterns ...string) error {
	left := func(name string) bool {
		for _, p := range patterns {
			if ok, _ := filepath.Match(p, name); ok {
				return true
			}
		}
		return strings.HasPrefix(name, ".") && strings.Contains(name[1:], mark)
	}
	before := time.Now().Add(-within)
	if err := remove(dir, left, func(changed time.Time) bool { return within == 0 || changed.Before(before) }); err != nil {
		return fmt.Errorf("removing unfinished files: %w", err)
	}
	return nil
}

// remove removes files of a directory by name and by when they were changed, for good when it
// returns.
func remove(dir string, named func(string) bool, old func(changed time.Time) bool) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var faults []error
	gone := false
	for _, e := range list {
		if !named(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		at, err := e.Info()
		if err == nil && old(at.ModTime()) {
			err = os.Remove(filepath.Join(dir, e.Name()))
			gone = gone || err == nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, err)
		}
	}
	if gone {
		faults = append(faults, SyncDir(dir))
	}
	return errors.Join(faults...)
}
