package seed

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

// sector is that of ISO 9660.
const sector = 2048

// Where things lie in an image that Write makes, in sectors.
const (
	descriptorAt = 16 // the primary one; behind it, the one that ends the set
	littleTable  = 18
	bigTable     = 19
	rootAt       = 20
	filesAt      = 21
)

// part is one file of an image.
type part struct {
	iso, name string // by ISO 9660, and by Rock Ridge
	text      []byte
	at        uint32 // sector
}

// Write writes a seed disk: an ISO 9660 image labelled CIDATA, with the files' real names by
// Rock Ridge (IEEE P1282), which needs no tables of characters to be read.
func Write(w io.Writer, f Files) error {
	parts := []part{{"META_DAT.;1", metaData, f.MetaData, 0}}
	if f.NetworkConfig != nil {
		parts = append(parts, part{"NETWORK_.;1", networkConfig, f.NetworkConfig, 0})
	}
	parts = append(parts, part{"USER_DAT.;1", userData, f.UserData, 0})
	next := uint32(filesAt)
	for i := range parts {
		if len(parts[i].text) > maxFile {
			return fmt.Errorf("writing the seed: %s has more than %d bytes", parts[i].name, maxFile)
		}
		parts[i].at = next
		next += sectors(len(parts[i].text))
	}
	now := time.Now().UTC()
	image := make([]byte, int(next)*sector)
	primary(image[descriptorAt*sector:], next, now)
	copy(image[(descriptorAt+1)*sector:], "\xffCD001\x01")
	pathTable(image[littleTable*sector:], binary.LittleEndian)
	pathTable(image[bigTable*sector:], binary.BigEndian)
	root := image[rootAt*sector : rootAt*sector]
	root = record(root, "\x00", rootAt, sector, true, append(shared(), attributes(true)...), now)
	root = record(root, "\x01", rootAt, sector, true, attributes(true), now)
	for _, p := range parts {
		more := append(attributes(false), 'N', 'M', byte(5+len(p.name)), 1, 0)
		root = record(root, p.iso, p.at, len(p.text), false, append(more, p.name...), now)
		copy(image[int(p.at)*sector:], p.text)
	}
	if _, err := w.Write(image); err != nil {
		return fmt.Errorf("writing the seed: %w", err)
	}
	return nil
}

// sectors is how many a file takes; an empty one has its own, too.
func sectors(size int) uint32 { return uint32(max((size+sector-1)/sector, 1)) }

// both writes a number in both orders of bytes (ECMA-119, 7.3.3).
func both(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

// primary writes the primary volume descriptor (ECMA-119, 8.4).
func primary(b []byte, size uint32, now time.Time) {
	copy(b, "\x01CD001\x01")
	text := func(from, to int, s string) { copy(b[from:to], s+strings.Repeat(" ", to-from-len(s))) }
	text(8, 40, "")
	text(40, 72, strings.ToUpper(label))
	both(b[80:], size)
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], sector)
	both(b[132:], 10) // bytes of the path table
	binary.LittleEndian.PutUint32(b[140:], littleTable)
	binary.BigEndian.PutUint32(b[148:], bigTable)
	record(b[156:156], "\x00", rootAt, sector, true, nil, now)
	text(190, 813, "")
	stamp := now.Format("20060102150405") + "00\x00"
	none := strings.Repeat("0", 16) + "\x00"
	copy(b[813:], stamp+stamp+none+none)
	b[881] = 1
}

// pathTable writes the root's entry (ECMA-119, 9.4).
func pathTable(b []byte, order binary.ByteOrder) {
	b[0] = 1
	order.PutUint32(b[2:], rootAt)
	order.PutUint16(b[6:], 1)
}

// record appends a directory record (ECMA-119, 9.1) with its system use fields.
func record(to []byte, name string, at uint32, size int, dir bool, more []byte, now time.Time) []byte {
	length := 33 + len(name)
	length += length % 2
	b := make([]byte, length, length+len(more)+1)
	both(b[2:], at)
	both(b[10:], uint32(size))
	copy(b[18:], []byte{byte(now.Year() - 1900), byte(now.Month()), byte(now.Day()), byte(now.Hour()), byte(now.Minute()), byte(now.Second()), 0})
	if dir {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	b = append(b, more...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	b[0] = byte(len(b))
	return append(to, b...)
}

// shared says that Rock Ridge is used (SUSP 5.3 and 5.5); it stands in the root's first record.
func shared() []byte {
	return append([]byte{'S', 'P', 7, 1, 0xbe, 0xef, 0, 'E', 'R', 18, 1, 10, 0, 0, 1}, "RRIP_1991A"...)
}

// attributes are the mode of a file: to be read by its owner alone, since it may hold a claim code.
func attributes(dir bool) []byte {
	b := append([]byte{'P', 'X', 36, 1}, make([]byte, 32)...)
	mode, links := uint32(0o100400), uint32(1)
	if dir {
		mode, links = 0o40500, 2
	}
	both(b[4:], mode)
	both(b[12:], links)
	return b
}
