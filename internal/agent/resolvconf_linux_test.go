package agent

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted makes a resolver's file that is a mount of its own, as in a container, on a disk
// of one page.
func mounted(t *testing.T) *resolvConf {
	t.Helper()
	disk := t.TempDir()
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { must(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	put(t, filepath.Join(disk, "file"), own)
	f, _ := conf(t, "# mounted on\n")
	must(t, unix.Mount(filepath.Join(disk, "file"), f.path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(f.path, unix.MNT_DETACH)) })
	return f
}

// TestResolvConfOnAFullDisk: the device's own servers are there again at once.
func TestResolvConfOnAFullDisk(t *testing.T) {
	if !inside(t) {
		return
	}
	f := mounted(t)
	must(t, f.set([]netip.Addr{addr("10.66.0.1")}))
	if got := f.servers(t); got != "10.66.0.1" {
		t.Fatalf("set to %s", got)
	}
	many := make([]netip.Addr, 200)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 66, 0, byte(i)})
	}
	for range 2 {
		if err := f.set(many); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("more than the disk holds: %v", err)
		}
		if text, err := os.ReadFile(f.path); err != nil || string(text) != own || !f.alone(t) {
			t.Fatalf("then it holds %q, %v", text, err)
		}
	}
	must(t, f.set([]netip.Addr{addr("10.10.0.53")}))
	if got := f.servers(t); got != "10.10.0.53" {
		t.Errorf("set anew to %s", got)
	}
	must(t, f.restore())
	if text, err := os.ReadFile(f.path); err != nil || string(text) != own || !f.alone(t) {
		t.Errorf("at the end it holds %q, %v", text, err)
	}
}
