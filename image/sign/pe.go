// Package sign signs EFI programs (PE/COFF) so that firmware with Secure Boot starts them:
// Microsoft's Authenticode, in the part that UEFI 2.10, section 32, asks for. No clock goes
// in, so the same program, key and certificate give the same bytes.
package sign

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
)

// limit bounds programs, in bytes: offsets have 32 bits.
const limit = 1 << 30

// program is a PE file's parts that signing has to do with; offsets in bytes.
type program struct {
	bytes    []byte
	checksum int // of CheckSum in the optional header
	security int // of the certificate table's entry among the data directories
	headers  int // length of all headers
	sections []extent
}

type extent struct{ at, end int }

// parse finds its way in a PE file that is not signed.
func parse(b []byte) (program, error) {
	p, table, count, err := readHeaders(b)
	if err != nil {
		return p, err
	}
	if binary.LittleEndian.Uint64(b[p.security:]) != 0 {
		return p, errors.New("it is signed already")
	}
	return p, p.readSections(table, count)
}

// parseSigned finds its way in one that is, and returns its certificate table, which must be
// all there is behind the sections.
func parseSigned(b []byte) (p program, certificates []byte, err error) {
	p, table, count, err := readHeaders(b)
	if err != nil {
		return p, nil, err
	}
	at, size := int(binary.LittleEndian.Uint32(b[p.security:])), int(binary.LittleEndian.Uint32(b[p.security+4:]))
	switch {
	case at == 0 && size == 0:
		return p, nil, errUnsigned
	case at < p.headers || at%8 != 0 || size == 0 || at+size != len(b):
		return p, nil, errors.New("its certificate table is not at its end")
	}
	p.bytes = b[:at]
	return p, b[at:], p.readSections(table, count)
}

// readHeaders takes in all but the section table, which has count entries at table.
func readHeaders(b []byte) (p program, table, count int, err error) {
	p = program{bytes: b}
	le := binary.LittleEndian
	if len(b) < 64 || len(b) > limit || string(b[:2]) != "MZ" {
		return p, 0, 0, errors.New("it is no PE file")
	}
	at := int(le.Uint32(b[60:]))
	if at > len(b)-24 || string(b[at:at+4]) != "PE\x00\x00" {
		return p, 0, 0, errors.New("it is no PE file")
	}
	count = int(le.Uint16(b[at+6:]))
	size := int(le.Uint16(b[at+20:]))
	optional := at + 24
	table = optional + size
	if size < 112 || table+count*40 > len(b) {
		return p, 0, 0, errors.New("its headers are cut off")
	}
	directories := 0
	switch le.Uint16(b[optional:]) {
	case 0x10b: // PE32
		directories = optional + 96
	case 0x20b: // PE32+
		directories = optional + 112
	default:
		return p, 0, 0, errors.New("it is neither PE32 nor PE32+")
	}
	p.checksum, p.security, p.headers = optional+64, directories+4*8, int(le.Uint32(b[optional+60:]))
	if le.Uint32(b[directories-4:]) < 5 || p.security+8 > table || p.headers < table+count*40 || p.headers > len(b) {
		return p, 0, 0, errors.New("its headers have no place for a signature")
	}
	return p, table, count, nil
}

// readSections takes in the section table: count entries at at.
func (p *program) readSections(at, count int) error {
	for i := range count {
		e := p.bytes[at+i*40:]
		length, from := int(binary.LittleEndian.Uint32(e[16:])), int(binary.LittleEndian.Uint32(e[20:]))
		if length == 0 {
			continue
		}
		if from < p.headers || from+length > len(p.bytes) {
			return fmt.Errorf("section %d is not within it", i)
		}
		p.sections = append(p.sections, extent{from, from + length})
	}
	slices.SortFunc(p.sections, func(a, b extent) int { return cmp.Compare(a.at, b.at) })
	// Firmware counts what it has hashed and takes the rest from the end: with gaps or
	// overlaps, implementations disagree about what was signed.
	end := p.headers
	for _, s := range p.sections {
		if s.at != end {
			return fmt.Errorf("between its parts, at %d, there is a gap or an overlap", end)
		}
		end = s.end
	}
	return nil
}

// digest is the Authenticode digest: of everything but what signing changes.
func (p program) digest() [sha256.Size]byte { return [sha256.Size]byte(p.hashed(sha256.New())) }

// hashed is the Authenticode digest by another hash, which must be new.
func (p program) hashed(h hash.Hash) []byte {
	h.Write(p.bytes[:p.checksum])
	h.Write(p.bytes[p.checksum+4 : p.security])
	h.Write(p.bytes[p.security+8:])
	return h.Sum(nil)
}

// Digest is the SHA-256 Authenticode digest of an unsigned PE file, as it will be signed:
// padded to a multiple of 8 bytes.
func Digest(pe []byte) ([sha256.Size]byte, error) {
	p, err := parse(padded(pe))
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("reading an EFI program: %w", err)
	}
	return p.digest(), nil
}

// padded is a copy of b with zeros up to a multiple of 8 bytes.
func padded(b []byte) []byte {
	out := make([]byte, (len(b)+7)/8*8)
	copy(out, b)
	return out
}

// attach adds the certificate table with one PKCS #7 signature.
func (p program) attach(signature []byte) []byte {
	le := binary.LittleEndian
	table := make([]byte, (8+len(signature)+7)/8*8)
	le.PutUint32(table, uint32(len(table)))
	le.PutUint16(table[4:], 0x0200) // WIN_CERT_REVISION_2_0
	le.PutUint16(table[6:], 0x0002) // WIN_CERT_TYPE_PKCS_SIGNED_DATA
	copy(table[8:], signature)
	out := append(slices.Clone(p.bytes), table...)
	le.PutUint32(out[p.security:], uint32(len(p.bytes)))
	le.PutUint32(out[p.security+4:], uint32(len(table)))
	le.PutUint32(out[p.checksum:], 0)
	le.PutUint32(out[p.checksum:], checksum(out))
	return out
}

// checksum is the PE checksum: 16-bit words added with carry, and the length.
func checksum(b []byte) uint32 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.LittleEndian.Uint16(b[i:]))
		sum = sum&0xffff + sum>>16
	}
	return sum + uint32(len(b))
}
