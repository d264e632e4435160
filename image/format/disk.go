// Package format writes a raw disk in the forms that hypervisors take: qcow2, vmdk
// (streamOptimized), OVA, vhdx and raw.zst. It reads the disk piece by piece, skips its
// holes, and the same disk gives the same bytes every time.
package format

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// MiB is what sizes of virtual disks are multiples of.
const MiB = 1 << 20

// maxSize bounds virtual disks, in bytes: what 32-bit sector tables of vmdk hold.
const maxSize = 1 << 40

// Disk is a raw disk to be written in other forms. It may be declared larger than what
// there is of it; the rest reads as zeros, and whoever boots it moves the backup of the
// partition table to the new end.
type Disk struct {
	r    io.ReaderAt
	raw  int64 // bytes of r
	size int64 // bytes, as declared
	next func(from int64) int64
	id   *[sha256.Size]byte
}

// New makes a Disk of the raw bytes in r, declared to have size bytes; 0: raw, rounded up
// to a mebibyte.
func New(r io.ReaderAt, raw, size int64) (*Disk, error) {
	if size == 0 {
		size = (raw + MiB - 1) / MiB * MiB
	}
	switch {
	case raw <= 0 || raw%512 != 0:
		return nil, fmt.Errorf("a raw disk of %d bytes: it must be whole sectors of 512", raw)
	case size%MiB != 0 || size > maxSize:
		return nil, fmt.Errorf("a virtual disk of %d bytes: it must be a multiple of 1 MiB, up to 1 TiB", size)
	case size < raw:
		return nil, fmt.Errorf("a virtual disk of %d bytes is smaller than the raw one of %d", size, raw)
	}
	d := &Disk{r: r, raw: raw, size: size, next: func(from int64) int64 { return from }}
	if f, ok := r.(*os.File); ok {
		d.next = func(from int64) int64 { return nextData(f, from) }
	}
	return d, nil
}

// Open is New for a file. The caller closes it.
func Open(path string, size int64) (*Disk, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the raw disk: %w", err)
	}
	at, err := f.Stat()
	var d *Disk
	if err == nil {
		d, err = New(f, at.Size(), size)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("opening the raw disk %s: %w", path, err), f.Close())
	}
	return d, f, nil
}

// Size is the declared size in bytes.
func (d *Disk) Size() int64 { return d.size }

// each calls do with every piece of unit bytes that is not all zeros, in order. The piece
// is valid until do returns. Holes are skipped without reading; zeros that were written
// give the same as holes.
func (d *Disk) each(unit int64, do func(at int64, piece []byte) error) error {
	piece, zeros := make([]byte, unit), make([]byte, unit)
	for at := int64(0); at < d.raw; at += unit {
		if from := d.next(at); from >= d.raw {
			return nil
		} else if from > at {
			at = from / unit * unit
		}
		n, err := d.r.ReadAt(piece[:min(unit, d.raw-at)], at)
		if err != nil && (!errors.Is(err, io.EOF) || int64(n) < min(unit, d.raw-at)) {
			return fmt.Errorf("reading the raw disk at %d: %w", at, err)
		}
		clear(piece[n:])
		if bytes.Equal(piece, zeros) {
			continue
		}
		if err := do(at, piece); err != nil {
			return err
		}
	}
	return nil
}

// identity is a digest of what is on the disk and of its declared size: what identifiers
// of the written forms are derived from.
func (d *Disk) identity() ([sha256.Size]byte, error) {
	if d.id != nil {
		return *d.id, nil
	}
	h := sha256.New()
	var head [8]byte
	binary.LittleEndian.PutUint64(head[:], uint64(d.size))
	h.Write(head[:])
	err := d.each(MiB, func(at int64, piece []byte) error {
		binary.LittleEndian.PutUint64(head[:], uint64(at))
		h.Write(head[:])
		h.Write(piece)
		return nil
	})
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	d.id = new([sha256.Size]byte)
	h.Sum(d.id[:0])
	return *d.id, nil
}

// uuid is a UUID of version 8 (RFC 9562) made of the disk's identity and a purpose.
func (d *Disk) uuid(purpose string) (u [16]byte, err error) {
	id, err := d.identity()
	if err != nil {
		return u, err
	}
	sum := sha256.Sum256(append([]byte(purpose+"\x00"), id[:]...))
	copy(u[:], sum[:])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u, nil
}
