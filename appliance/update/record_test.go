package update

import (
	"errors"
	"testing"
)

// TestRecordIsWrittenWhenItChanges: starts that find nothing new write nothing, and after a
// write that failed nothing is taken for written.
func TestRecordIsWrittenWhenItChanges(t *testing.T) {
	dir, written := t.TempDir(), 0
	var fail error
	start := func() *Manager {
		m := manager(t, fresh(wide, SlotName(old)), dir, old, SlotName(old))
		m.keep = func(r record, dir string) error {
			written++
			return errors.Join(r.save(dir), fail)
		}
		if err := m.Begin(); err != nil {
			t.Fatal(err)
		}
		return m
	}
	start()
	if written == 0 {
		t.Error("a first start wrote nothing")
	}
	written = 0
	place := start().known().Place
	m := start()
	if written != 0 || m.known().Place != place {
		t.Errorf("written %d times by two more starts, place %d and then %d", written, place, m.known().Place)
	}
	fail = errors.New("the disk may have it, or not")
	if err := m.change(func(r *record) { r.Failed = "2.0.0" }); !errors.Is(err, fail) {
		t.Errorf("a write that failed: %v", err)
	}
	fail = nil
	if err := m.change(func(r *record) { r.Failed = "" }); err != nil || written != 2 {
		t.Errorf("what it was before is not written again: %v, written %d times", err, written)
	}
	if r, kept, err := loadRecord(dir); err != nil || !kept || r.Failed != "" {
		t.Errorf("on the disk: %+v, %v, %v", r, kept, err)
	}
}
