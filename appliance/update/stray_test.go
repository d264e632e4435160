package update

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestStrays: what the boot loader would start and is no slot of ours is gone after a start;
// a second name of a slot is not removed, since it may be what the slot consists of.
func TestStrays(t *testing.T) {
	for _, c := range []struct {
		name    string
		running string
		files   map[string]string // the version whose image they hold
		want    string
	}{
		{"torn names", old, map[string]string{SlotName(old): old, "LAZARE~1.EFI": new_, "LAZARE~2.efi": "2.0.0", "other.Efi": "x"}, "lazaret_1.0.0.efi"},
		{"not the loader's", old, map[string]string{SlotName(old): old, "notes.txt": "x", "efi": "x"}, "efi lazaret_1.0.0.efi notes.txt"},
		{"second names of what runs", old, map[string]string{SlotName(old): old, "LAZARE~1.EFI": old, "LAZARE~2.EFI": old}, "lazaret_1.0.0+0-1.efi.tmp lazaret_1.0.0+0.efi.tmp lazaret_1.0.0.efi"},
		{"second name of what can be gone back to", old, map[string]string{SlotName(old): old, SlotName(older): older, "LAZARE~1.EFI": older}, "lazaret_0.9.0+0.efi.tmp lazaret_0.9.0.efi lazaret_1.0.0.efi"},
		{"second name of what was being written", old, map[string]string{SlotName(old): old, countedName(new_, 3, 0) + tmpSuffix: new_, "LAZARE~1.EFI": new_}, "lazaret_1.0.0.efi"},
		{"what runs has no name", new_, map[string]string{SlotName(old): old, "LAZARE~1.EFI": new_}, "LAZARE~1.EFI lazaret_1.0.0.efi"},
	} {
		all := map[string][]byte{}
		for name, version := range c.files {
			all[name] = image(version)
		}
		esp := newModel(1, wide, all)
		m := manager(t, esp, t.TempDir(), c.running, "")
		for range 2 {
			if err := m.Begin(); err != nil {
				t.Fatal(c.name, err)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(esp.disk)), " "); got != c.want {
				t.Errorf("%s: there are %s", c.name, got)
			}
		}
	}
	// Both names go together: what lies where they lay is not damaged by one that goes later.
	esp := newModel(1, 3*imageSize+margin, map[string][]byte{SlotName(older): image(older), SlotName(old): image(old)})
	esp.dir["LAZARE~1.EFI"], esp.disk["LAZARE~1.EFI"] = esp.dir[SlotName(older)], esp.dir[SlotName(older)]
	m := manager(t, esp, t.TempDir(), old, "")
	if err := m.Begin(); err != nil {
		t.Fatal(err)
	}
	esp.room = 2*imageSize + margin
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundleOf(t, testManifest(new_, older), image(new_), testKey(1))), false); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(slices.Sorted(maps.Keys(esp.disk)), " "); got != "lazaret_1.0.0.efi lazaret_1.1.0+3.efi" || !bytes.Equal(esp.disk[SlotName(old)].disk, image(old)) || !bytes.Equal(esp.disk["lazaret_1.1.0+3.efi"].disk, image(new_)) {
		t.Errorf("there are %s", got)
	}
}
