package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lazaret/image/fake"
	"lazaret/internal/testneed"
)

// TestReadsWhatDpkgMakes: packages made by dpkg-deb with each compression read as what went in.
func TestReadsWhatDpkgMakes(t *testing.T) {
	dpkg, dir := testneed.Program(t, "dpkg-deb"), t.TempDir()
	for name, text := range map[string]string{
		"DEBIAN/control":   "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n",
		"boot/vmlinuz":     "kernel",
		"usr/lib/a/b.ko.x": "module",
	} {
		name = filepath.Join(dir, "tree", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b.ko.x", filepath.Join(dir, "tree/usr/lib/a/link")); err != nil {
		t.Fatal(err)
	}
	for _, z := range []string{"xz", "gzip", "zstd", "none"} {
		file := filepath.Join(dir, z+".deb")
		if out, err := exec.Command(dpkg, "-Z"+z, "--root-owner-group", "-b", filepath.Join(dir, "tree"), file).CombinedOutput(); err != nil {
			t.Logf("dpkg-deb does not know %s: %v: %s", z, err, out)
			continue
		}
		got := map[string]string{}
		err := WalkFile(file, func(name string, h *tar.Header, r io.Reader) error {
			b, err := io.ReadAll(r)
			got[name] = string(b) + h.Linkname
			return err
		})
		if err != nil || len(got) != 3 || got["boot/vmlinuz"] != "kernel" || got["usr/lib/a/b.ko.x"] != "module" || got["usr/lib/a/link"] != "b.ko.x" {
			t.Errorf("%s: read %v, %v", z, got, err)
		}
	}
}

// small is a package whose one file has a path that leads out of it.
var small = fake.Deb(map[string][]byte{"../etc/x": []byte("x")})

func TestStopsAndStaysInside(t *testing.T) {
	n := 0
	err := Walk(bytes.NewReader(small), func(name string, _ *tar.Header, _ io.Reader) error {
		n++
		if name != "etc/x" {
			t.Errorf("path %q leads elsewhere", name)
		}
		return ErrEnough
	})
	if err != nil || n != 1 {
		t.Error(n, err)
	}
	broken := errors.New("broken")
	if err := Walk(bytes.NewReader(small), func(string, *tar.Header, io.Reader) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(small)
	f.Add([]byte("!<arch>\n"))
	f.Add([]byte("!<arch>\ndata.tar.lzma   0           0     0     100644  9999999999`\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		Walk(bytes.NewReader(b), func(name string, _ *tar.Header, _ io.Reader) error {
			if filepath.IsAbs(name) {
				t.Fatalf("path %q", name)
			}
			return nil
		})
	})
}
