// Package storetest holds what tests of the gate and of its stores share: the suite that
// every quarantine.Store must pass, a store in memory, and an enforcer without a kernel.
// Both can be made to fail, stall or lose an answer at every step.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// Hook is called at a step, without a lock held. Its error fails the step; it may block
// until the context ends. Steps of the store: "snapshot", "watch", "record" (before the
// commit), "recorded" (after it: the answer is lost), "now", "confirm". Of the enforcer:
// "apply", "applied", "replace", "replaced", "refresh".
type Hook func(ctx context.Context, step string, device quarantine.ID) error

// ErrDown is what a store that is down answers.
var ErrDown = errors.New("the store is down")

// Stall blocks until the caller gives up.
func Stall(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Memory is a quarantine.Store in memory. Records go through JSON, as in a real one.
type Memory struct {
	mu        sync.Mutex
	hook      Hook
	snapshot  quarantine.Snapshot // Revision is the present one
	first     int64               // events up to here were compacted
	events    []quarantine.Event
	grown     chan struct{} // closed when events grow
	changes   []quarantine.Change
	batches   int
	confirmed int64
	reached   time.Time
	mark      firewall.Mark
	versions  map[string]int64 // highest given, by name of a policy set
}

// Settings are what an organization decides, whole.
type Settings struct {
	Pools    map[string]quarantine.Pool
	Profiles map[string]quarantine.Profile
	Sources  map[string]quarantine.Source
	Sets     map[string]quarantine.PolicySet // their versions are the store's to give
	Conduct  quarantine.Conduct
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		snapshot: quarantine.Snapshot{Revision: 1, Records: make(map[quarantine.ID]quarantine.Record)},
		first:    1,
		grown:    make(chan struct{}),
		versions: make(map[string]int64),
	}
}

// SetHook installs a hook; nil removes it.
func (m *Memory) SetHook(h Hook) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = h
}

func (m *Memory) step(ctx context.Context, step string, id quarantine.ID) error {
	m.mu.Lock()
	h := m.hook
	m.mu.Unlock()
	if h != nil {
		if err := h(ctx, step, id); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// clone passes a record through JSON.
func clone(r quarantine.Record) quarantine.Record {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // a record that cannot be stored is a fault of the test
	}
	var c quarantine.Record
	if err := json.Unmarshal(b, &c); err != nil {
		panic(err)
	}
	c.Revision = r.Revision
	return c
}

// commit adds an event at the next revision. The caller holds mu.
func (m *Memory) commit(e quarantine.Event) int64 {
	m.snapshot.Revision++
	e.Revision = m.snapshot.Revision
	m.events = append(m.events, e)
	close(m.grown)
	m.grown = make(chan struct{})
	return e.Revision
}

// Put writes a record as an enrollment does, and returns it with its revision.
func (m *Memory) Put(r quarantine.Record) quarantine.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.put(r)
}

func (m *Memory) put(all ...quarantine.Record) quarantine.Record {
	var e quarantine.Event
	for _, r := range all {
		r.Revision = m.snapshot.Revision + 1
		r = clone(r)
		m.snapshot.Records[r.ID] = r
		e.Records = append(e.Records, r)
	}
	m.commit(e)
	return clone(e.Records[0])
}

// Delete removes a device.
func (m *Memory) Delete(id quarantine.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.snapshot.Records, id)
	m.commit(quarantine.Event{Gone: []quarantine.ID{id}})
}

// Save replaces the settings; new full pools are given marks that were never used, and
// policy sets a version that none of their name ever had.
func (m *Memory) Save(s Settings) {
	m.mu.Lock()
	defer m.mu.Unlock()
	pools := make(map[string]quarantine.Pool, len(s.Pools))
	for name, p := range s.Pools {
		old, ok := m.snapshot.Pools[name]
		switch {
		case p.Quarantine:
			p.Mark = 0
		case ok && old.Mark != 0:
			p.Mark = old.Mark
		default:
			m.mark++
			p.Mark = m.mark
		}
		pools[name] = p
	}
	m.snapshot.Pools, m.snapshot.Profiles, m.snapshot.Sources = pools, maps.Clone(s.Profiles), maps.Clone(s.Sources)
	sets := make(map[string]quarantine.PolicySet, len(s.Sets))
	for name, set := range s.Sets {
		m.versions[name]++
		set.Version = m.versions[name]
		sets[name] = set
	}
	m.snapshot.Sets, m.snapshot.Conduct = sets, s.Conduct
	m.commit(quarantine.Event{Settings: true})
}

// Touch moves the revision on without anything the gate looks at.
func (m *Memory) Touch() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commit(quarantine.Event{})
}

// Compact forgets the events up to a revision.
func (m *Memory) Compact(revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if revision > m.first {
		m.events = m.events[revision-m.first:]
		m.first = revision
	}
}

// Record implements quarantine.Store.
func (m *Memory) Record(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	if err := m.step(ctx, "record", c.Device); err != nil {
		return 0, err
	}
	revision, err := m.record(c, next)
	if err != nil {
		return 0, err
	}
	if err := m.step(ctx, "recorded", c.Device); err != nil {
		return 0, err
	}
	return revision, nil
}

