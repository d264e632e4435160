package seed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// label is what a seed's file system is called, in any case.
const label = "cidata"

// Device is a block device that may hold a seed.
type Device struct {
	Path string // like /dev/sr0
	FS   string // vfat or iso9660, as mount(2) calls it
}

// ErrNone is returned where no device is labelled CIDATA.
var ErrNone = errors.New("no seed disk")

// Find returns the first of the block devices with a file system labelled CIDATA. Devices
// that cannot be read hold none.
func Find(paths []string, open func(path string) (io.ReaderAt, io.Closer, error)) (Device, error) {
	for _, path := range paths {
		r, c, err := open(path)
		if err != nil {
			continue
		}
		kind, name := Label(r)
		if c != nil {
			_ = c.Close() // it was only read
		}
		if strings.EqualFold(name, label) {
			return Device{path, kind}, nil
		}
	}
	return Device{}, ErrNone
}

// Label reads the kind and label of a file system, of those that a seed may have; kind is
// empty for others. It reads a few kilobytes at most.
func Label(r io.ReaderAt) (kind, name string) {
	if name, ok := isoLabel(r); ok {
		return "iso9660", name
	}
	if name, ok := fatLabel(r); ok {
		return "vfat", name
	}
	return "", ""
}

// isoLabel reads the volume identifier of the primary volume descriptor (ECMA-119, 8.4).
func isoLabel(r io.ReaderAt) (string, bool) {
	b := make([]byte, 72)
	if _, err := r.ReadAt(b, 16*sector); err != nil || !bytes.Equal(b[:7], []byte("\x01CD001\x01")) {
		return "", false
	}
	return strings.TrimRight(string(b[40:72]), " \x00"), true
}

// Bounds of the root directory that is searched for a label.
const (
	maxEntries  = 512
	entrySize   = 32
	labelEntry  = 0x08 // attribute
	longEntry   = 0x0f
	attributeAt = 11
)

// fatLabel reads the label of a FAT file system: the entry of the root directory, which
// everybody keeps, or the boot sector's, which some do not.
func fatLabel(r io.ReaderAt) (string, bool) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return "", false
	}
	size, perCluster := int64(binary.LittleEndian.Uint16(b[11:])), int64(b[13])
	reserved, tables := int64(binary.LittleEndian.Uint16(b[14:])), int64(b[16])
	if size < 512 || size > 4096 || size&(size-1) != 0 || perCluster == 0 || perCluster&(perCluster-1) != 0 || reserved == 0 || tables == 0 || tables > 4 {
		return "", false
	}
	entries, length := int64(binary.LittleEndian.Uint16(b[17:])), int64(binary.LittleEndian.Uint16(b[22:]))
	at, name := 43, int64(0)
	root := (reserved + tables*length) * size
	if length == 0 { // FAT32
		at = 71
		length, entries = int64(binary.LittleEndian.Uint32(b[36:])), perCluster*size/entrySize
		first := int64(binary.LittleEndian.Uint32(b[44:]))
		if length == 0 || first < 2 {
			return "", false
		}
		root = (reserved + tables*length + (first-2)*perCluster) * size
	}
	dir := make([]byte, min(entries, maxEntries)*entrySize)
	n, err := r.ReadAt(dir, root)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false
	}
	for ; name+entrySize <= int64(n); name += entrySize {
		e := dir[name : name+entrySize]
		if e[0] == 0 {
			break
		}
		if e[0] != 0xe5 && e[attributeAt] != longEntry && e[attributeAt]&labelEntry != 0 {
			return strings.TrimRight(string(e[:11]), " "), true
		}
	}
	if b[at-5] != 0x29 { // no extended boot signature, so no label either
		return "", true
	}
	return strings.TrimRight(string(b[at:at+11]), " "), true
}
