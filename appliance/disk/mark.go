package disk

import (
	"bytes"
	"errors"
	"fmt"

	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/luks"
)

// The mark says that nothing on the partition is worth keeping: it was being made, or a
// factory reset was asked for. It stands where both copies of the header would, in each
// sector, so that one write puts it there and destroys both, and any sector of it tells
// when that write was torn.
const markSize = luks.Headers

var markLine = "lazaret: nothing on this partition is worth keeping\n"

// mark is one sector of it.
func mark() []byte {
	b := make([]byte, 512)
	for i := range b {
		b[i] = markLine[i%len(markLine)]
	}
	return b
}

// content is what a data partition holds.
type content int

const (
	foreign content = iota // the zero content is not to be touched
	blank
	marked
	encrypted
)

// edge is how much at either end must be zero for a partition to be blank.
const edge = 1 << 20

// inspect says what a partition holds, and of something foreign, what it looks like.
func inspect(d block.Device) (content, string, error) {
	head, err := block.Read(d, 0, edge)
	if err != nil {
		return foreign, "", err
	}
	one := mark()
	for at := 0; at < markSize; at += len(one) {
		if bytes.Equal(head[at:at+len(one)], one) {
			return marked, "", nil
		}
	}
	if _, err := luks.Read(d); err == nil || errors.Is(err, luks.ErrKind) {
		return encrypted, "", nil
	}
	tail, err := block.Read(d, d.Size()-edge, edge)
	if err != nil {
		return foreign, "", err
	}
	if block.Zero(tail) && untouched(head, one) {
		return blank, "", nil
	}
	return foreign, recognise(head), nil
}

// untouched reports whether there are only zeros, and what a torn first write of the mark
// leaves: less than a sector of it.
func untouched(head, one []byte) bool {
	for i, b := range head {
		if b != 0 && (i >= markSize || b != one[i%len(one)]) {
			return false
		}
	}
	return true
}

// recognise names what begins with these bytes, for a person.
func recognise(head []byte) string {
	if _, err := ext4.Read(bytes.NewReader(head)); err == nil {
		return "an ext4 file system"
	}
	for _, k := range []struct {
		at    int
		magic string
		name  string
	}{
		{0, "LUKS\xba\xbe", "a LUKS header that is damaged"}, {0, "XFSB", "an XFS file system"}, {65600, "_BHRfS_M", "a Btrfs file system"},
		{536, "LVM2 001", "an LVM volume"}, {24, "LVM2 001", "an LVM volume"}, {3, "NTFS    ", "an NTFS file system"}, {32769, "CD001", "an ISO 9660 image"},
		{4086, "SWAPSPACE2", "swap space"}, {82, "FAT32", "a FAT file system"}, {54, "FAT1", "a FAT file system"}, {512, "EFI PART", "a partition table"}, {1080, "\x53\xef", "an ext file system"},
	} {
		if bytes.HasPrefix(head[k.at:], []byte(k.magic)) {
			return k.name
		}
	}
	return "unknown data"
}

// putMark destroys both copies of the header, in one write.
func putMark(d block.Device) error {
	if _, err := d.WriteAt(bytes.Repeat(mark(), markSize/512), 0); err != nil {
		return fmt.Errorf("marking partition: %w", err)
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("marking partition: %w", err)
	}
	return nil
}

// destroy makes everything on the partition unreadable for good: with its first write the
// salts are gone without which no keyslot opens, then the keyslots, then, where the disk
// can, the data.
func destroy(d block.Device) error {
	if err := putMark(d); err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(markSize); at < luks.DataOffset && at < d.Size(); at += int64(len(zeros)) {
		n := min(int64(len(zeros)), luks.DataOffset-at, d.Size()-at)
		if _, err := d.WriteAt(zeros[:n], at); err != nil {
			return fmt.Errorf("destroying keys: %w", err)
		}
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("destroying keys: %w", err)
	}
	if t, ok := d.(block.Discarder); ok && d.Size() > edge {
		_ = t.Discard(edge, d.Size()-edge) // many disks cannot; the keys are gone
	}
	return nil
}