func (m *Memory) record(c quarantine.Change, next quarantine.Record) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.recordable(c, next); err != nil {
		return 0, err
	}
	m.changes = append(m.changes, c)
	return m.put(next).Revision, nil
}

// recordable says why next cannot be written. The caller holds mu.
func (m *Memory) recordable(c quarantine.Change, next quarantine.Record) error {
	old, ok := m.snapshot.Records[next.ID]
	switch {
	case c.Device != next.ID:
		return fmt.Errorf("change of %q with the record of %q", c.Device, next.ID)
	case !ok:
		return quarantine.ErrUnknownDevice
	case old.Revision != next.Revision:
		return quarantine.ErrConflict
	}
	return nil
}

// RecordAll implements quarantine.Batcher. Its steps are those of Record, of each device.
func (m *Memory) RecordAll(ctx context.Context, all []quarantine.Write) (int64, error) {
	if err := m.steps(ctx, "record", all); err != nil {
		return 0, err
	}
	revision, err := m.recordAll(all)
	if err != nil {
		return 0, err
	}
	if err := m.steps(ctx, "recorded", all); err != nil {
		return 0, err
	}
	return revision, nil
}

func (m *Memory) steps(ctx context.Context, step string, all []quarantine.Write) error {
	for _, w := range all {
		if err := m.step(ctx, step, w.Next.ID); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) recordAll(all []quarantine.Write) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(all) == 0 || len(all) > quarantine.MaxBatch {
		return 0, fmt.Errorf("a batch of %d", len(all))
	}
	records := make([]quarantine.Record, len(all))
	for i, w := range all {
		if err := m.recordable(w.Change, w.Next); err != nil {
			return 0, fmt.Errorf("%w: %w", quarantine.ErrConflict, err)
		}
		records[i] = w.Next
	}
	for _, w := range all {
		m.changes = append(m.changes, w.Change)
	}
	m.batches++
	return m.put(records...).Revision, nil
}

// Batches is how many transactions wrote several records.
func (m *Memory) Batches() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.batches
}

// Snapshot implements quarantine.Store.
func (m *Memory) Snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	if err := m.step(ctx, "snapshot", ""); err != nil {
		return quarantine.Snapshot{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.snapshot
	s.Time = m.reached
	s.Records = make(map[quarantine.ID]quarantine.Record, len(m.snapshot.Records))
	for id, r := range m.snapshot.Records {
		s.Records[id] = clone(r)
	}
	s.Pools, s.Profiles, s.Sources, s.Sets = maps.Clone(s.Pools), maps.Clone(s.Profiles), maps.Clone(s.Sources), maps.Clone(s.Sets)
	return s, nil
}

// Watch implements quarantine.Store.
func (m *Memory) Watch(ctx context.Context, after int64) <-chan quarantine.Event {
	out := make(chan quarantine.Event)
	go func() {
		defer close(out)
		for next := after; ; next++ {
			e, ok := m.event(ctx, next)
			if !ok {
				return
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
			if e.Err != nil {
				return
			}
		}
	}()
	return out
}

// event waits for the event after a revision; ok is false once ctx ends.
func (m *Memory) event(ctx context.Context, after int64) (e quarantine.Event, ok bool) {
	for {
		if err := m.step(ctx, "watch", ""); err != nil {
			return quarantine.Event{Err: err}, ctx.Err() == nil
		}
		m.mu.Lock()
		if after < m.first {
			m.mu.Unlock()
			return quarantine.Event{Err: quarantine.ErrCompacted}, true
		}
		if at := after - m.first; at < int64(len(m.events)) {
			e = m.events[at]
			m.mu.Unlock()
			return e, true
		}
		grown := m.grown
		m.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return e, false
		}
	}
}

// Now implements quarantine.Store.
func (m *Memory) Now(ctx context.Context) (int64, error) {
	if err := m.step(ctx, "now", ""); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.snapshot.Revision, nil
}

// Confirm implements quarantine.Store.
func (m *Memory) Confirm(ctx context.Context, revision int64) error {
	if err := m.step(ctx, "confirm", ""); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.confirmed = max(m.confirmed, revision)
	return nil
}

// Reach moves the highest time that the store has seen forward.
func (m *Memory) Reach(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.After(m.reached) {
		m.reached = t
	}
}

// Restore puts an earlier Snapshot back: with its revision, so that all that came after it
// is forgotten, and each record at a revision of its own after that.
func (m *Memory) Restore(copy quarantine.Snapshot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	records := copy.Records
	copy.Records = make(map[quarantine.ID]quarantine.Record, len(records))
	m.snapshot, m.first, m.events = copy, copy.Revision, nil
	m.confirmed = 0
	for _, r := range records {
		m.put(r)
	}
}

// Get returns a record as it is stored.
func (m *Memory) Get(id quarantine.ID) (quarantine.Record, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.snapshot.Records[id]
	return r, ok
}

// Changes returns what was recorded, in order: the audit log.
func (m *Memory) Changes() []quarantine.Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]quarantine.Change(nil), m.changes...)
}

// Confirmed is the highest revision confirmed.
func (m *Memory) Confirmed() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.confirmed
}
