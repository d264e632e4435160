package update

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// Config is what a Manager needs. Every field is required unless marked.
type Config struct {
	// WithESP mounts the EFI system partition, and runs do with its slots. Others call it
	// while do runs, which may take as long as a bundle takes to come in: they should not wait.
	WithESP func(do func(ESP) error) error
	// LookESP is the same for those who change nothing. Optional: WithESP.
	LookESP func(do func(ESP) error) error
	// BootPath reads BootPathVariable; errors wrap fs.ErrNotExist where the boot loader
	// left none, as when it started a slot without a counter.
	BootPath func() ([]byte, error)
	// Startable says why the firmware would not start a slot's file of that size: one that it
	// refuses takes the boot loader's attempts with nobody there. Optional.
	Startable    func(slot io.ReaderAt, size int64) error
	Keys         Keys
	Version      string           // that runs
	Architecture string           // GOARCH
	Flavour      string           // of the kernel
	Schema       int              // optional: of this build's data; Schema when 0
	Dir          string           // appliance.MachineDir
	State        []string         // directories of the gateway's data, copied before a new schema
	Now          func() time.Time // optional
	Log          *slog.Logger
}

// Manager keeps slots and the record of updates. It is safe for use by several; one update
// at a time is under way.
type Manager struct {
	cfg  Config
	keep func(r record, dir string) error // record.save; tests bring their own

	work sync.Mutex // held while the directory of slots changes, never while a bundle comes in

	mu      sync.Mutex // guards what follows, for a moment
	rec     record
	kept    bool             // rec is what stands on the disk
	slots   []appliance.Slot // as last seen
	seen    bool             // they were
	staging *staging         // the bundle that comes in; nil: none
	leaving int              // how many want to leave the version that runs: no bundle is taken
}

// New reads the record of updates. One that cannot be read is put aside and begun anew.
func New(cfg Config) (*Manager, error) {
	for what, missing := range map[string]bool{
		"partition": cfg.WithESP == nil, "boot path": cfg.BootPath == nil, "keys": len(cfg.Keys) == 0, "log": cfg.Log == nil,
		"directory": cfg.Dir == "", "valid version": !ValidVersion(cfg.Version), "architecture": cfg.Architecture == "", "flavour": cfg.Flavour == "",
	} {
		if missing {
			return nil, errors.New("making the update manager: no " + what)
		}
	}
	if cfg.Schema == 0 {
		cfg.Schema = Schema
	}
	if cfg.LookESP == nil {
		cfg.LookESP = cfg.WithESP
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m := &Manager{cfg: cfg}
	rec, kept, err := loadRecord(cfg.Dir)
	if err != nil {
		cfg.Log.Error("beginning a new record of updates", "err", err)
		at := filepath.Join(cfg.Dir, recordName)
		if err := os.Rename(at, at+".bad"); err != nil {
			return nil, fmt.Errorf("putting an unreadable record aside: %w", err)
		}
		if rec, kept, err = loadRecord(cfg.Dir); err != nil {
			return nil, err
		}
	}
	m.rec, m.kept = rec, kept
	return m, nil
}

// change alters the record and keeps it; one that stays as it was kept is not written again.
func (m *Manager) change(f func(r *record)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.rec
	next.Blessed = slices.Clone(next.Blessed)
	f(&next)
	if m.kept && reflect.DeepEqual(next, m.rec) {
		return nil
	}
	keep := m.keep
	if keep == nil {
		keep = record.save
	}
	err := keep(next, m.cfg.Dir)
	if m.kept = err == nil; m.kept {
		m.rec = next
	}
	if errors.Is(err, unix.ENOSPC) {
		return refused("the data partition is full: %w", err)
	}
	return err
}

func (m *Manager) known() record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec
}

// alter changes the directory of slots, and takes note of what there is then.
func (m *Manager) alter(do func(esp ESP) error) error {
	m.work.Lock()
	defer m.work.Unlock()
	return m.cfg.WithESP(func(esp ESP) error {
		err := do(esp)
		if _, e := m.look(esp); e != nil {
			m.cfg.Log.Error("looking at the slots after a change", "err", e)
		}
		return err
	})
}

