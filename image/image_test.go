package image

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/image/fake"
	"lazaret/image/packages"
	"lazaret/image/uki"
	"lazaret/internal/testneed"
)

// standIns returns a Config whose packages are stand-ins: a kernel of a few bytes with four
// modules, of which one is not wanted.
func standIns(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{
		Arch: "amd64", Flavour: "cloud", Version: "1.2.3", Program: filepath.Join(dir, "lazaretd"), Out: filepath.Join(dir, "out"),
		Store: &packages.Store{Dir: dir, Offline: true, Log: slog.New(slog.DiscardHandler)}, Log: slog.New(slog.DiscardHandler),
		Modules: []string{"virtio_net", "ext4", "builtin_one"}, Keys: updateKey(t),
	}
	const release = "6.12.1-cloud-amd64"
	root := "lib/modules/" + release + "/"
	module := func(name string, lines ...string) []byte {
		return fake.XZ(fake.Module(append(lines, "name="+name, "vermagic="+release+" SMP")...))
	}
	for name, files := range map[string]map[string][]byte{
		"linux-image-" + release: {
			"boot/vmlinuz-" + release:             []byte("the kernel"),
			root + "modules.builtin":              []byte("kernel/builtin-one.ko\n"),
			root + "kernel/net/virtio_net.ko.xz":  module("virtio_net", "depends=failover", "alias=virtio:d00000001v*"),
			root + "kernel/net/failover.ko.xz":    module("failover"),
			root + "kernel/fs/ext4.ko.xz":         module("ext4"),
			root + "kernel/fs/not-wanted.ko.xz":   module("not_wanted"),
			"usr/share/doc/linux-image/copyright": []byte("text"),
		},
		"systemd-boot-efi": {bootDir + "linuxx64.efi.stub": fake.Stub(), bootDir + "systemd-bootx64.efi": []byte("the loader")},
		"ca-certificates": {
			"usr/share/ca-certificates/mozilla/B.crt": []byte("certificate B\n"),
			"usr/share/ca-certificates/mozilla/A.crt": []byte("certificate A\n"),
		},
	} {
		b := fake.Deb(files)
		s := sha256.Sum256(b)
		p := packages.Package{Name: name, Version: "1", Arch: "amd64", Path: "debian/pool/" + name + "_1_amd64.deb", Size: int64(len(b)), SHA256: hex.EncodeToString(s[:])}
		c.Packages = append(c.Packages, p)
		put(t, filepath.Join(dir, p.File()), b)
	}
	put(t, c.Program, []byte("the program"))
	return c
}

