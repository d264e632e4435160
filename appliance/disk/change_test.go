package disk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"lazaret/appliance"
)

// TestResetOfWhatIsShut: a partition that nobody can open is reset with a log alone, asking
// and telling nobody, whether a TPM may be there or not.
func TestResetOfWhatIsShut(t *testing.T) {
	m := newMachine()
	m.answers = []string{"a passphrase that is lost", "a passphrase that is lost"}
	m.mustBootAs(t, appliance.ByPassphrase)
	m.save(t)
	m.disk.Restart()
	if _, err := m.boot(); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if err := Reset(context.Background(), Config{Log: slog.New(slog.DiscardHandler), Changed: make(chan struct{}), on: m.now}); err != nil {
		t.Fatal(err)
	}
	m.want = appliance.ByFile
	if d := m.mustBoot(t); !d.Made() || m.hasData() {
		t.Error("after the reset:", d.Made(), m.hasData())
	}
	if _, err := Open(context.Background(), Config{Log: slog.New(slog.DiscardHandler), on: m.now}); err == nil {
		t.Error("a recovery passphrase could have been made with nobody to tell")
	}
}

// TestStatusWhileKeysChange: a passphrase costs up to a minute, in which whoever asks how
// the disk does is answered.
func TestStatusWhileKeysChange(t *testing.T) {
	m := newMachine()
	d := m.mustBootAs(t, appliance.ByFile)
	writes, waits := 0, 0
	m.disk.OnWrite(func(int64, []byte) {
		writes++
		if !d.mu.TryLock() {
			waits++ // Status would wait until the keys are changed
			return
		}
		d.mu.Unlock()
		if s := d.Status(); s.Protection != appliance.ByFile {
			t.Error("before the change is whole:", s)
		}
	})
	if err := d.SetPassphrase(context.Background(), []byte("long enough for all")); err != nil {
		t.Fatal(err)
	}
	if writes < 4 || waits > 0 {
		t.Errorf("%d writes, at %d of them nobody is answered", writes, waits)
	}
	if s := d.Status(); s.Protection != appliance.ByPassphrase || len(d.Problems()) > 0 {
		t.Error(s, d.Problems())
	}
}

// TestSharedMount: where somebody owns the EFI partition's mount, the key file is kept
// through them, and only what changes it asks for that.
func TestSharedMount(t *testing.T) {
	dir := t.TempDir()
	var asked []bool
	c := Config{Log: slog.New(slog.DiscardHandler), ESP: filepath.Join(dir, "nobody mounts here"), WithESP: func(device string, change bool, do func(string) error) error {
		if device != "/dev/there is none" {
			t.Error(device)
		}
		asked = append(asked, change)
		return do(dir)
	}}
	if err := c.complete(); err != nil {
		t.Fatal(err)
	}
	k := c.on.(*kernel)
	k.espPart = "/dev/there is none"
	if err := k.WriteKey([]byte("key")); err != nil {
		t.Fatal(err)
	}
	if key, err := k.ReadKey(); err != nil || string(key) != "key" {
		t.Error(string(key), err)
	}
	if err := k.RemoveKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.ESP); len(asked) != 3 || !asked[0] || asked[1] || !asked[2] || err == nil {
		t.Error(asked, err)
	}
}
