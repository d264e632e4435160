// Package gpt writes GUID partition tables (UEFI 2.10, chapter 5) onto fresh disks.
package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// Sector is the size this package counts in, in bytes.
const Sector = 512

// GUIDs of partition types (UAPI.2, Discoverable Partitions).
const (
	TypeESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	TypeData = "0fc63daf-8483-4772-8e79-3d69d8477de4" // Linux file system data
)

// Partition is one partition. Start and Size are in bytes, whole sectors.
type Partition struct {
	Type, GUID  string
	Name        string // at most 36 UTF-16 units
	Start, Size int64
}

const (
	entries      = 128
	entrySize    = 128
	tableSectors = entries * entrySize / Sector
	// Reserved is how many sectors at the end of the disk belong to the backup table.
	Reserved = tableSectors + 1
)

var le = binary.LittleEndian

// Write writes the protective MBR and both tables of a disk of size bytes.
func Write(w io.WriterAt, size int64, disk string, parts []Partition) error {
	sectors := size / Sector
	if size%Sector != 0 || sectors < 2*Reserved+2 || len(parts) > entries {
		return fmt.Errorf("no partition table fits: %d bytes, %d partitions", size, len(parts))
	}
	table := make([]byte, entries*entrySize)
	used := int64(tableSectors + 2)
	for i, p := range parts {
		first, count := p.Start/Sector, p.Size/Sector
		if p.Start%Sector != 0 || p.Size%Sector != 0 || count < 1 || first < used || first+count > sectors-Reserved {
			return fmt.Errorf("partition %s does not fit", p.Name)
		}
		used = first + count
		if err := entry(table[i*entrySize:][:entrySize], p); err != nil {
			return fmt.Errorf("partition %s: %w", p.Name, err)
		}
	}
	guid, err := parse(disk)
	if err != nil {
		return err
	}
	sum := crc32.ChecksumIEEE(table)
	for _, piece := range []struct {
		at   int64
		data []byte
	}{
		{0, protective(sectors)},
		{1, header(guid, 1, sectors-1, 2, sectors, sum)},
		{2, table},
		{sectors - Reserved, table},
		{sectors - 1, header(guid, sectors-1, 1, sectors-Reserved, sectors, sum)},
	} {
		if _, err := w.WriteAt(piece.data, piece.at*Sector); err != nil {
			return fmt.Errorf("writing partition table: %w", err)
		}
	}
	return nil
}

func entry(e []byte, p Partition) error {
	kind, err := parse(p.Type)
	if err != nil {
		return err
	}
	guid, err := parse(p.GUID)
	if err != nil {
		return err
	}
	name := utf16.Encode([]rune(p.Name))
	if len(name) > 36 {
		return errors.New("its name is too long")
	}
	copy(e, kind[:])
	copy(e[16:], guid[:])
	le.PutUint64(e[32:], uint64(p.Start/Sector))
	le.PutUint64(e[40:], uint64((p.Start+p.Size)/Sector-1))
	for i, c := range name {
		le.PutUint16(e[56+2*i:], c)
	}
	return nil
}

// header makes one of the two headers (section 5.3.2).
func header(disk [16]byte, at, other, table, sectors int64, sum uint32) []byte {
	h := make([]byte, Sector)
	copy(h, "EFI PART\x00\x00\x01\x00")
	le.PutUint32(h[12:], 92)
	le.PutUint64(h[24:], uint64(at))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], tableSectors+2)
	le.PutUint64(h[48:], uint64(sectors-Reserved-1))
	copy(h[56:], disk[:])
	le.PutUint64(h[72:], uint64(table))
	le.PutUint32(h[80:], entries)
	le.PutUint32(h[84:], entrySize)
	le.PutUint32(h[88:], sum)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}

// protective makes the MBR that keeps old tools off the disk (section 5.2.3).
func protective(sectors int64) []byte {
	m := make([]byte, Sector)
	p := m[446:]
	copy(p, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff})
	le.PutUint32(p[8:], 1)
	le.PutUint32(p[12:], uint32(min(sectors-1, 0xffffffff)))
	copy(m[:440], bios())
	m[510], m[511] = 0x55, 0xaa
	return m
}

// parse reads a GUID's text form into the mixed-endian bytes a disk holds (appendix A).
func parse(s string) ([16]byte, error) {
	var g [16]byte
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	copy(g[:], b)
	for _, r := range [][]byte{g[:4], g[4:6], g[6:8]} {
		reverse(r)
	}
	if bytes.Equal(g[:], make([]byte, 16)) {
		return g, errors.New("the GUID is zero")
	}
	return g, nil
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}
