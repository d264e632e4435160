package machine

import (
	"os"
	"path/filepath"
	"testing"
)

// sysOf makes the part of /sys that tells of disks: vda is this machine's, sda somebody
// else's with the same names.
func sysOf(t *testing.T, disks ...string) string {
	t.Helper()
	sys := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(sys, "class/block"), 0o755))
	for _, disk := range disks {
		for part, name := range map[string]string{"": "", "1": "lazaret-esp", "2": "lazaret-data"} {
			at := filepath.Join("devices/pci", disk)
			if part != "" {
				at = filepath.Join(at, disk+part)
			}
			must(os.MkdirAll(filepath.Join(sys, at), 0o755))
			must(os.WriteFile(filepath.Join(sys, at, "uevent"), []byte("MAJOR=8\nPARTNAME="+name+"\n"), 0o644))
			must(os.Symlink(filepath.Join("../..", at), filepath.Join(sys, "class/block", disk+part)))
		}
	}
	mapped := filepath.Join(sys, "devices/virtual/block/dm-0/slaves")
	must(os.MkdirAll(mapped, 0o755))
	must(os.Symlink("../../../../pci/vda/vda2", filepath.Join(mapped, "vda2")))
	must(os.Symlink("../../devices/virtual/block/dm-0", filepath.Join(sys, "class/block/dm-0")))
	return sys
}

func TestESPIsOnTheDiskOfTheData(t *testing.T) {
	for name, x := range map[string]struct {
		disks      []string
		data, want string
	}{
		"one disk, not open":       {[]string{"vda"}, "", "/dev/vda1"},
		"one disk":                 {[]string{"vda"}, "dm-0", "/dev/vda1"},
		"another's, not open":      {[]string{"sda", "vda"}, "", ""},
		"another's, which is ours": {[]string{"sda", "vda"}, "dm-0", "/dev/vda1"},
		"ours is gone":             {[]string{"sda"}, "dm-0", ""},
	} {
		got, err := espDevice(sysOf(t, x.disks...), x.data)
		if got != x.want || (err == nil) != (x.want != "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, x.want)
		}
	}
}
