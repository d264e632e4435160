package disk

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestKernelNames: what the firmware says is read as it is written there, and partitions
// are called as Linux calls them.
func TestKernelNames(t *testing.T) {
	sys := t.TempDir()
	vars := filepath.Join(sys, "firmware/efi/efivars")
	if err := os.MkdirAll(vars, 0o700); err != nil {
		t.Fatal(err)
	}
	k := &kernel{sys: sys, dev: "/dev", log: slog.New(slog.DiscardHandler)}
	if k.Booted() != "" || k.SecureBoot() {
		t.Error("a machine without UEFI:", k.Booted(), k.SecureBoot())
	}
	put := func(name, b string) {
		if err := os.WriteFile(filepath.Join(vars, name), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "\x06\x00\x00\x00A\x00B\x00-\x001\x00\x00\x00")
	put("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", "\x06\x00\x00\x00\x01")
	if k.Booted() != "AB-1" || !k.SecureBoot() {
		t.Error(k.Booted(), k.SecureBoot())
	}
	for disk, want := range map[string]string{"vda": "/dev/vda2", "nvme0n1": "/dev/nvme0n1p2", "mmcblk0": "/dev/mmcblk0p2", "sda": "/dev/sda2"} {
		if got := k.partition(disk, 2); got != want {
			t.Errorf("%s: %s", disk, got)
		}
	}
}

// TestKeyFileIsOverwritten: nothing of a key file that was removed stays on the disk.
func TestKeyFileIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	k := &kernel{shared: func(_ string, _ bool, do func(dir string) error) error { return do(dir) }, log: slog.New(slog.DiscardHandler)}
	key := bytes.Repeat([]byte("secret"), 100)
	if err := k.WriteKey(key); err != nil {
		t.Fatal(err)
	}
	still, err := os.Open(filepath.Join(dir, keyPath)) // its sectors, as somebody else would read them
	if err != nil {
		t.Fatal(err)
	}
	defer still.Close()
	if err := k.RemoveKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.ReadKey(); err == nil {
		t.Error("the file is there")
	}
	if got, err := io.ReadAll(still); err != nil || !bytes.Equal(got, make([]byte, len(key))) {
		t.Errorf("what was its content is %.30q (%v)", got, err)
	}
	if err := k.RemoveKey(); err != nil {
		t.Error("one that is not there:", err)
	}
}
