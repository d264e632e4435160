package image

import (
	"archive/tar"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lazaret/image/deb"
	"lazaret/image/kmod"
	"lazaret/image/packages"
	"lazaret/internal/testneed"
)

// realConfig returns a Config with Debian's own packages, for LONG=1 alone: they are 140 MB
// and take seconds to read. LAZARET_PACKAGES names their directory if it is not the one
// mkimage uses; what is not there is not fetched, and skips the test.
func realConfig(t *testing.T, arch, flavour string) Config {
	t.Helper()
	if os.Getenv("LONG") == "" {
		t.Skip("reads whole kernel packages: set LONG=1, after mkimage fetch")
	}
	dir := os.Getenv("LAZARET_PACKAGES")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "lazaret", "packages")
	}
	list, err := packages.Pinned()
	if err != nil {
		t.Fatal(err)
	}
	c := standIns(t)
	c.Arch, c.Flavour, c.Packages, c.Modules = arch, flavour, list, nil
	c.Store = &packages.Store{Dir: dir, Offline: true, Log: slog.New(slog.DiscardHandler)}
	need, err := Needs(list, arch, flavour)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range need {
		if _, err := os.Stat(filepath.Join(dir, p.File())); err != nil {
			t.Skipf("needs %s: run mkimage fetch --arch %s --flavour %s", p.File(), arch, flavour)
		}
	}
	return c
}

var images = [][2]string{{"amd64", "cloud"}, {"amd64", "metal"}, {"arm64", "cloud"}, {"arm64", "metal"}}

// TestRealImageTwice builds every image of Debian's packages twice and compares.
func TestRealImageTwice(t *testing.T) {
	for _, i := range images {
		t.Run(i[0]+"-"+i[1], func(t *testing.T) {
			a, b := build(t, realConfig(t, i[0], i[1])), build(t, realConfig(t, i[0], i[1]))
			if hash(t, a.Raw) != hash(t, b.Raw) || hash(t, a.UKI) != hash(t, b.UKI) {
				t.Error("two builds differ")
			}
		})
	}
}

// TestModprobeAgrees: modprobe, reading Debian's whole tree with an index that depmod made,
// would load the same files for every wanted module, and so would our index; what the image
// has is all that is needed.
func TestModprobeAgrees(t *testing.T) {
	for _, i := range images {
		t.Run(i[0]+"-"+i[1], func(t *testing.T) { modprobeAgrees(t, realConfig(t, i[0], i[1])) })
	}
}

func modprobeAgrees(t *testing.T, c Config) {
	depmod, modprobe := testneed.Program(t, "depmod"), testneed.Program(t, "modprobe")
	in, err := c.gather(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	unpack(t, filepath.Join(c.Store.Dir, in.kernelPkg.File()), root)
	if out, err := exec.Command(depmod, "-b", root, in.release).CombinedOutput(); err != nil {
		t.Fatalf("depmod: %v: %s", err, out)
	}
	prefix := "insmod " + filepath.Join(root, "lib/modules", in.release) + "/"
	for _, m := range in.index.Modules() {
		out, err := exec.Command(modprobe, "-d", root, "-S", in.release, "-C", "/dev/null", "--ignore-install", "--show-depends", m.Name).CombinedOutput()
		if err != nil {
			t.Errorf("modprobe %s: %v: %s", m.Name, err, out)
			continue
		}
		var want []string
		for line := range strings.Lines(string(out)) {
			if file, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
				want = append(want, file)
			}
		}
		// modprobe leaves out what is only wanted (softdep) by the very module it is asked for.
		for _, soft := range m.Wants {
			want = append(want, in.index.Needs(soft)...)
		}
		got := in.index.Needs(m.Name)
		for i := range got { // unpacked or not
			got[i] = kmod.Plain(got[i])
		}
		for i := range want {
			want[i] = kmod.Plain(want[i])
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, slices.Compact(want)) {
			t.Errorf("%s: we load %v, modprobe %v", m.Name, got, want)
		}
	}
	aliases, err := os.ReadFile(filepath.Join(root, "lib/modules", in.release, "modules.alias"))
	if err != nil {
		t.Fatal(err)
	}
	here, checked := map[string]bool{}, 0
	for _, m := range in.index.Modules() {
		here[m.Name] = true
	}
	for line := range strings.Lines(string(aliases)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" || !here[strings.ReplaceAll(f[2], "-", "_")] || strings.ContainsAny(f[1], "[?") {
			continue
		}
		checked++
		device := strings.ReplaceAll(f[1], "*", "0") // some device of the pattern
		if !slices.Contains(in.index.Find(device), strings.ReplaceAll(f[2], "-", "_")) {
			t.Errorf("%s is not found for %s", f[2], device)
		}
	}
	if checked < 100 {
		t.Errorf("only %d aliases to compare", checked)
	}
}

// unpack writes a kernel package's modules below root.
func unpack(t *testing.T, file, root string) {
	t.Helper()
	err := deb.WalkFile(file, func(name string, h *tar.Header, r io.Reader) error {
		if !strings.Contains(name, "lib/modules/") || h.Typeflag != tar.TypeReg {
			return nil
		}
		to := filepath.Join(root, strings.TrimPrefix(name, "usr/"))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		f, err := os.Create(to)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(f, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