// look reads the layout and remembers it.
func (m *Manager) look(esp ESP) (layout, error) {
	l, err := look(esp, m.cfg.Version)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slots, m.seen = l.slots, err == nil
	return l, err
}

// Slots lists what there is to start, the newest first, as last seen: by Begin, or by what
// changed it since. Before that it is empty. Nothing is mounted or waited for.
func (m *Manager) Slots() []appliance.Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.slots)
}

// Begin is called once at every start, before any process of the gateway: it clears up what
// a loss of power left, notes how the last update went, and has the data as this version
// reads them. With an error from it the gateway must not be started: GiveUp.
func (m *Manager) Begin() error {
	err := m.alter(func(esp ESP) error {
		if err := m.sweepStrays(esp); err != nil {
			m.cfg.Log.Error("looking after files that are no slots", "err", err)
		}
		l, err := m.look(esp)
		if err != nil {
			return err
		}
		if err := m.change(func(r *record) { m.note(r, l) }); err != nil {
			return err
		}
		return m.sweep(esp, l)
	})
	if err != nil { // no reason to keep a gateway from its work
		m.cfg.Log.Error("looking after the slots", "err", err)
	}
	return m.prepareData()
}

// note writes down what became of an update.
func (m *Manager) note(r *record, l layout) {
	now := m.cfg.Now().UTC()
	if r.Left != "" && r.Left != m.cfg.Version {
		r.say(now, false, "version %s was left by hand; version %s runs", r.Left, m.cfg.Version)
	}
	r.Left = ""
	if s, ok := l.booted(); ok && s.Blessed {
		r.bless(m.cfg.Version, m.cfg.Schema)
	}
	p := r.Pending
	if p == nil {
		return
	}
	s, ok := l.best(p.Version)
	switch {
	case p.Version == m.cfg.Version:
		if ok && s.Blessed {
			m.noteBlessed(r) // the power was cut before this could be written
		}
	case !ok || l.torn(p.Version):
		r.say(now, true, "the update to version %s was cut short before it was written; give it again", p.Version)
		r.Pending = nil
	case s.Blessed:
		r.Pending = nil
	case s.Left == 0:
		r.say(now, true, "version %s was started %d times and was not found well; version %s runs again", p.Version, s.Tried, m.cfg.Version)
		r.Failed, r.Pending = p.Version, nil
	case s.Tried == 0 && s.Left > 0:
		m.noteNotStarted(r, p.Version)
	}
}

// sweep removes what was not finished, and slots that ran out of tries and never were well.
func (m *Manager) sweep(esp ESP, l layout) error {
	var waste []string
	rec := m.known()
	for version, names := range l.files {
		s, ok := l.best(version)
		_, well := rec.schemaOf(version)
		ranOut := ok && !s.Blessed && s.Left == 0 && !well
		if version != m.cfg.Version && (ranOut || l.torn(version)) {
			waste = append(waste, names...)
		}
	}
	return remove(esp, waste)
}

// remove removes files one after the other, with nothing written in between, and returns
// once they are gone for good: what is written next may come to lie where they lay.
func remove(esp ESP, names []string) error {
	if len(names) == 0 {
		return nil
	}
	var faults []error
	for _, n := range names {
		if err := esp.Remove(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("removing %s: %w", n, err))
		}
	}
	return errors.Join(append(faults, esp.Sync())...)
}

// Trial reports whether the slot that runs is still to be found well.
func (m *Manager) Trial() (bool, error) {
	s, ok, err := m.running()
	return ok && !s.Blessed, err
}

// running is the slot that runs, as last seen; who never saw it looks.
func (m *Manager) running() (s appliance.Slot, ok bool, err error) {
	m.mu.Lock()
	l, seen := layout{slots: m.slots}, m.seen
	m.mu.Unlock()
	if !seen {
		m.work.Lock()
		defer m.work.Unlock()
		if err := m.cfg.LookESP(func(esp ESP) error { l, err = m.look(esp); return err }); err != nil {
			return s, false, err
		}
	}
	s, ok = l.booted()
	return s, ok, nil
}