// updateKey is a public key in the form openssl writes (RFC 8410).
func updateKey(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func build(t *testing.T, c Config) Result {
	t.Helper()
	r, err := Build(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSameInputsMakeTheSameBytes builds twice, in directories of other names, and compares
// disk and slot.
func TestSameInputsMakeTheSameBytes(t *testing.T) {
	a, b := build(t, standIns(t)), build(t, standIns(t))
	for x, y := range map[string]string{a.Raw: b.Raw, a.UKI: b.UKI} {
		if one, two := hash(t, x), hash(t, y); one != two {
			t.Errorf("%s: %s, then %s", filepath.Base(x), one, two)
		}
	}
	c := standIns(t)
	c.Version = "1.2.4"
	if hash(t, build(t, c).UKI) == hash(t, a.UKI) {
		t.Error("two versions are the same")
	}
}

// TestFloor: whatever time an image is given, and without any, its clock has a floor of its
// own age.
func TestFloor(t *testing.T) {
	day, err := packages.Day()
	if err != nil || day.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) || day.Format("20060102T150405Z") != packages.Taken {
		t.Fatalf("the table of packages is of %s, %v", day, err)
	}
	for _, x := range []struct{ given, want time.Time }{
		{time.Time{}, day}, {time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), day}, {day.Add(time.Hour), day.Add(time.Hour)},
	} {
		c := standIns(t)
		c.Time = x.given
		if got := slotFile(t, c, appliance.BuiltPath); got != x.want.Format(time.RFC3339)+"\n" {
			t.Errorf("given %s, the floor is %q, want %s", x.given, got, x.want)
		}
	}
}

// slotFile is the text of one file in the root file system of the image that c makes.
func slotFile(t *testing.T, c Config, name string) string {
	t.Helper()
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	in, err := c.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, _ := c.initramfs(in, "")
	var out bytes.Buffer
	if _, err := a.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(out.Bytes(), []byte(strings.TrimPrefix(name, "/")+"\x00")) // names end in a zero, and zeros fill up to a multiple of four (newc)
	text, _, _ := bytes.Cut(bytes.TrimLeft(rest, "\x00"), []byte("\x00"))
	if i := bytes.IndexByte(text, '\n'); i >= 0 { // the next entry may follow at once
		text = text[:i+1]
	}
	return string(text)
}

// hash hashes the parts of a file that are not holes, and where they are.
func hash(t *testing.T, name string) string {
	t.Helper()
	h := sha256.New()
	sparse(t, name, func(f *os.File, from, to int64) {
		fmt.Fprintln(h, from, to)
		if _, err := io.Copy(h, io.NewSectionReader(f, from, to-from)); err != nil {
			t.Fatal(err)
		}
	})
	return hex.EncodeToString(h.Sum(nil))
}

// sparse calls do for each part of a file that is not a hole (lseek(2)).
func sparse(t *testing.T, name string, do func(f *os.File, from, to int64)) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for to := int64(0); ; {
		from, err := f.Seek(to, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if to, err = f.Seek(from, unix.SEEK_HOLE); err != nil {
			t.Fatal(err)
		}
		do(f, from, to)
	}
}

// TestDiskHoldsTheSlot: other programs read partitions, file system and slot as they were
// meant to be, and in the slot kernel, command line and the root file system.
func TestDiskHoldsTheSlot(t *testing.T) {
	sfdisk, mcopy, fsck := testneed.Program(t, "sfdisk"), testneed.Program(t, "mcopy"), testneed.Program(t, "fsck.vfat")
	c := standIns(t)
	r := build(t, c)
	if info, err := os.Stat(r.Raw); err != nil || info.Size() != DefaultSize || r.RawSize != DefaultSize {
		t.Fatal(info.Size(), err)
	}
	out, err := exec.Command(sfdisk, "--verify", r.Raw).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("No errors detected")) {
		t.Errorf("sfdisk: %v: %s", err, out)
	}
	dir := t.TempDir()
	esp := filepath.Join(dir, "esp")
	cutOut(t, r.Raw, esp)
	if out, err := exec.Command(fsck, "-n", esp).CombinedOutput(); err != nil {
		t.Errorf("fsck.vfat: %v: %s", err, out)
	}
	if out, err := exec.Command(mcopy, "-s", "-i", esp, "::/*", dir).CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %s", err, out)
	}
	for name, want := range map[string]string{"EFI/BOOT/BOOTX64.EFI": "the loader", "loader/loader.conf": loaderConf} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	slot, err := os.ReadFile(filepath.Join(dir, "EFI/Linux/lazaret_1.2.3.efi"))
	if err != nil {
		t.Fatal(err)
	}
	if own, err := os.ReadFile(r.UKI); err != nil || !bytes.Equal(own, slot) {
		t.Error("the update file is not the slot on the disk:", err)
	}
	if kernel, err := uki.Read(slot, ".linux"); err != nil || string(kernel) != "the kernel" {
		t.Errorf("kernel %q, %v", kernel, err)
	}
	names := list(t, slot)
	for _, want := range []string{
		"init", "dev/console", "proc", "sys", "run", "tmp", "data", "esp", "etc/os-release", "etc/ssl/certs/ca-certificates.crt",
		"lib/modules/6.12.1-cloud-amd64/lazaret.index", "lib/modules/6.12.1-cloud-amd64/kernel/net/failover.ko",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in the root file system: %v", want, names)
		}
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, "not-wanted") }) {
		t.Error("a module that nobody wants came along")
	}
}

// cutOut copies the EFI partition, which begins a megabyte into the disk.
func cutOut(t *testing.T, raw, to string) {
	t.Helper()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(ESPSize); err != nil {
		t.Fatal(err)
	}
	sparse(t, raw, func(f *os.File, from, to int64) {
		from, to = max(from, gap), min(to, gap+ESPSize)
		if from >= to {
			return
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, from-gap), io.NewSectionReader(f, from, to-from)); err != nil {
			t.Fatal(err)
		}
	})
}

