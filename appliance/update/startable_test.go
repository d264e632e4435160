package update

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"lazaret/appliance"
)

// TestStartable: the firmware is asked of what was written, and what it would not start is
// no slot.
func TestStartable(t *testing.T) {
	esp := fresh(wide, SlotName(old))
	var answer error
	m := manager(t, esp, t.TempDir(), old, "", func(c *Config) {
		c.Startable = func(slot io.ReaderAt, size int64) error {
			if got, err := io.ReadAll(io.NewSectionReader(slot, 0, 1<<20)); err != nil || int64(len(got)) != size || !bytes.Equal(got, image(new_)) {
				t.Errorf("it is asked of %d bytes, and told %d: %v", len(got), size, err)
			}
			return answer
		}
	})
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	answer = errors.New("it is not signed")
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("what the firmware refuses: %v", err)
	}
	if all, _ := esp.List(); len(all) != 1 || m.Is().Staged != "" {
		t.Errorf("there are %v, %+v", all, m.Is())
	}
	answer = nil
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); err != nil || m.Is().Staged != new_ {
		t.Errorf("what it starts: %v, %+v", err, m.Is())
	}
}
