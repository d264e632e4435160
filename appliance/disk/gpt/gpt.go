// Package gpt reads and grows GUID partition tables (UEFI Specification, section 5.3), of
// 512-byte and 4096-byte sectors. Its input is a disk that anybody may have written:
// everything is bounded and checked before it is believed.
package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"unicode/utf16"

	"lazaret/appliance/disk/block"
)

// ErrNone reports a disk without a whole partition table.
var ErrNone = errors.New("no whole GUID partition table")

// ErrSmall reports, beside ErrNone, a table that says of its disk that it is larger than it is.
var ErrSmall = errors.New("the disk is smaller than its partition table says")

// Bounds of what is taken: UEFI asks for room for 128 entries of 128 bytes.
const (
	maxEntries = 1024
	maxBytes   = 256 << 10 // of all entries together
	headerSize = 92
	entrySize  = 128 // the part of an entry that has a meaning
)

// GUID is one as it lies on the disk: its first three fields are little-endian.
type GUID [16]byte

// String is the usual form, in lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// Partition is an entry that is in use.
type Partition struct {
	Number      int // from 1, as Linux counts
	Type, ID    GUID
	First, Last uint64 // sectors, both in it
	Name        string
}

// Table is a partition table that was checked.
type Table struct {
	Disk       GUID
	Partitions []Partition // by number
	Sector     int         // bytes

	head    header
	entries []byte
	primary bool // it was read from the disk's beginning
}

// header is what a header says, of either copy.
type header struct {
	self, other uint64 // sectors of the two headers
	first, last uint64 // sectors partitions may use
	disk        GUID
	array       uint64 // first sector of the entries
	count, size uint32 // of the entries
	sum         uint32 // CRC-32 of the entries
}

// arraySectors is how many sectors the entries take.
func (h header) arraySectors(sector int) uint64 {
	return (uint64(h.count)*uint64(h.size) + uint64(sector) - 1) / uint64(sector)
}

// Read reads the table of a disk: the one at its beginning, or, where that is not whole,
// the copy in its last sector. ErrNone.
func Read(d block.Device) (*Table, error) {
	sector := d.SectorSize()
	if sector != 512 && sector != 4096 {
		return nil, fmt.Errorf("%w: sectors of %d bytes", ErrNone, sector)
	}
	sectors := uint64(d.Size()) / uint64(sector)
	if sectors < 64 {
		return nil, fmt.Errorf("%w: the disk is too small", ErrNone)
	}
	t, err := readAt(d, 1, sectors)
	if err == nil {
		return t, nil
	}
	t, second := readAt(d, sectors-1, sectors)
	if second != nil {
		return nil, fmt.Errorf("%w: at the beginning: %w; at the end: %w", ErrNone, err, second)
	}
	return t, nil
}

// readAt reads the copy whose header is in one sector of a disk with so many of them.
func readAt(d block.Device, at, sectors uint64) (*Table, error) {
	sector := d.SectorSize()
	b, err := block.Read(d, int64(at)*int64(sector), sector)
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	if err := h.check(at, sectors, sector); err != nil {
		return nil, err
	}
	entries, err := block.Read(d, int64(h.array)*int64(sector), int(h.arraySectors(sector))*sector)
	if err != nil {
		return nil, err
	}
	entries = entries[:h.count*h.size]
	if crc32.ChecksumIEEE(entries) != h.sum {
		return nil, errors.New("the entries' checksum is wrong")
	}
	parts, err := parseEntries(entries, h)
	if err != nil {
		return nil, err
	}
	return &Table{Disk: h.disk, Partitions: parts, Sector: sector, head: h, entries: entries, primary: at == 1}, nil
}

func parseHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerSize || !bytes.Equal(b[:8], []byte("EFI PART")) {
		return header{}, errors.New("no header")
	}
	size := le.Uint32(b[12:])
	if size < headerSize || int64(size) > int64(len(b)) || le.Uint32(b[8:]) != 0x00010000 {
		return header{}, errors.New("a header of another kind")
	}
	c := bytes.Clone(b[:size])
	clear(c[16:20])
	if crc32.ChecksumIEEE(c) != le.Uint32(b[16:]) {
		return header{}, errors.New("the header's checksum is wrong")
	}
	return header{
		self: le.Uint64(b[24:]), other: le.Uint64(b[32:]), first: le.Uint64(b[40:]), last: le.Uint64(b[48:]),
		disk: GUID(b[56:72]), array: le.Uint64(b[72:]), count: le.Uint32(b[80:]), size: le.Uint32(b[84:]), sum: le.Uint32(b[88:]),
	}, nil
}

// check refuses a header that was not found where it says it is, or points off the disk.
func (h header) check(at, sectors uint64, sector int) error {
	switch {
	case h.self != at:
		return errors.New("the header is that of another sector")
	case h.size < entrySize || h.size > 4096 || h.size%8 != 0 || h.count == 0 || h.count > maxEntries || uint64(h.count)*uint64(h.size) > maxBytes:
		return fmt.Errorf("%d entries of %d bytes", h.count, h.size)
	case h.first <= h.last && h.last >= sectors:
		return ErrSmall
	case h.first > h.last || h.array < 2 || h.array >= sectors || h.arraySectors(sector) > sectors-h.array:
		return errors.New("the header points off the disk")
	case h.array <= h.last && h.array+h.arraySectors(sector) > h.first:
		return errors.New("the entries lie among the partitions")
	}
	return nil
}

func parseEntries(b []byte, h header) ([]Partition, error) {
	var all []Partition
	for i := range int(h.count) {
		e := b[i*int(h.size):][:entrySize]
		if block.Zero(e[:16]) {
			continue
		}
		p := Partition{Number: i + 1, Type: GUID(e[:16]), ID: GUID(e[16:32]), First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:]), Name: name(e[56:])}
		if p.First < h.first || p.Last < p.First || p.Last > h.last {
			return nil, fmt.Errorf("partition %d is not on the disk", p.Number)
		}
		for _, o := range all {
			if p.First <= o.Last && o.First <= p.Last {
				return nil, fmt.Errorf("partitions %d and %d overlap", o.Number, p.Number)
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// name reads UTF-16LE up to its first zero.
func name(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// Find returns the one partition of that name.
func (t *Table) Find(name string) (Partition, bool) {
	var found Partition
	for _, p := range t.Partitions {
		if p.Name == name {
			if found.Number != 0 {
				return Partition{}, false
			}
			found = p
		}
	}
	return found, found.Number != 0
}

// Range is where a partition lies, in bytes.
func (t *Table) Range(p Partition) (off, size int64) {
	if p.Last >= math.MaxInt64/uint64(t.Sector) {
		return 0, 0
	}
	return int64(p.First) * int64(t.Sector), int64(p.Last-p.First+1) * int64(t.Sector)
}
