package cpio

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/testneed"
)

func tree() *Archive {
	a := &Archive{}
	a.File("/init", 0o755, []byte("program"))
	a.File("lib/modules/6.12/kernel/a.ko", 0o644, []byte("abc"))
	a.Dir("tmp", 0o1777)
	a.Link("etc/mtab", "/proc/mounts")
	a.Device("dev/console", 0o600, 5, 1)
	return a
}

// TestCpioLists: cpio(1) sees what was put in, owned by root, parents first.
func TestCpioLists(t *testing.T) {
	var b bytes.Buffer
	n, err := tree().WriteTo(&b)
	if err != nil || n != int64(b.Len()) || n%4 != 0 {
		t.Fatal(n, b.Len(), err)
	}
	cmd := exec.Command(testneed.Program(t, "cpio"), "-itvn", "--quiet")
	cmd.Stdin = &b
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
		"crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 etc",
		"lrwxrwxrwx 1 0 0 12 Jan 1 1970 etc/mtab -> /proc/mounts",
		"-rwxr-xr-x 1 0 0 7 Jan 1 1970 init",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 lib",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 lib/modules",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 lib/modules/6.12",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 lib/modules/6.12/kernel",
		"-rw-r--r-- 1 0 0 3 Jan 1 1970 lib/modules/6.12/kernel/a.ko",
		"drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("cpio lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCpioUnpacks(t *testing.T) {
	a, dir := tree(), t.TempDir()
	delete(a.entries, "dev/console") // needs root
	var b bytes.Buffer
	if _, err := a.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testneed.Program(t, "cpio"), "-id", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"init": "program", "lib/modules/6.12/kernel/a.ko": "abc"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
