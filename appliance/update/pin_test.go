package update

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"lazaret/appliance"
)

// TestPin: a bundle that is signed, newer and fits is still refused where another was to
// come, before anything of it is written.
func TestPin(t *testing.T) {
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	man, err := Open(bytes.NewReader(bundle), testKeys(testKey(1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pin  Pin
		says string
	}{
		{Pin{Version: "1.2.0"}, "and 1.2.0 was to come"},
		{Pin{Version: new_, SHA256: strings.Repeat("0", 64)}, "another image"},
		{Pin{SHA256: strings.ToUpper(man.SHA256)}, "another image"},
		{Pin{Version: new_, SHA256: man.SHA256}, ""},
	} {
		esp, dir := fresh(wide, SlotName(old)), t.TempDir()
		m := manager(t, esp, dir, old, "")
		_, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), true, c.pin)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, appliance.ErrRefused) || !strings.Contains(fmt.Sprint(err), c.says) || len(esp.dir) != 1) {
			t.Errorf("%+v: %v; %d files", c.pin, err, len(esp.dir))
		}
	}
}

// TestNotStarted: a version that was staged, and that the boot loader passed over, is said
// and staged again, and by itself only once.
func TestNotStarted(t *testing.T) {
	esp, dir := fresh(wide, SlotName(old)), t.TempDir()
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	for turn := range 3 {
		m := manager(t, esp, dir, old, "")
		if err := m.Begin(); err != nil {
			t.Fatal(err)
		}
		if is := m.Is(); turn > 0 && (is.Last != "version 1.1.0 was written and not started; version 1.0.0 runs" || is.Staged != "") {
			t.Errorf("start %d: %+v", turn, is)
		}
		if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), true); (err == nil) != (turn < 2) {
			t.Errorf("start %d: %v", turn, err)
		}
	}
}
