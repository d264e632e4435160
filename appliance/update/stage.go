package update

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// margin is what a slot takes beside its file: the last cluster, and directory entries.
const margin = 1 << 20

// Stage verifies a bundle, writes it to a slot of its own, reads it back, and has the boot
// loader try it at the next start. automatic refuses a version that was tried and came
// back, which a person may try again. Errors wrap appliance.ErrRefused where the bundle is
// at fault or does not fit; nothing that can be started has changed then but that slots
// were removed to make room for it.
func (m *Manager) Stage(ctx context.Context, bundle io.Reader, automatic bool, pin ...Pin) (Manifest, string, error) {
	ctx, done, err := m.beginStaging(ctx)
	if err != nil {
		return Manifest{}, "", err
	}
	defer done()
	r, stop := newPatient(ctx, bundle)
	defer stop()
	man, err := Open(r, m.cfg.Keys)
	if err != nil {
		return man, "", err
	}
	if err := pinned(man, pin); err != nil {
		return man, "", err
	}
	rec := m.known()
	t := Target{Version: m.cfg.Version, Architecture: m.cfg.Architecture, Flavour: m.cfg.Flavour, Schema: max(rec.Schema, 1)}
	if err := t.Admit(man); err != nil {
		return man, "", err
	}
	if automatic && rec.Failed == man.Version {
		return man, "", refused("version %s was tried and came back", man.Version)
	}
	file := countedName(man.Version, Tries, 0)
	if err := m.stage(ctx, man, r, file); err != nil {
		return man, "", fmt.Errorf("staging version %s: %w", man.Version, err)
	}
	m.cfg.Log.Info("update staged", "version", man.Version, "file", file)
	return man, file, nil
}

// stage makes room, writes the image beside the slots and makes it one of them. While the
// image comes in nothing is held, and nothing else that is changed there.
func (m *Manager) stage(ctx context.Context, man Manifest, r io.Reader, file string) error {
	if err := m.alter(func(esp ESP) error { return m.makeRoom(esp, man) }); err != nil {
		return err
	}
	tmp := file + tmpSuffix
	err := m.cfg.WithESP(func(esp ESP) error {
		if err := write(esp, tmp, man, r); err != nil {
			return err
		}
		if err := readBack(ctx, esp, tmp, man); err != nil {
			return err
		}
		return m.startable(esp, tmp, man)
	})
	e := m.alter(func(esp ESP) error {
		if err == nil {
			err = m.finish(ctx, esp, man, tmp, file)
		}
		if err != nil {
			_ = remove(esp, []string{tmp}) // the next start sweeps what this leaves
		}
		return nil
	})
	return errors.Join(err, e)
}

// finish makes a slot of what was written and read back.
func (m *Manager) finish(ctx context.Context, esp ESP, man Manifest, tmp, file string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	was := m.known().Pending
	p := &attempt{Version: man.Version, From: m.cfg.Version, At: m.cfg.Now().UTC()}
	if err := m.change(func(r *record) { r.Pending = p }); err != nil {
		return err
	}
	err := esp.Rename(tmp, file)
	if err == nil {
		err = esp.Sync()
	}
	if err != nil {
		return errors.Join(err, m.change(func(r *record) { r.Pending = was }))
	}
	return nil
}

// write puts the image into a file and on the disk.
func write(esp ESP, name string, man Manifest, r io.Reader) error {
	f, err := esp.Create(name)
	if err != nil {
		return err
	}
	err = man.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = esp.Sync()
	}
	if errors.Is(err, unix.ENOSPC) {
		return refused("the EFI system partition has no room for it any more: %w", err)
	}
	return err
}

// readBack holds what the disk has to what was signed, and what it is to what was said of it:
// a slot that calls itself another version, which the boot loader goes by, is none.
func readBack(ctx context.Context, esp ESP, name string, man Manifest) error {
	f, err := esp.Open(name)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(guarded{ctx, f}, man.Size+1))
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if n != man.Size || man.sum(h.Sum(nil)) != nil {
		return fmt.Errorf("reading back: the disk does not hold what was written (%d of %d bytes)", n, man.Size)
	}
	if err := CheckSlot(f, man); err != nil {
		return fmt.Errorf("the bundle does not hold what it says: %w", err)
	}
	return nil
}

// startable refuses what the firmware would not start.
func (m *Manager) startable(esp ESP, name string, man Manifest) error {
	if m.cfg.Startable == nil {
		return nil
	}
	f, err := esp.Open(name)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	defer f.Close()
	if err := m.cfg.Startable(f, man.Size); err != nil {
		return refused("this machine's firmware would not start it: %v", err)
	}
	return nil
}

// makeRoom removes what stands in an update's way: what was staged before and not started,
// unfinished files, and then the oldest slots, as many as it takes. The slot that runs
// stays, and so does the last that was found well.
func (m *Manager) makeRoom(esp ESP, man Manifest) error {
	l, err := look(esp, m.cfg.Version)
	if err != nil {
		return err
	}
	runs, ok := l.booted()
	if ok && !runs.Blessed {
		return refused("version %s is on trial: wait until it is found well", runs.Version)
	}
	if err := m.sweep(esp, l); err != nil {
		return err
	}
	if l, err = look(esp, m.cfg.Version); err != nil {
		return err
	}
	now, later := dispensable(l, man.Version, m.cfg.Version)
	if err := remove(esp, now); err != nil {
		return err
	}
	for {
		free, err := esp.Free()
		if err != nil {
			return fmt.Errorf("asking for room: %w", err)
		}
		if free >= man.Size+margin {
			return nil
		}
		if len(later) == 0 {
			return refused("the EFI system partition has no room: %d MiB are needed and %d free", (man.Size+margin)>>20, free>>20)
		}
		m.cfg.Log.Info("removing a slot to make room", "version", later[0])
		if err := remove(esp, l.files[later[0]]); err != nil {
			return err
		}
		later = later[1:]
	}
}

// dispensable returns the files that go before fresh is written, and the versions that may
// go to make room for it, the first to go first: such as are marked bad, then the oldest.
func dispensable(l layout, fresh, running string) (now, later []string) {
	var bad, good []string
	_, known := l.booted()
	for version, names := range l.files {
		s, ok := l.best(version)
		switch {
		case version == running:
		case version == fresh || !ok || !s.Blessed && s.Left > 0:
			now = append(now, names...)
		case s.Blessed:
			good = append(good, version)
		default:
			bad = append(bad, version)
		}
	}
	slices.SortFunc(bad, CompareVersions)
	slices.SortFunc(good, CompareVersions)
	if n := len(good); !known && n > 0 {
		good = good[:n-1] // nobody knows what runs: the newest that was well stays
	}
	return now, append(bad, good...)
}
