package format

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// A dynamic VHDX, as [MS-VHDX] describes it: headers, an empty log, the metadata and the
// block table in front, then the blocks that hold something.
const (
	vhdxBlock    = MiB // small: Linux file systems touch blocks sparsely
	vhdxLogical  = 512
	vhdxPhysical = 4096
	vhdxLog      = 1 * MiB
	vhdxMeta     = 2 * MiB
	vhdxTable    = 3 * MiB
	vhdxPresent  = 6                                   // PAYLOAD_BLOCK_FULLY_PRESENT
	vhdxRatio    = (1 << 23) * vhdxLogical / vhdxBlock // payload blocks per bitmap block
)

// Identifiers of regions and metadata items.
const (
	vhdxTableID    = "2DC27766-F623-4200-9D64-115E9BFD4A08"
	vhdxMetaID     = "8B7CA206-4790-4B9A-B8FE-575F050F886E"
	vhdxParamsID   = "CAA16737-FA36-4D43-B3B6-33F0AA44E76B"
	vhdxSizeID     = "2FA54224-CD1B-4876-B211-5DBED83BF4B8"
	vhdxPageID     = "BECA12AB-B2E6-4523-93EF-C309E000C746"
	vhdxLogicalID  = "8141BF1D-A96F-4709-BA47-F233A8FAAB5F"
	vhdxPhysicalID = "CDA348C7-445D-4471-9CC9-E9885251C556"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// VHDX writes d as a dynamic VHDX with sectors of 512 bytes on 4096. w must be empty.
func VHDX(w io.WriterAt, d *Disk) error {
	blocks := d.size / vhdxBlock
	table := make([]byte, roundMiB((blocks+(blocks-1)/vhdxRatio)*8))
	at := int64(vhdxTable + len(table))
	err := d.each(vhdxBlock, func(from int64, piece []byte) error {
		i := from / vhdxBlock
		binary.LittleEndian.PutUint64(table[(i+i/vhdxRatio)*8:], uint64(at)|vhdxPresent)
		_, err := w.WriteAt(piece, at)
		at += vhdxBlock
		return err
	})
	var parts map[int64][]byte
	if err == nil {
		parts, err = d.vhdxParts(table)
	}
	for from, b := range parts {
		if err == nil {
			_, err = w.WriteAt(b, from)
		}
	}
	if err != nil {
		return fmt.Errorf("writing vhdx: %w", err)
	}
	return nil
}

func roundMiB(n int64) int64 { return (n + MiB - 1) / MiB * MiB }

// vhdxParts are all parts in front of the blocks, by offset.
func (d *Disk) vhdxParts(table []byte) (map[int64][]byte, error) {
	page, err := d.uuid("vhdx page 83")
	if err != nil {
		return nil, err
	}
	file, err := d.uuid("vhdx file")
	if err != nil {
		return nil, err
	}
	data, err := d.uuid("vhdx data")
	if err != nil {
		return nil, err
	}
	ident := []byte("vhdxfile")
	for _, u := range utf16.Encode([]rune("lazaret")) {
		ident = binary.LittleEndian.AppendUint16(ident, u)
	}
	regions := vhdxRegions(len(table))
	return map[int64][]byte{
		0: append(ident, make([]byte, 64<<10-len(ident))...), 64 << 10: vhdxHeader(1, file, data), 128 << 10: vhdxHeader(2, file, data),
		192 << 10: regions, 256 << 10: regions, vhdxLog: make([]byte, MiB), vhdxMeta: d.vhdxMetadata(page), vhdxTable: table,
	}, nil
}

// vhdxHeader is one of the two headers; the one with the higher number counts.
func vhdxHeader(number uint64, file, data [16]byte) []byte {
	h := make([]byte, 4096)
	le := binary.LittleEndian
	copy(h, "head")
	le.PutUint64(h[8:], number)
	copy(h[16:], file[:])
	copy(h[32:], data[:])
	le.PutUint16(h[66:], 1) // version; the log's identifier is zero: nothing to replay
	le.PutUint32(h[68:], MiB)
	le.PutUint64(h[72:], vhdxLog)
	le.PutUint32(h[4:], crc32.Checksum(h, castagnoli))
	return h
}

func vhdxRegions(table int) []byte {
	r := make([]byte, 64<<10)
	le := binary.LittleEndian
	copy(r, "regi")
	le.PutUint32(r[8:], 2)
	for i, x := range []struct {
		id         string
		at, length int
	}{{vhdxTableID, vhdxTable, table}, {vhdxMetaID, vhdxMeta, MiB}} {
		e := r[16+i*32:]
		copy(e, guid(x.id))
		le.PutUint64(e[16:], uint64(x.at))
		le.PutUint32(e[24:], uint32(x.length))
		le.PutUint32(e[28:], 1) // required
	}
	le.PutUint32(r[4:], crc32.Checksum(r, castagnoli))
	return r
}

func (d *Disk) vhdxMetadata(page [16]byte) []byte {
	m := make([]byte, MiB)
	le := binary.LittleEndian
	copy(m, "metadata")
	const ofDisk, required = 2, 4
	items := []struct {
		id    string
		value []byte
		flags uint32
	}{
		{vhdxParamsID, le.AppendUint64(nil, vhdxBlock), required}, // block size, then no flags
		{vhdxSizeID, le.AppendUint64(nil, uint64(d.size)), ofDisk | required},
		{vhdxPageID, page[:], ofDisk | required},
		{vhdxLogicalID, le.AppendUint32(nil, vhdxLogical), ofDisk | required},
		{vhdxPhysicalID, le.AppendUint32(nil, vhdxPhysical), ofDisk | required},
	}
	le.PutUint16(m[10:], uint16(len(items)))
	at := 64 << 10
	for i, x := range items {
		e := m[32+i*32:]
		copy(e, guid(x.id))
		le.PutUint32(e[16:], uint32(at))
		le.PutUint32(e[20:], uint32(len(x.value)))
		le.PutUint32(e[24:], x.flags)
		at += copy(m[at:], x.value)
	}
	return m
}

// guid is the binary form of a GUID: its first three fields little-endian.
func guid(s string) []byte {
	var a uint32
	var b, c uint16
	var d, e uint64
	if _, err := fmt.Sscanf(s, "%08X-%04X-%04X-%04X-%012X", &a, &b, &c, &d, &e); err != nil {
		panic("a constant GUID is malformed: " + s)
	}
	out := binary.LittleEndian.AppendUint32(nil, a)
	out = binary.LittleEndian.AppendUint16(out, b)
	out = binary.LittleEndian.AppendUint16(out, c)
	return binary.BigEndian.AppendUint64(out, d<<48|e)
}
