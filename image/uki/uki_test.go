package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lazaret/image/fake"
	"lazaret/internal/testneed"
)

func sections() []Section {
	return []Section{
		{".osrel", []byte(OSRelease("1.2.3", "cloud"))},
		{".cmdline", []byte("console=ttyS0")},
		{".linux", bytes.Repeat([]byte("kernel"), 5000)},
		{".initrd", bytes.Repeat([]byte{7}, 0x1000)},
	}
}

// TestObjcopyReads: objcopy takes out of each section what was put in.
func TestObjcopyReads(t *testing.T) {
	objcopy, dir := testneed.Program(t, "objcopy"), t.TempDir()
	image, err := Append(fake.Stub(), sections())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "uki")
	if err := os.WriteFile(file, image, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range sections() {
		part := filepath.Join(dir, "part")
		if out, err := exec.Command(objcopy, "--dump-section", s.Name+"="+part, file, filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
			t.Fatalf("objcopy: %v: %s", err, out)
		}
		got, err := os.ReadFile(part)
		if err != nil || !bytes.HasPrefix(got, s.Data) || len(bytes.TrimRight(got[len(s.Data):], "\x00")) != 0 {
			t.Errorf("objcopy finds %d bytes in %s, %d were put in (%v)", len(got), s.Name, len(s.Data), err)
		}
		if own, err := Read(image, s.Name); err != nil || !bytes.Equal(own, s.Data) {
			t.Errorf("Read finds %d bytes in %s (%v)", len(own), s.Name, err)
		}
	}
}

// TestAppendKeepsPERules: sections follow each other aligned in file and memory, the image
// is as large as they are, nothing lies behind them, and the stub's own bytes are as before.
func TestAppendKeepsPERules(t *testing.T) {
	image, err := Append(fake.Stub(), sections())
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	o := f.OptionalHeader.(*pe.OptionalHeader64)
	raw, memory := uint32(0x400), uint32(0x4000)
	for i, s := range f.Sections {
		if s.Offset != raw || s.Size%0x200 != 0 || s.VirtualAddress%0x200 != 0 || s.VirtualAddress < memory {
			t.Errorf("section %s lies at %#x in the file and %#x in memory, after %#x and %#x", s.Name, s.Offset, s.VirtualAddress, raw, memory)
		}
		if i > 0 && s.VirtualAddress%page != 0 {
			t.Errorf("section %s begins within a page: %#x", s.Name, s.VirtualAddress)
		}
		raw, memory = s.Offset+s.Size, s.VirtualAddress+s.VirtualSize
	}
	if len(f.Sections) != 5 || int(raw) != len(image) || o.SizeOfImage < memory || o.SizeOfImage-memory >= page || o.SizeOfImage%0x200 != 0 {
		t.Errorf("%d sections up to %#x of %#x, memory up to %#x of %#x", len(f.Sections), raw, len(image), memory, o.SizeOfImage)
	}
	if f.NumberOfSymbols != 0 || f.PointerToSymbolTable != 0 || bytes.Contains(image, []byte("symbols")) {
		t.Error("symbols are still there")
	}
	if o.AddressOfEntryPoint != 0x4000 || !bytes.Equal(image[0x400:0x600], fake.Stub()[0x400:0x600]) {
		t.Error("the stub is not what it was")
	}
}

// TestHeadersPaddedWithCode: arm64's stub has instructions that do nothing where the section
// table goes on.
func TestHeadersPaddedWithCode(t *testing.T) {
	stub := fake.Stub()
	const table = 0x98 + 240 + 40
	copy(stub[table:0x400], bytes.Repeat(nop, (0x400-table)/len(nop)))
	image, err := Append(stub, sections())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections() {
		if got, err := Read(image, s.Name); err != nil || !bytes.Equal(got, s.Data) {
			t.Errorf("%s: %d bytes, %v", s.Name, len(got), err)
		}
	}
}

func TestAppendRefuses(t *testing.T) {
	signed := fake.Stub()
	binary.LittleEndian.PutUint32(signed[0x98+optDirs+8*certDir+4:], 8)
	behind := fake.Stub()
	behind[0x98+240+40] = 1
	many := make([]Section, 20)
	for i := range many {
		many[i] = Section{".x", []byte("x")}
	}
	for name, c := range map[string]struct {
		stub     []byte
		sections []Section
	}{
		"no PE":              {[]byte("MZ"), sections()},
		"cut short":          {fake.Stub()[:0x500], sections()},
		"signed":             {signed, sections()},
		"no room":            {fake.Stub(), many},
		"something behind":   {behind, sections()},
		"long section name":  {fake.Stub(), []Section{{".ninechar", []byte("x")}}},
		"nothing in section": {fake.Stub(), []Section{{".x", nil}}},
	} {
		if _, err := Append(c.stub, c.sections); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	image, err := Append(fake.Stub(), sections())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image, ".osrel")
	f.Add(fake.Stub(), ".text")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		Read(b, name)
		if out, err := Append(b, sections()); err == nil {
			if _, err := Read(out, ".linux"); err != nil {
				t.Fatalf("what was appended cannot be read: %v", err)
			}
		}
	})
}
