package update

import (
	"bytes"
	"debug/pe"
	"errors"
	"strings"
	"testing"

	"lazaret/appliance"
)

// TestSlotIsWhatTheManifestSays: a bundle that is whole and rightly signed, newer and for
// this machine by its own word, and whose slot is something else: nothing of it stays, and
// nothing of it is started.
func TestSlotIsWhatTheManifestSays(t *testing.T) {
	const amd64, arm64 = pe.IMAGE_FILE_MACHINE_AMD64, pe.IMAGE_FILE_MACHINE_ARM64
	release := func(id, version, flavour string) string {
		return "ID=lazaret\nIMAGE_ID=" + id + "\nIMAGE_VERSION=\"" + version + "\"\nVARIANT_ID=" + flavour + "\n"
	}
	whole := []string{".initrd", ".linux"}
	for _, c := range []struct {
		name, says string // says nothing: it is taken
		slot       []byte
	}{
		{"what it says", "", slotFile(amd64, release("lazaret", new_, "cloud"), whole...)},
		{"an older version", `IMAGE_VERSION is "0.9.0", not "1.1.0"`, slotFile(amd64, release("lazaret", older, "cloud"), whole...)},
		{"the version that runs", `IMAGE_VERSION is "1.0.0"`, slotFile(amd64, release("lazaret", old, "cloud"), whole...)},
		{"a newer version", `IMAGE_VERSION is "9.0.0"`, slotFile(amd64, release("lazaret", "9.0.0", "cloud"), whole...)},
		{"no version", `IMAGE_VERSION is ""`, slotFile(amd64, "IMAGE_ID=lazaret\nVARIANT_ID=cloud\n", whole...)},
		{"another processor", "not for amd64", slotFile(arm64, release("lazaret", new_, "cloud"), whole...)},
		{"another kernel", `VARIANT_ID is "metal"`, slotFile(amd64, release("lazaret", new_, "metal"), whole...)},
		{"somebody else's", `IMAGE_ID is "other"`, slotFile(amd64, release("other", new_, "cloud"), whole...)},
		{"no kernel", "no section .linux", slotFile(amd64, release("lazaret", new_, "cloud"), ".initrd")},
		{"no program", "no program for UEFI", bytes.Repeat([]byte("slot"), imageSize/4)},
	} {
		t.Run(c.name, func(t *testing.T) {
			esp := fresh(wide, SlotName(older), SlotName(old))
			m := manager(t, esp, t.TempDir(), old, "")
			if err := m.Begin(); err != nil {
				t.Fatal(err)
			}
			_, file, err := m.Stage(t.Context(), bytes.NewReader(bundleOf(t, testManifest(new_, older), c.slot, testKey(1))), false)
			if c.says == "" {
				if err != nil || file != "lazaret_1.1.0+3.efi" {
					t.Fatalf("%q, %v", file, err)
				}
				return
			}
			if !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want a refusal that says %q", err, c.says)
			}
			if esp.power(); len(esp.dir) != 2 || m.Is().Staged != "" { // also not after a loss of power
				t.Errorf("there are %v, staged %q", esp.dir, m.Is().Staged)
			}
			if name, _, err := esp.start(); name != SlotName(old) || err != nil {
				t.Errorf("%q is started, %v", name, err)
			}
		})
	}
}

// TestTornSlotHeaders: a slot's headers may say anything, and lead nowhere.
func TestTornSlotHeaders(t *testing.T) {
	good := image(new_)
	for at := range 300 {
		for _, to := range []byte{0, 1, 0x7f, 0xff} {
			bad := bytes.Clone(good)
			bad[at] = to
			_ = CheckSlot(bytes.NewReader(bad), testManifest(new_, older)) // it may fit still: what is asked for is that it ends
		}
	}
}