// list returns the names in a slot's root file system, as cpio(1) reads them.
func list(t *testing.T, slot []byte) []string {
	t.Helper()
	initrd, err := uki.Read(slot, ".initrd")
	if err != nil {
		t.Fatal(err)
	}
	z := exec.Command(testneed.Program(t, "lz4"), "-dc")
	z.Stdin = bytes.NewReader(initrd)
	archive, err := z.Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testneed.Program(t, "cpio"), "-it", "--quiet")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// TestPartsAreAccountedFor: everything in the root file system but empty places, our own few
// lines and what is made here is in the list that inventories are made of.
func TestPartsAreAccountedFor(t *testing.T) {
	c := standIns(t)
	r := build(t, c)
	var got []string
	for _, p := range r.Parts {
		got = append(got, p.Path+" "+p.Name)
		if p.SHA256 == "" || p.Size <= 0 || p.Version == "" {
			t.Errorf("%+v says too little", p)
		}
	}
	want := []string{
		"esp:EFI/BOOT/BOOTX64.EFI systemd-boot-efi",
		"uki:.linux linux-image-6.12.1-cloud-amd64",
		"uki:/etc/ssl/certs/ca-certificates.crt ca-certificates",
		"uki:/init lazaretd",
		"uki:/lib/modules/6.12.1-cloud-amd64/kernel/fs/ext4.ko linux-image-6.12.1-cloud-amd64",
		"uki:/lib/modules/6.12.1-cloud-amd64/kernel/net/failover.ko linux-image-6.12.1-cloud-amd64",
		"uki:/lib/modules/6.12.1-cloud-amd64/kernel/net/virtio_net.ko linux-image-6.12.1-cloud-amd64",
		"uki:stub systemd-boot-efi",
	}
	if !slices.Equal(got, want) {
		t.Errorf("parts\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r.Release != "6.12.1-cloud-amd64" || len(r.Packages) != 3 || !slices.Equal(r.Modules.Find("virtio:d00000001v00001AF4"), []string{"virtio_net"}) {
		t.Errorf("%+v", r)
	}
	text, err := os.ReadFile(r.UKI)
	if err != nil {
		t.Fatal(err)
	}
	line, err := uki.Read(text, ".cmdline")
	if err != nil || string(line) != CommandLine("amd64") || !strings.Contains(string(line), "lockdown=integrity") {
		t.Errorf("command line %q, %v", line, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"wanted module missing": func(c *Config) { c.Modules = append(c.Modules, "no_such_module") },
		"unknown architecture":  func(c *Config) { c.Arch = "riscv64" },
		"unknown flavour":       func(c *Config) { c.Flavour = "" },
		"no version":            func(c *Config) { c.Version = "" },
		"version with a slash":  func(c *Config) { c.Version = "1/2" },
		"version with a dash":   func(c *Config) { c.Version = "1.2.3-rc1" },
		"version that counts":   func(c *Config) { c.Version = "1+3" },
		"disk too small":        func(c *Config) { c.Size = leastSize - MiB },
		"no program":            func(c *Config) { c.Program = "/nonexistent" },
		"package changed":       func(c *Config) { c.Packages[0].SHA256 = strings.Repeat("0", 64) },
		"no update key":         func(c *Config) { c.Keys = nil },
		"no kernel":             func(c *Config) { c.Packages = nil },
	} {
		c := standIns(t)
		change(&c)
		_, err := Build(t.Context(), c)
		left, _ := filepath.Glob(filepath.Join(c.Out, "*"))
		if err == nil || len(left) != 0 {
			t.Errorf("%s: %v; left behind: %v", name, err, left)
		}
		if name == "wanted module missing" && !strings.Contains(err.Error(), "no_such_module") {
			t.Errorf("the missing module is not named: %v", err)
		}
	}
}

// TestModulesByImage: what is only for real machines stays out of the cloud's image, and the
// reverse of nothing does.
func TestModulesByImage(t *testing.T) {
	cloud, metal, arm := Modules("amd64", "cloud"), Modules("amd64", "metal"), Modules("arm64", "metal")
	for _, name := range cloud {
		if !slices.Contains(metal, name) {
			t.Errorf("%s is in the cloud's image only", name)
		}
	}
	for name, want := range map[string][3]bool{
		"wireguard": {true, true, true}, "e1000e": {false, true, true}, "e1000": {false, true, false},
		"aesni_intel": {true, true, false}, "aes_ce_blk": {false, false, true},
	} {
		if got := [3]bool{slices.Contains(cloud, name), slices.Contains(metal, name), slices.Contains(arm, name)}; got != want {
			t.Errorf("%s is in %v, want %v", name, got, want)
		}
	}
}
