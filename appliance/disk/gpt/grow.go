package gpt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"lazaret/appliance/disk/block"
)

// align is where partitions end, in bytes.
const align = 1 << 20

// Options say what Grow changes besides sizes.
type Options struct {
	Name string                   // the partition that gets the rest of the disk; it must be the last. Required
	ID   func() (g GUID, ok bool) // fresh GUIDs for the disk and that partition. Optional: they stay
}

// Grow moves the backup table to the disk's end and extends the named partition as far as
// it goes; on a disk where that is done it writes nothing. The backup is written first, the
// table at the beginning only when that is durable, its header last: whenever the power is
// cut, one of the two is whole, and the next Grow finishes. The other partitions keep
// their GUIDs, since the firmware's boot entries name them.
func Grow(d block.Device, o Options) (t *Table, changed bool, err error) {
	t, err = Read(d)
	if err != nil {
		return nil, false, err
	}
	want, err := t.grown(d, o)
	if err != nil {
		return nil, false, fmt.Errorf("growing partition %q: %w", o.Name, err)
	}
	sectors := uint64(d.Size()) / uint64(t.Sector)
	backup, berr := readAt(d, sectors-1, sectors)
	if t.primary && berr == nil && t.same(want) && backup.same(want) {
		return t, false, nil
	}
	if err := want.write(d, t); err != nil {
		return nil, false, fmt.Errorf("writing partition table: %w", err)
	}
	again, err := Read(d)
	if err == nil && (!again.primary || !again.same(want)) {
		err = errors.New("it is another")
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading the partition table back: %w", err)
	}
	return again, true, nil
}

// grown is the table as it should be.
func (t *Table) grown(d block.Device, o Options) (*Table, error) {
	p, ok := t.Find(o.Name)
	if !ok {
		return nil, errors.New("there is not one such partition")
	}
	sectors := uint64(d.Size()) / uint64(t.Sector)
	w := &Table{Sector: t.Sector, head: t.head, entries: bytes.Clone(t.entries), Disk: t.Disk}
	room := t.head.arraySectors(t.Sector)
	w.head.self, w.head.other, w.head.array = 1, sectors-1, 2
	w.head.last = sectors - 2 - room
	if w.head.first < 2+room {
		return nil, errors.New("no room for the entries at the disk's beginning")
	}
	last := (w.head.last+1)/(align/uint64(t.Sector))*(align/uint64(t.Sector)) - 1
	for _, other := range t.Partitions {
		if other.Last > w.head.last {
			return nil, fmt.Errorf("partition %d ends beyond what a table leaves free", other.Number)
		}
		if other.First > p.Last {
			return nil, fmt.Errorf("partition %d comes after it", other.Number)
		}
	}
	e := w.entries[(p.Number-1)*int(t.head.size):]
	if last > p.Last && last < sectors { // never smaller
		binary.LittleEndian.PutUint64(e[40:], last)
	}
	if o.ID != nil {
		if id, ok := o.ID(); ok {
			copy(e[16:32], id[:])
		}
		if id, ok := o.ID(); ok {
			w.head.disk, w.Disk = id, id
		}
	}
	w.head.sum = crc32.ChecksumIEEE(w.entries)
	return w, nil
}

// same reports whether both say the same of the partitions, and of where the copies are.
func (t *Table) same(o *Table) bool {
	places := t.head.self == o.head.self && t.head.other == o.head.other || t.head.self == o.head.other && t.head.other == o.head.self
	return places && t.head.first == o.head.first && t.head.last == o.head.last && t.head.disk == o.head.disk && t.head.size == o.head.size && bytes.Equal(t.entries, o.entries)
}

// write writes both copies of a table whose head is that of the beginning, over one that
// was read from was: the copy that is not the one read goes first.
func (t *Table) write(d block.Device, was *Table) error {
	back := t.head
	back.self, back.other = t.head.other, t.head.self
	back.array = back.self - t.head.arraySectors(t.Sector)
	first, second := back, t.head
	if !was.primary {
		first, second = t.head, back
	}
	if err := t.copyTo(d, first); err != nil {
		return err
	}
	if was.primary {
		if err := was.forget(d, back.array); err != nil {
			return err
		}
	}
	if err := t.copyTo(d, second); err != nil {
		return err
	}
	return t.protect(d)
}

// copyTo writes one copy, entries first: no header ever stands before what it vouches for.
func (t *Table) copyTo(d block.Device, h header) error {
	if err := t.put(d, h.array, t.entries); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := t.put(d, h.self, h.bytes()); err != nil {
		return err
	}
	return d.Sync()
}

// forget clears a former backup that will lie among the data, lest it be taken for
// something of value there. The copies in use are at the beginning and from before on.
func (t *Table) forget(d block.Device, before uint64) error {
	old, err := readAt(d, t.head.other, uint64(d.Size())/uint64(t.Sector))
	if err != nil || old.head.disk != t.head.disk || old.head.array != t.head.last+1 || t.head.other >= before {
		return nil
	}
	if err := t.put(d, old.head.array, make([]byte, int(t.head.other-old.head.array+1)*t.Sector)); err != nil {
		return err
	}
	return d.Sync()
}

// put writes whole sectors.
func (t *Table) put(d block.Device, at uint64, b []byte) error {
	padded := make([]byte, (len(b)+t.Sector-1)/t.Sector*t.Sector)
	copy(padded, b)
	_, err := d.WriteAt(padded, int64(at)*int64(t.Sector))
	return err
}

func (h header) bytes() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	copy(b, "EFI PART")
	le.PutUint32(b[8:], 0x00010000)
	le.PutUint32(b[12:], headerSize)
	le.PutUint64(b[24:], h.self)
	le.PutUint64(b[32:], h.other)
	le.PutUint64(b[40:], h.first)
	le.PutUint64(b[48:], h.last)
	copy(b[56:], h.disk[:])
	le.PutUint64(b[72:], h.array)
	le.PutUint32(b[80:], h.count)
	le.PutUint32(b[84:], h.size)
	le.PutUint32(b[88:], h.sum)
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b))
	return b
}

// protect makes the protective MBR's one partition cover the disk (UEFI Specification,
// section 5.2.3). The boot code beside it stays; a torn write leaves a size that nobody
// minds.
func (t *Table) protect(d block.Device) error {
	b, err := block.Read(d, 0, t.Sector)
	if err != nil {
		return err
	}
	size := uint32(min(uint64(d.Size())/uint64(t.Sector)-1, 0xffffffff))
	e := b[446:462]
	if b[510] != 0x55 || b[511] != 0xaa || e[4] != 0xee || binary.LittleEndian.Uint32(e[12:]) == size {
		return nil
	}
	binary.LittleEndian.PutUint32(e[12:], size)
	if _, err := d.WriteAt(b, 0); err != nil {
		return err
	}
	return d.Sync()
}