// Bless keeps the slot that runs. It is called once Bless said so; a slot that is blessed
// stays so.
func (m *Manager) Bless() error {
	s, ok, err := m.running()
	switch {
	case err != nil:
	case !ok:
		err = errNoSlot
	case !s.Blessed:
		err = m.alter(m.blessSlot)
	}
	if err != nil {
		return fmt.Errorf("blessing version %s: %w", m.cfg.Version, err)
	}
	if err := m.change(m.noteBlessed); err != nil {
		return err
	}
	return m.dropSnapshots()
}

func (m *Manager) blessSlot(esp ESP) error {
	l, err := m.look(esp)
	if err != nil {
		return err
	}
	s, ok := l.booted()
	if !ok {
		return errNoSlot
	}
	if s.Blessed {
		return nil
	}
	if err := m.agrees(s); err != nil {
		return err
	}
	if err := esp.Rename(s.File, SlotName(s.Version)); err != nil {
		return err
	}
	return esp.Sync()
}

// errNoSlot says that nothing on the partition is what runs: it is another machine's, or was
// emptied. Nothing is found good on its word.
var errNoSlot = errors.New("the version that runs has no slot")

// agrees holds the slot that runs to what the boot loader says that it started.
func (m *Manager) agrees(s appliance.Slot) error {
	variable, err := m.cfg.BootPath()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name, err := ParseBootPath(variable)
	if err != nil {
		return err
	}
	if started, _ := ParseSlot(name); started.Version != s.Version {
		return fmt.Errorf("the boot loader started %s, and version %s runs", name, s.Version)
	}
	return nil
}

func (m *Manager) noteBlessed(r *record) {
	r.bless(m.cfg.Version, m.cfg.Schema)
	if p := r.Pending; p != nil && p.Version == m.cfg.Version {
		r.say(m.cfg.Now().UTC(), false, "version %s followed version %s and was found well", p.Version, p.From)
		r.Pending, r.Failed = nil, ""
	}
}

// Is tells where updating stands.
func (m *Manager) Is() appliance.UpdateIs {
	r := m.known()
	is := appliance.UpdateIs{
		Channel: r.Settings.Channel, Checked: r.Heard.Checked, Last: r.Last, LastAt: r.LastAt, Problem: r.Heard.Problem,
	}
	if v := r.Heard.Available; ValidVersion(v) && CompareVersions(v, m.cfg.Version) > 0 {
		is.Available, is.Since = v, r.Heard.Since
	}
	if p := r.Pending; p != nil && p.Version != m.cfg.Version {
		is.Staged = p.Version
	}
	return is
}

// Settings returns how the machine is kept up to date, its place in staggering (0 to 99,
// drawn once) and the version that was tried last and came back, if one did.
func (m *Manager) Settings() (u appliance.Updates, place int, failed string) {
	r := m.known()
	return r.Settings, r.Place, r.Failed
}

// SetSettings changes how the machine is kept up to date.
func (m *Manager) SetSettings(u appliance.Updates) error {
	if err := CheckSettings(u); err != nil {
		return err
	}
	return m.change(func(r *record) {
		if r.Settings.Channel != u.Channel {
			r.Heard = heard{}
		}
		r.Settings = u
	})
}

// Heard takes in what the control plane learned from the channel: when it answered last, a
// newer version and since when that is known, why nothing is, if so, and when the newest list
// was made that was believed, which never goes back.
func (m *Manager) Heard(checked time.Time, available string, since time.Time, problem string, listed time.Time) error {
	if available != "" && !ValidVersion(available) || len(problem) > 1000 || listed.After(m.cfg.Now().Add(maxAhead)) {
		return refused("what the channel said is out of bounds")
	}
	return m.change(func(r *record) {
		if r.Heard.Listed.After(listed) {
			listed = r.Heard.Listed
		}
		r.Heard = heard{checked, available, since, problem, listed}
	})
}

// Listed is when the newest list of the channel was made that was believed. It outlives
// restarts: whoever shows an older one shows an old one again.
func (m *Manager) Listed() time.Time { return m.known().Heard.Listed }
