package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// module returns an ELF file with the .modinfo given, as the kernel's build leaves them.
func module(lines ...string) []byte {
	info := []byte(strings.Join(lines, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const head, section = 64, 64
	var b bytes.Buffer
	w := func(v any) { binary.Write(&b, binary.LittleEndian, v) }
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

func pack(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(raw)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadsWhatModulesSay(t *testing.T) {
	raw := append(module("license=GPL", "alias=pci:v0001d*", "alias=", "depends=net-failover,b", "softdep=pre: soft-a soft_b post: later",
		"softdep=post: other", "name=virtio-net", "vermagic=6.12.1-test SMP mod_unload "), []byte("signature~Module signature appended~\n")...)
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"virtio_net.ko": raw, "virtio_net.ko.xz": pack(t, raw), "virtio_net.ko.zst": e.EncodeAll(raw, nil)} {
		i, err := Read("kernel/"+name, data)
		if err != nil {
			t.Fatal(err)
		}
		if i.Name != "virtio_net" || i.Release != "6.12.1-test" || !i.Signed || !slices.Equal(i.Depends, []string{"net_failover", "b"}) ||
			!slices.Equal(i.Soft, []string{"soft_a", "soft_b"}) || !slices.Equal(i.Aliases, []string{"pci:v0001d*"}) {
			t.Errorf("%s: %+v", name, i)
		}
	}
	for name, data := range map[string][]byte{"a.ko": []byte("no ELF"), "a.ko.xz": []byte("no xz"), "a.ko.zst": []byte("no zstd"), "a.ko.gz": raw, "b.ko": module()[:64]} {
		if _, err := Read(name, data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// small returns a tree in which a needs b, b needs c and would have d; x stands alone.
func small(t testing.TB) *Tree {
	tree := NewTree("6.12.1-test")
	for name, lines := range map[string][]string{
		"kernel/a.ko.xz":   {"name=a", "depends=b,built-in", "vermagic=6.12.1-test SMP"},
		"kernel/b.ko.xz":   {"name=b", "depends=c", "softdep=pre: d absent", "alias=pci:v1*"},
		"kernel/c-c.ko.xz": {"name=c_c"},
		"kernel/c.ko.xz":   {"name=c"},
		"kernel/d.ko.xz":   {"name=d"},
		"kernel/x.ko.xz":   {"name=x"},
	} {
		tree.Add(name, pack(t, module(lines...)))
	}
	tree.Add("modules.builtin", []byte("kernel/lib/built-in.ko\n"))
	return tree
}

func TestChoosesWhatIsNeeded(t *testing.T) {
	index, files, err := small(t).Choose([]string{"a", "c-c", "built_in"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(index.Needs("a"), " "); got != "kernel/c.ko.xz kernel/d.ko.xz kernel/b.ko.xz kernel/a.ko.xz" {
		t.Error(got)
	}
	if len(files) != 5 || files["kernel/x.ko.xz"] != nil || !index.Builtin("built-in") || !slices.Equal(index.Find("pci:v1d2"), []string{"b"}) {
		t.Error(len(files), index.Text())
	}
}

func TestChoosingRefuses(t *testing.T) {
	_, _, err := small(t).Choose([]string{"a", "gone", "c", "lost"})
	if err == nil || !strings.Contains(err.Error(), "gone, lost") {
		t.Error("missing modules are not named:", err)
	}
	tree := small(t)
	tree.Add("kernel/e.ko.xz", pack(t, module("name=e", "vermagic=6.1.0 SMP")))
	if _, _, err := tree.Choose([]string{"e"}); err == nil {
		t.Error("a module of another kernel")
	}
	tree.Add("kernel/f.ko.xz", pack(t, module("name=f", "depends=gone")))
	if _, _, err := tree.Choose([]string{"f"}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Error("a module whose need is missing:", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("a.ko", module("name=a", "depends=b"))
	f.Add("a.ko.xz", pack(f, module("name=a")))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		i, err := Read(name, b)
		if err == nil && strings.ContainsAny(i.Name, "-") {
			t.Fatalf("name %q", i.Name)
		}
	})
}
