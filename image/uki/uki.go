// Package uki makes unified kernel images (UAPI.5): it appends sections to the PE file of
// systemd's boot stub (PE format: Microsoft, "PE Format", revision 2024).
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Section is one section to append.
type Section struct {
	Name string // at most 8 bytes, like .linux
	Data []byte
}

// Sizes and offsets of the PE headers used here.
const (
	coffSize    = 20
	sectionSize = 40
	optSymbols  = 8 // within the COFF header: pointer to and number of symbols
	optInitData = 8
	optAlign    = 32 // section alignment, then file alignment
	optImage    = 56 // size of image, then size of headers, then checksum
	optDirCount = 108
	optDirs     = 112
	certDir     = 4          // the index of the certificate table
	page        = 0x1000     // what sections are aligned to in memory, at least
	readable    = 0x40000040 // IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ
)

// Append returns stub with sections behind its own, in the order given. Symbols and
// whatever else lies behind the stub's last section are dropped; a signed stub is refused.
func Append(stub []byte, sections []Section) ([]byte, error) {
	head, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("reading boot stub: %w", err)
	}
	if room := (int(head.headers) - head.tableEnd) / sectionSize; room < len(sections) {
		return nil, fmt.Errorf("boot stub has room for %d more sections, not %d", room, len(sections))
	}
	out := bytes.Clone(stub[:head.fileEnd])
	out = append(out, make([]byte, -len(out)&int(head.fileAlign-1))...)
	memory, grown := head.memoryEnd, uint32(0)
	for i, s := range sections {
		if len(s.Name) > 8 || len(s.Data) == 0 || len(s.Data) >= 1<<30 {
			return nil, fmt.Errorf("section %q of %d bytes cannot be", s.Name, len(s.Data))
		}
		memory = align(memory, max(head.memAlign, page))
		raw := align(uint32(len(s.Data)), head.fileAlign)
		h := out[head.tableEnd+i*sectionSize:][:sectionSize]
		if len(bytes.Trim(h, "\x00")) != 0 && len(bytes.ReplaceAll(h, nop, nil)) != 0 {
			return nil, errors.New("boot stub keeps something behind its section table")
		}
		clear(h)
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], memory)
		le.PutUint32(h[16:], raw)
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], readable)
		out = append(out, s.Data...)
		out = append(out, make([]byte, int(raw)-len(s.Data))...)
		memory += uint32(len(s.Data))
		grown += raw
	}
	coff, opt := out[head.coff:], out[head.opt:]
	le.PutUint16(coff[2:], le.Uint16(coff[2:])+uint16(len(sections)))
	le.PutUint64(coff[optSymbols:], 0)
	le.PutUint32(opt[optInitData:], le.Uint32(opt[optInitData:])+grown)
	le.PutUint32(opt[optImage:], align(memory, max(head.memAlign, page)))
	le.PutUint32(opt[optImage+8:], 0) // no checksum: firmware looks at none
	return out, nil
}

var le = binary.LittleEndian

// nop is arm64's instruction that does nothing: its stub's headers are padded with it.
var nop = []byte{0x1f, 0x20, 0x03, 0xd5}

func align(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }

type header struct {
	coff, opt, tableEnd, fileEnd            int
	memAlign, fileAlign, headers, memoryEnd uint32
}

func parse(stub []byte) (header, error) {
	f, err := pe.NewFile(bytes.NewReader(stub))
	if err != nil {
		return header{}, err
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || len(f.Sections) == 0 {
		return header{}, errors.New("no 64-bit PE file")
	}
	if o.DataDirectory[certDir].Size != 0 {
		return header{}, errors.New("it is signed: what is appended would break the signature")
	}
	if o.FileAlignment == 0 || o.SectionAlignment == 0 || o.FileAlignment&(o.FileAlignment-1) != 0 || o.SectionAlignment&(o.SectionAlignment-1) != 0 {
		return header{}, fmt.Errorf("alignments %d and %d", o.SectionAlignment, o.FileAlignment)
	}
	h := header{coff: int(le.Uint32(stub[0x3c:])) + 4, memAlign: o.SectionAlignment, fileAlign: o.FileAlignment, headers: o.SizeOfHeaders}
	h.opt = h.coff + coffSize
	h.tableEnd = h.opt + int(f.SizeOfOptionalHeader) + len(f.Sections)*sectionSize
	for _, s := range f.Sections {
		h.fileEnd = max(h.fileEnd, int(s.Offset)+int(s.Size))
		h.memoryEnd = max(h.memoryEnd, s.VirtualAddress+s.VirtualSize)
		if s.Offset < h.headers {
			return header{}, fmt.Errorf("section %s lies in the headers", s.Name)
		}
	}
	if h.fileEnd > len(stub) || int(h.headers) > len(stub) || h.tableEnd > int(h.headers) {
		return header{}, errors.New("it is cut short")
	}
	return h, nil
}

// Read returns a section's bytes as the firmware would load them, without the padding.
func Read(image []byte, name string) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("reading UKI: %w", err)
	}
	s := f.Section(name)
	if s == nil {
		return nil, fmt.Errorf("reading UKI: no section %s", name)
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("reading section %s of UKI: %w", name, err)
	}
	return data[:min(len(data), int(s.VirtualSize))], nil
}

// OSRelease is what the boot loader reads from .osrel to name and sort slots
// (os-release(5)): by IMAGE_ID, then by version, the newest first.
func OSRelease(version, variant string) string {
	lines := []string{
		"ID=lazaret", "NAME=Lazaret", `PRETTY_NAME="Lazaret ` + version + `"`,
		"IMAGE_ID=lazaret", "IMAGE_VERSION=" + version, "VERSION_ID=" + version, "VARIANT_ID=" + variant,
	}
	return strings.Join(lines, "\n") + "\n"
}
