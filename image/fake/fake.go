// Package fake makes stand-ins for what an image is made of, for tests that need no network
// and take no time: Debian packages, kernel modules, a boot stub.
package fake

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// Deb returns a Debian package of files by path.
func Deb(files map[string][]byte) []byte {
	var data bytes.Buffer
	z := gzip.NewWriter(&data)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		must(w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}))
		_, err := w.Write(files[name])
		must(err)
	}
	must(w.Close())
	must(z.Close())
	b := []byte("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"data.tar.gz", data.Bytes()}} {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.data))
		b = append(b, member.data...)
		if len(b)%2 != 0 {
			b = append(b, '\n')
		}
	}
	return b
}

// Module returns an ELF file whose .modinfo has lines, as the kernel's build leaves them.
func Module(lines ...string) []byte {
	info := []byte(strings.Join(lines, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const head, section = 64, 64
	var b bytes.Buffer
	w := func(v any) { must(binary.Write(&b, binary.LittleEndian, v)) }
	w(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: head,
		Shoff: uint64(head + len(info) + len(names)), Shentsize: section, Shnum: 3, Shstrndx: 2,
	})
	b.Write(info)
	b.Write(names)
	w(elf.Section64{})
	w(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(info)), Addralign: 1})
	w(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(head + len(info)), Size: uint64(len(names)), Addralign: 1})
	return b.Bytes()
}

// XZ compresses.
func XZ(raw []byte) []byte {
	var b bytes.Buffer
	z, err := xz.NewWriter(&b)
	must(err)
	_, err = z.Write(raw)
	must(err)
	must(z.Close())
	return b.Bytes()
}

// Stub returns the smallest PE file to which sections can be appended: it has one section,
// and symbols behind it, as Debian's boot stub has them.
func Stub() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x600+2*18+4)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	var w bytes.Buffer
	w.WriteString("PE\x00\x00")
	for _, v := range []any{
		pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1, PointerToSymbolTable: 0x600, NumberOfSymbols: 2, SizeOfOptionalHeader: 240, Characteristics: 0x206},
		pe.OptionalHeader64{Magic: 0x20b, SectionAlignment: 0x200, FileAlignment: 0x200, SizeOfImage: 0x4200, SizeOfHeaders: 0x400, Subsystem: 10, AddressOfEntryPoint: 0x4000, NumberOfRvaAndSizes: 16},
		pe.SectionHeader32{Name: [8]byte{'.', 't', 'e', 'x', 't'}, VirtualSize: 0x1f0, VirtualAddress: 0x4000, SizeOfRawData: 0x200, PointerToRawData: 0x400, Characteristics: 0x60000020},
	} {
		must(binary.Write(&w, le, v))
	}
	copy(b[0x80:], w.Bytes())
	copy(b[0x400:], "code")
	copy(b[0x600:], "symbols")
	le.PutUint32(b[0x600+2*18:], 4) // an empty string table
	return b
}

// must stops a test whose stand-in cannot be made: nothing here depends on the outside.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// PE is a PE32+ file, an EFI application, with two sections and three bytes behind them.
func PE() []byte {
	b := make([]byte, 0x200, 0x500)
	le := binary.LittleEndian
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	h := b[64:]
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], 0x8664)
	le.PutUint16(h[6:], 2)    // sections
	le.PutUint16(h[20:], 240) // optional header
	le.PutUint16(h[22:], 0x22)
	o := h[24:]
	le.PutUint16(o, 0x20b)
	le.PutUint32(o[32:], 0x1000) // alignment in memory
	le.PutUint32(o[36:], 0x200)  // and in the file
	le.PutUint32(o[56:], 0x3000) // size in memory
	le.PutUint32(o[60:], 0x200)  // headers
	le.PutUint16(o[68:], 10)     // EFI application
	le.PutUint32(o[108:], 16)    // directories
	for i := range 2 {
		s := o[240+i*40:]
		copy(s, ".text\x00")
		le.PutUint32(s[8:], 0x100)
		le.PutUint32(s[12:], uint32(0x1000*(i+1)))
		le.PutUint32(s[16:], 0x100)
		le.PutUint32(s[20:], uint32(0x200+0x100*i))
	}
	b = append(b, bytes.Repeat([]byte{0x90}, 0x200)...)
	return append(b, 1, 2, 3)
}
