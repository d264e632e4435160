package update

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/appliance"
)

// slow is a bundle of which so much comes in, and the end of a pipe that the rest would come by.
func slow(bundle []byte, n int) (io.Reader, *io.PipeWriter) {
	r, w := io.Pipe()
	return io.MultiReader(bytes.NewReader(bundle[:n]), r), w
}

// TestOpenUploadHoldsNobodyUp: while a bundle stays away, everything else is answered, and
// a version can be left, which ends the bundle.
func TestOpenUploadHoldsNobodyUp(t *testing.T) {
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	for what, n := range map[string]int{"nothing": 0, "half a header": 30, "half an image": len(bundle) / 2} {
		for how, leave := range map[string]func(*Manager) error{
			"given up":    func(m *Manager) error { return m.GiveUp("the tunnel is down") },
			"rolled back": func(m *Manager) error { _, err := m.Rollback(); return err },
		} {
			synctest.Test(t, func(t *testing.T) {
				esp := fresh(wide, SlotName(older), SlotName(old))
				m := manager(t, esp, t.TempDir(), old, "")
				if err := m.Begin(); err != nil {
					t.Fatal(err)
				}
				r, w := slow(bundle, n)
				defer w.Close()
				staged := make(chan error, 1)
				go func() {
					_, _, err := m.Stage(t.Context(), r, false)
					staged <- err
				}()
				synctest.Wait() // until it waits for the peer
				if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); !errors.Is(err, appliance.ErrBusy) {
					t.Errorf("%s: a second one: %v", what, err)
				}
				if trial, err := m.Trial(); err != nil || trial || len(m.Slots()) != 2 {
					t.Errorf("%s: trial %v, %v, %+v", what, trial, err, m.Slots())
				}
				if err := m.Bless(); err != nil {
					t.Errorf("%s: blessing: %v", what, err)
				}
				if err := leave(m); err != nil {
					t.Errorf("%s, %s: %v", what, how, err)
				}
				if err := <-staged; !errors.Is(err, appliance.ErrBusy) || !strings.Contains(err.Error(), "goes back") {
					t.Errorf("%s: the bundle ended with: %v", what, err)
				}
				if got := names(t, m); got != "1.0.0+0-1.efi* 0.9.0.efi" {
					t.Errorf("%s, %s: %s", what, how, got)
				}
				if all, _ := esp.List(); len(all) != 2 {
					t.Errorf("%s: there are %v", what, all)
				}
			})
		}
	}
}

// TestBundleHasItsTime: a sender that says nothing gets a minute, one that drips a quarter
// of an hour; then another may send.
func TestBundleHasItsTime(t *testing.T) {
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	for _, c := range []struct {
		name  string
		every time.Duration // a byte comes
		want  time.Duration
		why   string
	}{{"silent", time.Hour, mostPause, "nothing of the bundle"}, {"dripping", 50 * time.Second, mostTime, "not come in whole"}} {
		synctest.Test(t, func(t *testing.T) {
			esp := fresh(wide, SlotName(old))
			m := manager(t, esp, t.TempDir(), old, "")
			r, w := slow(bundle, len(bundle)/2)
			over := make(chan struct{})
			go func() {
				for {
					select {
					case <-time.After(c.every):
						_, _ = w.Write(bundle[:1])
					case <-over:
						return
					}
				}
			}()
			from := time.Now()
			_, _, err := m.Stage(t.Context(), r, false)
			if took := time.Since(from); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), c.why) || took != c.want {
				t.Errorf("%s: after %s: %v", c.name, took, err)
			}
			close(over)
			_ = w.Close()
			if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); err != nil {
				t.Errorf("after one that was %s: %v", c.name, err)
			}
			if got := names(t, m); got != "1.1.0+3.efi 1.0.0.efi*" {
				t.Error(got)
			}
		})
	}
}

// TestLeftWithoutARecord: a version is left also where the data partition takes no writes.
func TestLeftWithoutARecord(t *testing.T) {
	for how, leave := range map[string]func(*Manager) error{
		"given up":    func(m *Manager) error { return m.GiveUp("the store is not healthy") },
		"rolled back": func(m *Manager) error { _, err := m.Rollback(); return err },
	} {
		esp, dir := fresh(wide, SlotName(old), countedName(new_, 2, 1)), t.TempDir()
		m := manager(t, esp, dir, new_, "")
		if err := m.Begin(); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, recordName+".new"), 0o700); err != nil { // nothing is written in its place
			t.Fatal(err)
		}
		if err := leave(m); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if name, _, _ := esp.start(); name != SlotName(old) {
			t.Errorf("%s: then %s is started", how, name)
		}
	}
}

// TestStatusMountsNothing: the list of slots is in memory, and is what there is after
// everything that changes it; a look, where one is needed, is no change.
func TestStatusMountsNothing(t *testing.T) {
	esp, dir, mounts, looks := fresh(wide, SlotName(old), countedName(new_, 2, 1)), t.TempDir(), 0, 0
	counting := func(c *Config) {
		c.WithESP = func(do func(ESP) error) error { mounts++; return do(esp) }
		c.LookESP = func(do func(ESP) error) error { looks++; return do(esp) }
	}
	m := manager(t, esp, dir, new_, "", counting)
	if m.Slots() != nil {
		t.Error("it knows slots that it never saw")
	}
	if trial, err := m.Trial(); err != nil || !trial || looks != 1 || mounts != 0 {
		t.Errorf("trial %v, %v, %d looks, %d mounts", trial, err, looks, mounts)
	}
	if err := m.Begin(); err != nil || mounts != 1 {
		t.Fatal(err, mounts)
	}
	for _, c := range []struct {
		what   string
		do     func() error
		mounts int
		want   []string
	}{
		{"begun", func() error { return nil }, 0, []string{countedName(new_, 2, 1), SlotName(old)}},
		{"blessed", m.Bless, 1, []string{SlotName(new_), SlotName(old)}},
		{"blessed again", m.Bless, 0, []string{SlotName(new_), SlotName(old)}},
		{"rolled back", func() error { _, err := m.Rollback(); return err }, 1, []string{countedName(new_, 0, 1), SlotName(old)}},
	} {
		before := mounts
		if err := c.do(); err != nil {
			t.Fatal(c.what, err)
		}
		_, err := m.Trial()
		var got []string
		for _, s := range m.Slots() {
			got = append(got, s.File)
		}
		if n := mounts - before; err != nil || strings.Join(got, " ") != strings.Join(c.want, " ") || n != c.mounts || looks != 1 {
			t.Errorf("%s: %v, %v, %d mounts, %d looks", c.what, got, err, n, looks)
		}
	}
}
