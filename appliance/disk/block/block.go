// Package block reads and writes what keeps blocks: disks, partitions, mappings and, in
// tests, files and devices whose power fails.
package block

import (
	"errors"
	"fmt"
	"io"
)

// Device keeps blocks. A write has surely happened only when the Sync after it has
// returned; until then it may be there, be there in part, or not.
type Device interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Size() int64     // bytes
	SectorSize() int // bytes; a power cut may tear a write between sectors
}

// Discarder is a Device that can be told that what it keeps is not wanted any more. What
// is read there later is not said.
type Discarder interface {
	Discard(off, length int64) error
}

// MaxRead bounds what one Read may ask for, in bytes.
const MaxRead = 32 << 20

// ErrRange reports a place that is not on the device.
var ErrRange = errors.New("beyond the end of the device")

// Read returns the bytes [off, off+n).
func Read(d io.ReaderAt, off int64, n int) ([]byte, error) {
	if n < 0 || n > MaxRead || off < 0 {
		return nil, ErrRange
	}
	b := make([]byte, n)
	if got, err := d.ReadAt(b, off); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading %d bytes at %d: %w", n, off, err)
	}
	return b, nil
}

// Zero reports whether b holds nothing but zeros.
func Zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
