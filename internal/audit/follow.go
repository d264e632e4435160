package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Numbered is an entry and its number in the chain. The first entry is 1, and no number is
// given twice.
type Numbered struct {
	Sequence uint64
	Entry
}

// Follower reads a log forwards while it grows. One goroutine uses it at a time.
type Follower struct {
	dir   string
	after uint64 // of the entry read last
	file  *os.File
	lines *lineReader
}

// Follow returns a Follower that begins with the entry behind a number; 0: with the first.
func Follow(dir string, after uint64) *Follower { return &Follower{dir: dir, after: after} }

// Next returns what follows, in order: at most limit entries, none beyond number last, and
// none where the log has no more yet. Where entries behind the last one read are gone with
// their segment, it goes on with the oldest there are. After an error it may be called again.
func (f *Follower) Next(last uint64, limit int) ([]Numbered, error) {
	var out []Numbered
	for len(out) < limit && f.after < last {
		e, err := f.next()
		switch {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return out, err
		case e.Sequence > last:
			f.Close() // read again when it may be told
			return out, nil
		}
		f.after = e.Sequence
		out = append(out, e)
	}
	return out, nil
}

// Close closes the segment that is open; Next opens it again.
func (f *Follower) Close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file, f.lines = nil, nil
	return err
}

// next returns the entry behind f.after, or io.EOF.
func (f *Follower) next() (Numbered, error) {
	if f.file == nil {
		if err := f.find(); err != nil {
			return Numbered{}, err
		}
	}
	for {
		n, err := f.read()
		if err == nil {
			return n, nil
		}
		// What came while we read was written before a later segment was begun.
		later, lookErr := f.later()
		if lookErr != nil {
			return Numbered{}, lookErr
		}
		again, rewindErr := f.again()
		switch {
		case rewindErr != nil:
			return Numbered{}, rewindErr
		case again.Sequence != 0:
			return again, nil
		case later != 0:
			err = f.open(later)
		case errors.Is(err, errTorn):
			err = io.EOF
		}
		if err != nil {
			return Numbered{}, err
		}
	}
}

// again reads once more from behind the last good line; the zero Numbered: nothing new.
func (f *Follower) again() (Numbered, error) {
	if _, err := f.file.Seek(f.lines.good, io.SeekStart); err != nil {
		return Numbered{}, fmt.Errorf("following the audit log: %w", err)
	}
	f.lines.r.Reset(f.file)
	n, err := f.read()
	if err != nil { // seen before: the caller tells of it
		if _, err := f.file.Seek(f.lines.good, io.SeekStart); err != nil {
			return Numbered{}, fmt.Errorf("following the audit log: %w", err)
		}
		f.lines.r.Reset(f.file)
		return Numbered{}, nil
	}
	return n, nil
}

// read returns the next entry of the open segment that is behind f.after.
func (f *Follower) read() (Numbered, error) {
	for {
		e, err := f.lines.entry()
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			return Numbered{}, err
		}
		if err != nil {
			return Numbered{}, f.lines.fault(filepath.Base(f.file.Name()), err)
		}
		if f.lines.head.Sequence > f.after {
			return Numbered{f.lines.head.Sequence, e}, nil
		}
	}
}

// find opens the segment that holds the entry behind f.after, or the oldest there is.
func (f *Follower) find() error {
	names, err := segments(os.DirFS(f.dir))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(names) == 0 {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("listing audit segments: %w", err)
	}
	for i, name := range slices.Backward(names) {
		number, _ := segmentNumber(name)
		if err := f.open(number); err != nil {
			return err
		}
		if f.lines.head.Sequence <= f.after || i == 0 {
			break
		}
	}
	return nil
}

// later is the number of the segment behind the open one; 0: there is none yet.
func (f *Follower) later() (uint64, error) {
	next := f.lines.head.Segment + 1
	_, err := os.Stat(filepath.Join(f.dir, segmentName(next)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("following the audit log: %w", err)
	}
	return next, nil
}

func (f *Follower) open(number uint64) error {
	f.Close()
	file, err := os.Open(filepath.Join(f.dir, segmentName(number)))
	if err != nil {
		return fmt.Errorf("opening audit segment: %w", err)
	}
	f.file, f.lines = file, newLineReader(file)
	if _, err := f.lines.header(); err != nil {
		fault := f.lines.fault(segmentName(number), err)
		f.Close()
		return fault
	}
	return nil
}
