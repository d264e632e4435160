package image

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/pierrec/lz4/v4"

	"lazaret/appliance"
	"lazaret/appliance/update"
	"lazaret/image/cpio"
	"lazaret/image/uki"
)

// kernelOptions follow the consoles. A kernel that finds itself broken starts anew: it
// enforces nothing it could be trusted with, and the boot loader counts its attempts. It
// waits for three seconds only: what it said is kept (boot.Config.SaveCrash), and nobody is
// served meanwhile. Each of the kernel's ciphers would try itself on samples as it is registered,
// and take about a second of an emulated start: a test for who builds kernels (crypto/Kconfig,
// CRYPTO_SELFTESTS), which Debian leaves in. jent_mod_init has a generator of random numbers
// measure itself for a third of a second more: crypto/drbg.c alone would ask it, which nobody
// here does; what getrandom gives (drivers/char/random.c) comes from elsewhere. A kernel in FIPS
// mode would ask, and could not do without.
const kernelOptions = "panic=3 oops=panic loglevel=4 lockdown=integrity slab_nomerge init_on_alloc=1 randomize_kstack_offset=on debugfs=off cryptomgr.notests initcall_blacklist=jent_mod_init"

// amd64Options: no_timer_check leaves out a test of how the timer is wired, for boards of
// another age, which a virtual machine that is kept waiting for its processor fails.
const amd64Options = " vsyscall=none no_timer_check"

// CommandLine is the kernel's, for an architecture. It is part of the slot, and signed with
// it.
func CommandLine(arch string) string {
	options := kernelOptions
	if arch == "amd64" {
		options += amd64Options
	}
	return targets[arch].consoles + " " + options
}

// slot makes the unified kernel image.
func (c *Config) slot(in *inputs) ([]byte, []Part, error) {
	release := uki.OSRelease(c.Version, c.Flavour)
	archive, parts := c.initramfs(in, release)
	initrd, err := compress(archive)
	if err != nil {
		return nil, nil, fmt.Errorf("compressing initramfs: %w", err)
	}
	c.Log.Info("made initramfs", "bytes", len(initrd), "unpacked", archiveSize(archive), "modules", len(in.modules))
	slot, err := uki.Append(in.stub, []uki.Section{
		{Name: ".osrel", Data: []byte(release)},
		{Name: ".cmdline", Data: []byte(CommandLine(c.Arch))},
		{Name: ".uname", Data: []byte(in.release)},
		{Name: ".initrd", Data: initrd},
		{Name: ".linux", Data: in.kernel},
	})
	if err != nil {
		return nil, nil, err
	}
	parts = append(parts, part(in.kernelPkg, "uki:.linux", in.kernel), part(in.bootPkg, "uki:stub", in.stub))
	return slot, parts, nil
}

// initramfs makes the root file system: the program, modules, trust, and places to mount on.
func (c *Config) initramfs(in *inputs, release string) (*cpio.Archive, []Part) {
	a := &cpio.Archive{}
	for _, d := range []string{"dev", "proc", "sys", "run", "data", "esp", "etc", "mnt"} {
		a.Dir(d, 0o755)
	}
	a.Dir("tmp", 0o1777)
	a.Device("dev/console", 0o600, 5, 1)
	a.Device("dev/null", 0o666, 1, 3)
	a.File("init", 0o755, in.program)
	a.File("etc/os-release", 0o644, []byte(release))
	a.File("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	a.Link("etc/resolv.conf", appliance.ResolvConf)
	a.File(update.KeysPath, 0o644, c.Keys)
	a.File(appliance.BuiltPath, 0o644, []byte(in.floor.UTC().Format(time.RFC3339)+"\n"))
	a.File("etc/ssl/certs/ca-certificates.crt", 0o644, in.trust)
	parts := []Part{
		{Name: "lazaretd", Version: c.Version, Path: "uki:/init", SHA256: sum(in.program), Size: int64(len(in.program))},
		part(in.trustPkg, "uki:/etc/ssl/certs/ca-certificates.crt", in.trust),
	}
	if len(c.Authorities) > 0 { // programs read all that lies there
		const name = "etc/ssl/certs/own.crt"
		a.File(name, 0o644, c.Authorities)
		parts = append(parts, Part{Name: "authorities", Version: c.Version, Path: "uki:/" + name, SHA256: sum(c.Authorities), Size: int64(len(c.Authorities))})
	}
	root := path.Join(appliance.ModuleDir, in.release)
	a.File(path.Join(root, appliance.ModuleIndexName), 0o644, []byte(in.index.Text()))
	for name, data := range in.modules {
		a.File(path.Join(root, name), 0o644, data)
		parts = append(parts, part(in.kernelPkg, "uki:"+path.Join(root, name), data))
	}
	return a, parts
}

// compress packs it as LZ4, in the legacy frame that the kernel unpacks (lib/decompress_unlz4.c):
// a third more bytes than Zstandard's, unpacked in half the time. One goroutine, so that the
// same bytes come out everywhere.
func compress(a *cpio.Archive) ([]byte, error) {
	var out bytes.Buffer
	z := lz4.NewWriter(&out)
	if err := z.Apply(lz4.LegacyOption(true), lz4.CompressionLevelOption(lz4.Level9), lz4.ConcurrencyOption(1)); err != nil {
		return nil, err
	}
	if _, err := a.WriteTo(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func archiveSize(a *cpio.Archive) int64 {
	n, _ := a.WriteTo(discard{})
	return n
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func sorted(m map[string][]byte) []string { return slices.Sorted(maps.Keys(m)) }

func sortParts(p []Part) {
	slices.SortFunc(p, func(a, b Part) int { return cmp.Compare(a.Path, b.Path) })
}
