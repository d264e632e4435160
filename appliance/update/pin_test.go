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
