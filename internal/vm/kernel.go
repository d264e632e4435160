package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/testneed"
)

// PackagesVariable names the directory in which Debian's packages of the kernel are looked
// for; without it, it is lazaret/packages below the user's cache directory, where make image
// keeps what it fetched.
const PackagesVariable = "LAZARET_PACKAGES"

// Kernel unpacks Debian's kernel of that flavor ("cloud", or "" for the one for all
// machines) and returns the kernel itself and the directory of its modules
// (lib/modules/<release>). It skips t where the package is not at hand.
func Kernel(t testing.TB, flavor string) (kernel, modules string) {
	t.Helper()
	deb := kernelPackage(t, flavor)
	program := testneed.Program(t, "dpkg-deb")
	dir := t.TempDir()
	if out, err := exec.Command(program, "-x", deb, dir).CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v %s", deb, err, out)
	}
	kernels, err := filepath.Glob(dir + "/boot/vmlinuz-*")
	releases, err2 := filepath.Glob(dir + "/lib/modules/*")
	if err := errors.Join(err, err2); err != nil || len(kernels) != 1 || len(releases) != 1 {
		t.Fatalf("%s holds the kernels %v and the modules %v, want one of each (%v)", deb, kernels, releases, err)
	}
	return kernels[0], releases[0]
}

// kernelPackage is the newest package of the flavor, by name.
func kernelPackage(t testing.TB, flavor string) string {
	t.Helper()
	dir := os.Getenv(PackagesVariable)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("needs the kernel's package: set %s to the directory that holds it", PackagesVariable)
		}
		dir = filepath.Join(cache, "lazaret", "packages")
	}
	found, err := filepath.Glob(filepath.Join(dir, "linux-image-*_amd64.deb"))
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(path string) bool {
		return strings.Contains(filepath.Base(path), "-cloud-") != (flavor == "cloud")
	})
	if len(found) == 0 {
		t.Skipf("needs Debian's kernel package in %s: make image fetches it, or set %s", dir, PackagesVariable)
	}
	return slices.Max(found)
}

// File is one entry of an initial RAM disk.
type File struct {
	Path string      // without the leading slash
	Mode fs.FileMode // with its type; directories, regular files, symbolic links and character devices
	Data []byte      // of a regular file; of a link, where it points
	Dev  [2]uint32   // major and minor number
}

// Initrd writes an initial RAM disk (a cpio archive of the kind "newc") that holds program as
// /init, /dev with a console, empty /proc, /sys, /run and /tmp, and more. A Go test passes
// os.Executable, and tells by os.Getpid() == 1 in TestMain that it is the guest: it must be
// built without cgo.
func Initrd(t testing.TB, program string, more ...File) string {
	t.Helper()
	init, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.NewFile(bytes.NewReader(init)); err != nil || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skipf("needs a program without libraries as the guest's: build it with CGO_ENABLED=0 (%v)", err)
	}
	files := []File{{Path: "dev", Mode: fs.ModeDir | 0o755}, {Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Dev: [2]uint32{5, 1}}}
	for _, d := range []string{"proc", "sys", "run", "tmp"} {
		files = append(files, File{Path: d, Mode: fs.ModeDir | 0o755})
	}
	files = append(files, File{Path: "init", Mode: 0o755, Data: init})
	path := filepath.Join(t.TempDir(), "initrd")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writeCPIO(f, append(files, more...)), f.Close()); err != nil {
		t.Fatalf("writing the initial RAM disk: %v", err)
	}
	return path
}

// writeCPIO writes the format the kernel describes in
// Documentation/driver-api/early-userspace/buffer-format.rst.
func writeCPIO(w io.Writer, files []File) error {
	for i, f := range append(files, File{Path: "TRAILER!!!"}) {
		mode := uint32(f.Mode.Perm())
		switch f.Mode.Type() {
		case fs.ModeDir:
			mode |= 0o040000
		case fs.ModeSymlink:
			mode |= 0o120000
		case fs.ModeDevice | fs.ModeCharDevice:
			mode |= 0o020000
		case 0:
			mode |= 0o100000
		default:
			return fmt.Errorf("%s: no way to write a file of mode %v", f.Path, f.Mode)
		}
		header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			i+1, mode, 0, 0, 1, 0, len(f.Data), 0, 0, f.Dev[0], f.Dev[1], len(f.Path)+1, 0)
		pad := func(n int) string { return "\x00\x00\x00"[:(4-n%4)%4] }
		head := header + f.Path + "\x00"
		if _, err := io.WriteString(w, head+pad(len(head))); err != nil {
			return err
		}
		if _, err := io.WriteString(w, string(f.Data)+pad(len(f.Data))); err != nil {
			return err
		}
	}
	return nil
}
