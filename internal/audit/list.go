package audit

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Filter chooses entries. The zero Filter chooses all.
type Filter struct {
	Device string    // only of this device
	Action string    // only this action
	Since  time.Time // not before
	Limit  int       // at most so many, the newest; zero: all
}

func (f Filter) match(e Entry) bool {
	return (f.Device == "" || e.Device == f.Device) &&
		(f.Action == "" || e.Action == f.Action) &&
		!e.Time.Before(f.Since)
}

// List reads entries back, newest first. A torn last line is passed over; a broken
// line ends the reading with a *Fault and what was read of later segments.
func List(dir string, filter Filter) ([]Entry, error) {
	fsys := os.DirFS(dir)
	names, err := segments(fsys)
	if err != nil {
		return nil, fmt.Errorf("listing audit segments: %w", err)
	}
	var found []Entry
	for _, name := range slices.Backward(names) {
		entries, newest, err := listSegment(fsys, name, filter)
		if err != nil {
			return found, err
		}
		slices.Reverse(entries)
		found = append(found, entries...)
		if filter.Limit > 0 && len(found) >= filter.Limit {
			return found[:filter.Limit], nil
		}
		// Clocks step back now and then; a day's margin covers it.
		if !newest.IsZero() && newest.Add(24*time.Hour).Before(filter.Since) {
			break
		}
	}
	return found, nil
}

// listSegment returns a segment's matching entries in order, and its newest time.
func listSegment(fsys fs.FS, name string, filter Filter) (entries []Entry, newest time.Time, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, newest, fmt.Errorf("opening audit segment: %w", err)
	}
	defer f.Close()
	r := newLineReader(f)
	if _, err := r.header(); err != nil {
		return nil, newest, r.fault(name, err)
	}
	for {
		e, err := r.entry()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return entries, newest, nil
		}
		if err != nil {
			return nil, newest, r.fault(name, err)
		}
		if e.Time.After(newest) {
			newest = e.Time
		}
		if filter.match(e) {
			entries = append(entries, e)
		}
	}
}

// Export writes all segments into one tar archive, which VerifyTar reads. It may run
// while the log grows.
func Export(dir string, w io.Writer) error {
	fsys := os.DirFS(dir)
	names, err := segments(fsys)
	if err != nil {
		return fmt.Errorf("listing audit segments: %w", err)
	}
	t := tar.NewWriter(w)
	for _, name := range names {
		if err := exportSegment(fsys, name, t); err != nil {
			return fmt.Errorf("exporting %s: %w", name, err)
		}
	}
	return t.Close()
}

func exportSegment(fsys fs.FS, name string, t *tar.Writer) error {
	f, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o600, Size: info.Size(), ModTime: info.ModTime(), Format: tar.FormatPAX}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, info.Size())
	return err
}
