package kmod

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"lazaret/image/fake"
)

func TestReadsWhatModulesSay(t *testing.T) {
	raw := append(fake.Module("license=GPL", "alias=pci:v0001d*", "alias=", "depends=net-failover,b", "softdep=pre: soft-a soft_b post: later",
		"softdep=post: other", "name=virtio-net", "vermagic=6.12.1-test SMP mod_unload "), []byte("signature~Module signature appended~\n")...)
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"virtio_net.ko": raw, "virtio_net.ko.xz": fake.XZ(raw), "virtio_net.ko.zst": e.EncodeAll(raw, nil)} {
		i, err := Read("kernel/"+name, data)
		if err != nil {
			t.Fatal(err)
		}
		if i.Name != "virtio_net" || i.Release != "6.12.1-test" || !i.Signed || !slices.Equal(i.Depends, []string{"net_failover", "b"}) ||
			!slices.Equal(i.Soft, []string{"soft_a", "soft_b"}) || !slices.Equal(i.Aliases, []string{"pci:v0001d*"}) {
			t.Errorf("%s: %+v", name, i)
		}
	}
	for name, data := range map[string][]byte{"a.ko": []byte("no ELF"), "a.ko.xz": []byte("no xz"), "a.ko.zst": []byte("no zstd"), "a.ko.gz": raw, "b.ko": fake.Module()[:64]} {
		if _, err := Read(name, data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// small returns a tree in which a needs b, b needs c and would have d; x stands alone.
func small() *Tree {
	tree := NewTree("6.12.1-test")
	for name, lines := range map[string][]string{
		"kernel/a.ko.xz":   {"name=a", "depends=b,built-in", "vermagic=6.12.1-test SMP"},
		"kernel/b.ko.xz":   {"name=b", "depends=c", "softdep=pre: d absent sum-32", "alias=pci:v1*"},
		"kernel/c-c.ko.xz": {"name=c_c"},
		"kernel/c.ko.xz":   {"name=c"},
		"kernel/d.ko.xz":   {"name=d"},
		"kernel/x.ko.xz":   {"name=x"},
		"kernel/s.ko.xz":   {"name=s", "alias=sum-32"},
	} {
		tree.Add(name, fake.XZ(fake.Module(lines...)))
	}
	tree.Add("modules.builtin", []byte("kernel/lib/built-in.ko\n"))
	return tree
}

func TestChoosesWhatIsNeeded(t *testing.T) {
	index, files, err := small().Choose([]string{"a", "c-c", "built_in", "s"})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(index.Needs("a"), " "); got != "kernel/c.ko kernel/d.ko kernel/s.ko kernel/b.ko.xz kernel/a.ko" {
		t.Error(got)
	}
	if len(files) != 6 || files["kernel/x.ko"] != nil || !index.Builtin("built-in") || !slices.Equal(index.Find("pci:v1d2"), []string{"b"}) {
		t.Error(len(files), index.Text())
	}
}

// TestChosenAreAsSigned: what every machine may load lies there unpacked, drivers as the package
// has them, and both are what was signed, byte for byte.
func TestChosenAreAsSigned(t *testing.T) {
	signed := func(lines ...string) []byte {
		return append(fake.Module(lines...), "signature~Module signature appended~\n"...)
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	card := fake.XZ(signed("name=card", "alias=pci:v00008086d*", "depends=b"))
	tree := NewTree("6.12.1-test")
	tree.Add("kernel/a.ko", signed("name=a"))
	tree.Add("kernel/b.ko.xz", fake.XZ(signed("name=b", "alias=net-pf-16-proto-12")))
	tree.Add("kernel/c.ko.zst", e.EncodeAll(signed("name=c", "alias=virtio:d00000001v*"), nil))
	tree.Add("kernel/card.ko.xz", card)
	index, files, err := tree.Choose([]string{"a", "c", "card"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{
		"kernel/a.ko": signed("name=a"), "kernel/b.ko": signed("name=b", "alias=net-pf-16-proto-12"),
		"kernel/c.ko": signed("name=c", "alias=virtio:d00000001v*"), "kernel/card.ko.xz": card,
	} {
		if !bytes.Equal(files[name], want) {
			t.Errorf("%s is %q", name, files[name])
		}
	}
	if got := index.Needs("card"); len(files) != 4 || !slices.Equal(got, []string{"kernel/b.ko", "kernel/card.ko.xz"}) {
		t.Errorf("%d files; the card is loaded from %v", len(files), got)
	}
	tree.Add("kernel/d.ko.gz", signed("name=d"))
	if _, _, err := tree.Choose([]string{"d"}); err == nil {
		t.Error("a module that cannot be unpacked")
	}
}

func TestChoosingRefuses(t *testing.T) {
	_, _, err := small().Choose([]string{"a", "gone", "c", "lost"})
	if err == nil || !strings.Contains(err.Error(), "gone, lost") {
		t.Error("missing modules are not named:", err)
	}
	tree := small()
	tree.Add("kernel/e.ko.xz", fake.XZ(fake.Module("name=e", "vermagic=6.1.0 SMP")))
	if _, _, err := tree.Choose([]string{"e"}); err == nil {
		t.Error("a module of another kernel")
	}
	tree.Add("kernel/f.ko.xz", fake.XZ(fake.Module("name=f", "depends=gone")))
	if _, _, err := tree.Choose([]string{"f"}); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Error("a module whose need is missing:", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("a.ko", fake.Module("name=a", "depends=b"))
	f.Add("a.ko.xz", fake.XZ(fake.Module("name=a")))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		i, err := Read(name, b)
		if err == nil && strings.ContainsAny(i.Name, "-") {
			t.Fatalf("name %q", i.Name)
		}
	})
}
