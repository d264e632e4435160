package format

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
)

// streamOptimized vmdk, as VMware's Virtual Disk Format 5.0 describes it.
const (
	sector        = 512
	vmdkGrain     = 128 * sector
	vmdkEntries   = 512 // grains per table
	vmdkTable     = vmdkEntries * 4 / sector
	vmdkHead      = 128 // sectors before the first grain
	vmdkText      = 20  // sectors of the descriptor
	vmdkAtEnd     = ^uint64(0)
	markTable     = 1
	markDirectory = 2
	markFooter    = 3
)

// vmdk is a stream while it is written.
type vmdk struct {
	w         *bufio.Writer
	at        uint32 // sectors written
	table     []uint32
	number    int64 // of table
	directory []uint32
}

// VMDK writes d as a streamOptimized vmdk; name stands in its descriptor as the file's.
func VMDK(w io.Writer, d *Disk, name string) error {
	v := &vmdk{w: bufio.NewWriterSize(w, 1<<18), directory: make([]uint32, (d.size/vmdkGrain+vmdkEntries-1)/vmdkEntries)}
	if err := v.write(d, name); err != nil {
		return fmt.Errorf("writing vmdk: %w", err)
	}
	return nil
}

func (v *vmdk) write(d *Disk, name string) error {
	text, err := d.descriptor(name)
	if err != nil {
		return err
	}
	head := append(vmdkHeader(d.size, vmdkAtEnd), text...)
	if len(head) > (1+vmdkText)*sector {
		return fmt.Errorf("the descriptor has %d bytes, more than %d", len(text), vmdkText*sector)
	}
	if err := v.put(head, vmdkHead); err != nil {
		return err
	}
	var packed bytes.Buffer
	z, err := zlib.NewWriterLevel(&packed, zlib.BestCompression)
	if err != nil {
		return err
	}
	err = d.each(vmdkGrain, func(at int64, piece []byte) error {
		packed.Reset()
		packed.Write(make([]byte, 12))
		z.Reset(&packed)
		if _, err := z.Write(piece); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		return v.grain(at, packed.Bytes())
	})
	if err != nil {
		return err
	}
	return v.finish(d.size)
}

// put writes b, padded to sectors; at least as many as least.
func (v *vmdk) put(b []byte, least int) error {
	n := max((len(b)+sector-1)/sector, least)
	if _, err := v.w.Write(b); err != nil {
		return err
	}
	_, err := v.w.Write(make([]byte, n*sector-len(b)))
	v.at += uint32(n)
	return err
}

// grain writes a compressed grain; b has room for the marker in front.
func (v *vmdk) grain(at int64, b []byte) error {
	i := at / vmdkGrain
	if n := i / vmdkEntries; n != v.number || v.table == nil {
		if err := v.endTable(); err != nil {
			return err
		}
		v.number, v.table = n, make([]uint32, vmdkEntries)
	}
	binary.LittleEndian.PutUint64(b, uint64(at/sector))
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)-12))
	v.table[i%vmdkEntries] = v.at
	return v.put(b, 0)
}

func (v *vmdk) mark(kind uint32, sectors int) error {
	var m [sector]byte
	binary.LittleEndian.PutUint64(m[:], uint64(sectors))
	binary.LittleEndian.PutUint32(m[12:], kind)
	return v.put(m[:], 1)
}

// endTable writes the table of the grains before it.
func (v *vmdk) endTable() error {
	if v.table == nil {
		return nil
	}
	if err := v.mark(markTable, vmdkTable); err != nil {
		return err
	}
	v.directory[v.number] = v.at
	return v.put(words(v.table), vmdkTable)
}

func words(list []uint32) []byte {
	b := make([]byte, 0, len(list)*4)
	for _, x := range list {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// finish writes directory, footer and end of stream.
func (v *vmdk) finish(size int64) error {
	if err := v.endTable(); err != nil {
		return err
	}
	d := words(v.directory)
	n := (len(d) + sector - 1) / sector
	if err := v.mark(markDirectory, n); err != nil {
		return err
	}
	at := v.at
	if err := v.put(d, n); err != nil {
		return err
	}
	if err := v.mark(markFooter, 1); err != nil {
		return err
	}
	if err := v.put(vmdkHeader(size, uint64(at)), 1); err != nil {
		return err
	}
	if err := v.put(nil, 1); err != nil {
		return err
	}
	return v.w.Flush()
}

// vmdkHeader is SparseExtentHeader; the footer is the same with the directory's place.
func vmdkHeader(size int64, directory uint64) []byte {
	h := make([]byte, sector)
	le := binary.LittleEndian
	copy(h, "KDMV")
	le.PutUint32(h[4:], 3)
	le.PutUint32(h[8:], 1|1<<16|1<<17) // line ends are tested; grains are compressed; there are markers
	le.PutUint64(h[12:], uint64(size/sector))
	le.PutUint64(h[20:], vmdkGrain/sector)
	le.PutUint64(h[28:], 1) // descriptor
	le.PutUint64(h[36:], vmdkText)
	le.PutUint32(h[44:], vmdkEntries)
	le.PutUint64(h[56:], directory)
	le.PutUint64(h[64:], vmdkHead)
	copy(h[73:], "\n \r\n")
	le.PutUint16(h[77:], 1) // deflate
	return h
}

// descriptor is the text part, with identifiers derived from what is on the disk.
func (d *Disk) descriptor(name string) (string, error) {
	u, err := d.uuid("vmdk")
	if err != nil {
		return "", err
	}
	content, err := d.uuid("vmdk content")
	if err != nil {
		return "", err
	}
	cid := binary.BigEndian.Uint32(content[12:])
	if cid == 0xffffffff { // means: none
		cid--
	}
	pairs := fmt.Sprintf("% x", u)
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.encoding = "UTF-8"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.longContentID = "%s%08x"
ddb.uuid = "%s-%s"
ddb.virtualHWVersion = "14"
`, cid, d.size/sector, name, d.size/sector/(255*63), hex.EncodeToString(content[:12]), cid, pairs[:23], pairs[24:]), nil
}
