package imagetest

import (
	"bytes"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"lazaret/appliance"
	"lazaret/image/uki"
)

// rootFS is the archive of the file system that is in the built slot.
func rootFS(t testing.TB) []byte {
	t.Helper()
	slot, err := os.ReadFile(built(t, ".efi"))
	if err != nil {
		t.Fatal(err)
	}
	packed, err := uki.Read(slot, ".initrd")
	if err != nil {
		t.Fatal(err)
	}
	files, err := io.ReadAll(lz4.NewReader(bytes.NewReader(packed)))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// newc goes through the files of an archive (buffer-format.rst of the kernel's documentation:
// a head of 13 numbers of eight hexadecimal digits, name and content, each filled up to four
// bytes).
func newc(t testing.TB, b []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		const head = 6 + 13*8
		fill := func(n int) int { return (n + 3) &^ 3 }
		for len(b) >= head {
			number := func(i int) int {
				n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
				if err != nil || string(b[:6]) != "070701" {
					t.Fatalf("no head of a file: %q", b[:head])
				}
				return int(n)
			}
			size, from := number(6), fill(head+number(11))
			name := string(bytes.TrimRight(b[head:from], "\x00"))
			if name == "TRAILER!!!" || !yield(name, b[from:from+size]) {
				return
			}
			b = b[fill(from+size):]
		}
	}
}

// TestModulesLoad: each module that the index names is there, as the kernel takes it: an ELF
// file with Debian's signature at its end, plain, or in xz with the one check that the
// kernel's decoder knows (Documentation/staging/xz.rst).
func TestModulesLoad(t *testing.T) {
	const signed = "~Module signature appended~\n"
	files := map[string][]byte{}
	var index *appliance.ModuleIndex
	for name, data := range newc(t, rootFS(t)) {
		if path.Base(name) == appliance.ModuleIndexName {
			var err error
			if index, err = appliance.ParseModuleIndex(bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
		}
		if _, below, ok := strings.Cut("/"+name, appliance.ModuleDir+"/"); ok {
			_, below, _ = strings.Cut(below, "/")
			files[below] = data
		}
	}
	if index == nil || len(index.Modules()) < 50 {
		t.Fatal("no index of modules")
	}
	packed := 0
	for _, m := range index.Modules() {
		raw := files[m.Path]
		if path.Ext(m.Path) == ".xz" {
			packed++
			if len(raw) < 12 || !bytes.Equal(raw[6:8], []byte{0, 1}) { // stream flags: CRC32
				t.Errorf("%s has a check that the kernel does not know", m.Path)
			}
			r, err := xz.NewReader(bytes.NewReader(raw))
			if err == nil {
				raw, err = io.ReadAll(r)
			}
			if err != nil {
				t.Errorf("%s: %v", m.Path, err)
			}
		}
		if !bytes.HasPrefix(raw, []byte("\x7fELF")) || !bytes.HasSuffix(raw, []byte(signed)) {
			t.Errorf("%s is no signed module: %d bytes", m.Path, len(raw))
		}
	}
	for _, name := range []string{"wireguard", "nf_tables", "dm_crypt", "ext4", "virtio_net"} { // at every start
		if needs := index.Needs(name); !index.Builtin(name) && (len(needs) == 0 || slices.ContainsFunc(needs, func(p string) bool { return path.Ext(p) != ".ko" })) {
			t.Errorf("%s has to be unpacked at every start: %v", name, needs)
		}
	}
	t.Logf("%d modules, %d of them packed", len(index.Modules()), packed)
}
