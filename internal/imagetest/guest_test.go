package imagetest

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lazaret/image/cpio"
	"lazaret/image/uki"
	"lazaret/internal/testneed"
	"lazaret/internal/vm"
)

// TestGuestKernel runs in the image's kernel, with its modules as the image loads them, what other kernels may
// have no means for: each test passes, and nothing in it is skipped.
func TestGuestKernel(t *testing.T) {
	t.Parallel()
	vm.Needs(t, vm.Direct)
	kernel, initrd := guest(t, testneed.GuestTests)
	v := vm.Start(t, vm.Config{
		Kernel: kernel, Initrd: initrd, Card: "none",
		Append: "console=ttyS0 quiet panic=1 no_timer_check cryptomgr.notests rdinit=/guest/init PATH=/usr/sbin:/usr/bin:/sbin:/bin CI=true " + testneed.GuestVariable + "=1",
	})
	for _, g := range testneed.GuestTests {
		said, err := v.Expect(soon(t), regexp.MustCompile(`guest: `+g.Name+` ended: ([^\r\n]*)\r`))
		if err != nil {
			t.Fatal(err)
		}
		if said.Groups[1] != "<nil>" {
			t.Errorf("%s.%s: %s", g.Package, g.Name, said.Groups[1])
		}
		if !strings.Contains(v.Transcript(), "--- PASS: "+g.Name+" ") {
			t.Errorf("%s.%s did not say that it passed", g.Package, g.Name)
		}
		t.Logf("%6.1f s after power-on: %s.%s ended", said.At.Seconds(), g.Package, g.Name)
	}
	if err := v.Wait(soon(t)); err != nil {
		t.Error(err)
	}
	if said := v.Transcript(); strings.Contains(said, "--- SKIP") {
		t.Error("something was skipped")
	}
	t.Logf("QEMU took %v", v.CPU())
}

// guest returns the image's kernel, and an initial RAM disk that runs tests in it: the image's
// own, behind what is added to it.
func guest(t *testing.T, tests []testneed.GuestTest) (kernel, initrd string) {
	t.Helper()
	slot, err := os.ReadFile(built(t, ".efi"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := uki.Read(slot, ".linux")
	root, err2 := uki.Read(slot, ".initrd")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	var a cpio.Archive
	a.Device("/dev/console", 0o600, 5, 1)
	var modules []string
	for i, g := range tests {
		modules = append(modules, g.Modules...)
		addFile(t, &a, fmt.Sprintf("/guest/tests/%02d-%s", i, g.Name), testBinary(t, g.Package))
	}
	a.File("/guest/modules", 0o644, []byte(strings.Join(modules, " ")))
	addFile(t, &a, "/guest/init", program(t, "./internal/imagetest/testdata/guest"))
	addProgram(t, &a, testneed.Program(t, "ip"))
	var all bytes.Buffer
	_, err = a.WriteTo(&all)
	all.Write(root)
	dir := t.TempDir()
	kernel, initrd = filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd")
	if err := errors.Join(err, os.WriteFile(kernel, text, 0o600), os.WriteFile(initrd, all.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return kernel, initrd
}

func addFile(t *testing.T, a *cpio.Archive, name, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	a.File(name, 0o755, data)
}

// libraryDirs is where a dynamic linker looks by itself (ld.so(8)): Debian's, then others'.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// addProgram adds a program of this machine, with its linker and libraries, at their own paths.
func addProgram(t *testing.T, a *cpio.Archive, at string) {
	t.Helper()
	seen := map[string]bool{}
	var add func(at string)
	add = func(at string) {
		if seen[at] {
			return
		}
		seen[at] = true
		addFile(t, a, at, at)
		f, err := elf.Open(at)
		if err != nil {
			t.Fatalf("reading %s: %v", at, err)
		}
		defer f.Close()
		if f.Machine != elf.EM_X86_64 {
			testneed.Skip(t, "needs "+at+" for the guest's processor: run it on amd64")
		}
		for _, p := range f.Progs {
			if p.Type != elf.PT_INTERP {
				continue
			}
			linker := make([]byte, p.Filesz)
			if _, err := p.ReadAt(linker, 0); err != nil {
				t.Fatalf("reading %s: %v", at, err)
			}
			add(string(bytes.TrimRight(linker, "\x00")))
		}
		needs, err := f.ImportedLibraries()
		if err != nil {
			t.Fatalf("reading %s: %v", at, err)
		}
		for _, name := range needs {
			i := slices.IndexFunc(libraryDirs, func(dir string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil })
			if i < 0 {
				t.Fatalf("%s needs %s, which is in none of %v", at, name, libraryDirs)
			}
			add(filepath.Join(libraryDirs[i], name))
		}
	}
	add(at)
}

// testBinary builds a package's tests for the guest.
func testBinary(t *testing.T, of string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), path.Base(of)+".test")
	c := exec.CommandContext(t.Context(), "go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", out, "./"+of)
	c.Dir, c.Env = "../..", append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the tests of %s: %v %s", of, err, text)
	}
	return out
}
