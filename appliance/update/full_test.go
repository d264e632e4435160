package update

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// filling is an ESP on which somebody else takes the room while a slot is written.
type filling struct {
	*model
	room int
}

type fillingFile struct {
	File
	esp *filling
}

func (f *filling) Create(name string) (File, error) {
	file, err := f.model.Create(name)
	return fillingFile{file, f}, err
}

func (f fillingFile) Write(b []byte) (int, error) {
	if f.esp.room -= len(b); f.esp.room < 0 {
		return 0, &os.PathError{Op: "write", Path: "slot", Err: unix.ENOSPC}
	}
	return f.File.Write(b)
}

// TestFullWhileWriting: an EFI partition that fills up, and a data partition that is full,
// are told as what they are; nothing of the update stays, and it comes through once there is
// room.
func TestFullWhileWriting(t *testing.T) {
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	for _, room := range []int{0, imageSize / 2, imageSize - 1} {
		esp := &filling{fresh(wide, SlotName(older), SlotName(old)), room}
		m := manager(t, esp, t.TempDir(), old, "")
		_, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false)
		if !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "the EFI system partition has no room") {
			t.Errorf("room for %d bytes: %v", room, err)
		}
		if got := names(t, m); got != "1.0.0.efi* 0.9.0.efi" || len(esp.dir) != 2 || m.Is().Staged != "" {
			t.Errorf("room for %d bytes: %s, %d files, staged %q", room, got, len(esp.dir), m.Is().Staged)
		}
		esp.room = wide
		if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); err != nil {
			t.Errorf("there is room again: %v", err)
		}
	}
	esp := fresh(wide, SlotName(older), SlotName(old))
	m := manager(t, esp, t.TempDir(), old, "")
	m.keep = func(record, string) error { return &os.PathError{Op: "write", Path: recordName, Err: unix.ENOSPC} }
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "the data partition is full") {
		t.Errorf("no room for the record: %v", err)
	}
	if got := names(t, m); got != "1.0.0.efi* 0.9.0.efi" || len(esp.dir) != 2 {
		t.Errorf("no room for the record: %s, %d files", got, len(esp.dir))
	}
	m.keep = nil
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); err != nil {
		t.Errorf("there is room for the record again: %v", err)
	}
}
