// Package luks reads and writes LUKS2 headers (LUKS2 On-Disk Format Specification 1.1.x)
// that cryptsetup takes, and whose keyslots it opens. Its input is a disk that anybody may
// have written: sizes and costs are bounded, and only one cipher is taken, so that nobody
// can make the machine write in the clear (CVE-2025-59054) or half re-encrypt its data
// (CVE-2021-4122).
package luks

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"lazaret/appliance/disk/block"
)

// What Read and Unlock may end with; test with errors.Is.
var (
	ErrNone       = errors.New("no whole LUKS2 header")
	ErrKind       = errors.New("a LUKS2 header of a kind that is not taken here")
	ErrPassphrase = errors.New("the passphrase opens no keyslot")
)

// Places on the device, in bytes.
const (
	headerSize = 16384 // of each copy, as written here
	binarySize = 4096  // of its first part; JSON is the rest
	maxHeader  = 4 << 20
	DataOffset = 16 << 20 // where the data begin, as written here
	Headers    = 2 * headerSize
)

// Label is that of every header written here.
const Label = "lazaret-data"

// Header is a header that was checked. It is not safe for concurrent use.
type Header struct {
	size  int64 // of each copy
	seq   uint64
	label string
	uuid  string
	sub   string
	meta  meta
	heal  bool // one of the copies is not this one
}

// New is a header for a device with sectors of so many bytes, and its volume key. It has no
// keyslots, and is on no device yet.
func New(sector int) (*Header, []byte) {
	if sector != 4096 {
		sector = 512
	}
	key := make([]byte, keySize)
	rand.Read(key)
	h := &Header{size: headerSize, label: Label, uuid: uuid(), meta: newMeta(key, sector)}
	return h, key
}

func uuid() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// UUID and Label are what the header says of itself.
func (h *Header) UUID() string { return h.uuid }

// Label is the header's.
func (h *Header) Label() string { return h.label }

// Segment says where the data begin, in bytes, and how large the cipher's sectors are.
func (h *Header) Segment() (offset int64, sector int) {
	s := h.meta.Segments["0"]
	return int64(s.Offset), s.Sector
}

// Read reads the header of a device: of its two copies the one that is whole, and of two
// that are the newer. ErrNone, ErrKind.
func Read(d block.Device) (*Header, error) {
	first, err := readCopy(d, 0)
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	var second *Header
	if first != nil {
		second, err = readCopy(d, first.size)
	} else {
		for size := int64(headerSize); size <= maxHeader && second == nil; size *= 2 {
			second, err = readCopy(d, size)
		}
	}
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	switch {
	case first == nil && second == nil:
		return nil, ErrNone
	case first == nil:
		second.heal = true
		return second, nil
	case second == nil:
		first.heal = true
		return first, nil
	case second.seq > first.seq:
		second.heal = true
		return second, nil
	}
	first.heal = second.seq < first.seq
	return first, nil
}

// Heal makes both copies the one that was read.
func (h *Header) Heal(d block.Device) error {
	if !h.heal {
		return nil
	}
	for _, off := range []int64{0, h.size} { // the good copy, if it is one of them, last
		if c, err := readCopy(d, off); err == nil && c.seq == h.seq {
			continue
		}
		if err := h.writeCopy(d, off); err != nil {
			return fmt.Errorf("healing LUKS2 header: %w", err)
		}
	}
	h.heal = false
	return nil
}

// readCopy reads the copy that begins at off, which says which of the two it is. ErrNone
// where it is not whole, ErrKind where it is and is not taken.
func readCopy(d block.Device, off int64) (*Header, error) {
	b, err := block.Read(d, off, binarySize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	size := binary.BigEndian.Uint64(b[8:])
	if !bytes.Equal(b[:6], magic(off)) || size < headerSize || size > maxHeader || size&(size-1) != 0 || binary.BigEndian.Uint64(b[256:]) != uint64(off) || off != 0 && uint64(off) != size {
		return nil, ErrNone
	}
	if b, err = block.Read(d, off, int(size)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return parse(b)
}

func magic(off int64) []byte {
	if off == 0 {
		return []byte("LUKS\xba\xbe")
	}
	return []byte("SKUL\xba\xbe")
}

// parse reads one whole copy.
func parse(b []byte) (*Header, error) {
	if len(b) < headerSize {
		return nil, ErrNone
	}
	if v := binary.BigEndian.Uint16(b[6:]); v != 2 {
		return nil, fmt.Errorf("%w: version %d", ErrKind, v)
	}
	if text(b[72:104]) != "sha256" {
		return nil, fmt.Errorf("%w: checksum %q", ErrKind, text(b[72:104]))
	}
	if sum := checksum(b); !bytes.Equal(sum[:], b[448:480]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrNone)
	}
	h := &Header{size: int64(len(b)), seq: binary.BigEndian.Uint64(b[16:]), label: text(b[24:72]), uuid: text(b[168:208]), sub: text(b[208:256])}
	body := b[binarySize:]
	if end := bytes.IndexByte(body, 0); end >= 0 {
		body = body[:end]
	}
	if err := h.meta.parse(body, h.size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKind, err)
	}
	return h, nil
}

// checksum is that of a copy, with its own place taken as zeros.
func checksum(b []byte) [32]byte {
	sum := sha256.New()
	sum.Write(b[:448])
	sum.Write(make([]byte, 64))
	sum.Write(b[512:])
	return [32]byte(sum.Sum(nil))
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// bytes is the copy that begins at off.
func (h *Header) bytes(off int64) ([]byte, error) {
	body, err := h.meta.bytes()
	if err != nil {
		return nil, err
	}
	if int64(len(body)) >= h.size-binarySize {
		return nil, errors.New("the header is full")
	}
	b := make([]byte, h.size)
	copy(b, magic(off))
	binary.BigEndian.PutUint16(b[6:], 2)
	binary.BigEndian.PutUint64(b[8:], uint64(h.size))
	binary.BigEndian.PutUint64(b[16:], h.seq)
	copy(b[24:71], h.label)
	copy(b[72:], "sha256")
	rand.Read(b[104:168])
	copy(b[168:207], h.uuid)
	copy(b[208:255], h.sub)
	binary.BigEndian.PutUint64(b[256:], uint64(off))
	copy(b[binarySize:], body)
	sum := checksum(b)
	copy(b[448:], sum[:])
	return b, nil
}

func (h *Header) writeCopy(d block.Device, off int64) error {
	b, err := h.bytes(off)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(b, off); err != nil {
		return err
	}
	return d.Sync()
}

// WriteSecond and WriteFirst write one copy each, for a header that begins to count only
// when the first is there.
func (h *Header) WriteSecond(d block.Device) error { return h.writeCopy(d, h.size) }

// WriteFirst writes the copy that makes the header count.
func (h *Header) WriteFirst(d block.Device) error { return h.writeCopy(d, 0) }
