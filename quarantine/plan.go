package quarantine

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// chunk is how many devices are decided on in one hold of mu: well under a millisecond.
const chunk = 100

// rounds bounds how often a draft follows what moved meanwhile before it makes moves wait.
const rounds = 8

// draft is a complete plan in the making. It is written a chunk of devices at a time, and
// single moves go on meanwhile; whatever moves, or may, is touched, and written anew. The
// last of it is written with the right to talk to the enforcer in hand: then every entry
// is as new as the last single move of its device, and what changes from there on is
// applied after the plan. So a plan undoes no move.
type draft struct {
	number     uint32 // of this draft; a device's place, and its touch, count for one draft
	generation uint64 // of the settings that it is made under
	plan       Plan
	owners     []*state // of the plan's entries
	late       bool     // devices came after it was begun
	faults     map[ID]error
	touched    []*state
}

// spot is where a device stands in a draft.
type spot struct {
	draft   uint32 // number of the draft that at is good for
	at      uint32
	touched uint32 // number of the draft that must write it anew
	moves   uint64 // of the device, as far as they are in the draft
}

// touch notes that what is in force of a device may be another now, and has it written anew
// in the draft, if there is one. The caller holds mu.
func (g *Gate) touch(st *state) {
	st.moves++
	if d := g.draft; d != nil && st.spot.touched != d.number {
		st.spot.touched = d.number
		d.touched = append(d.touched, st)
	}
}

// drafted writes a plan and returns it with the right to talk to the enforcer, which is
// the caller's to give back unless there is an error.
func (g *Gate) drafted(ctx context.Context) (*draft, error) {
	for {
		d, err := g.newDraft()
		if err != nil {
			return nil, err
		}
		done, err := g.complete(ctx, d)
		if done || err != nil {
			return d, err
		}
	}
}

// newDraft begins a draft.
func (g *Gate) newDraft() (*draft, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.settings.fault; err != nil {
		return nil, err
	}
	g.drafts++
	d := &draft{number: g.drafts, generation: g.settings.generation, plan: Plan{Control: g.Control}, faults: make(map[ID]error)}
	for _, name := range sortedKeys(g.settings.pools) {
		d.plan.Gateway = append(d.plan.Gateway, g.settings.pools[name].GatewayAddresses()...)
	}
	d.owners = slices.Clone(g.all)
	g.draft = d
	return d, nil
}

// complete writes the draft; false, and without the right to talk to the enforcer, when the
// settings became others.
func (g *Gate) complete(ctx context.Context, d *draft) (done bool, err error) {
	defer g.endDraft()
	all := d.owners
	slices.SortFunc(all, func(a, b *state) int { return strings.Compare(string(a.id), string(b.id)) })
	d.owners, d.plan.Entries = make([]*state, 0, len(all)), make([]Entry, 0, len(all))
	if !g.draftAll(d, all) {
		return false, nil
	}
	for range rounds {
		some := g.takeTouched(d)
		if !g.draftAll(d, some) {
			return false, nil
		}
		if len(some) <= chunk {
			break
		}
	}
	if err := g.seize(ctx); err != nil {
		return false, err
	}
	if !g.draftAll(d, g.takeTouched(d)) || !g.closeDraft(d) {
		<-g.applying
		return false, nil
	}
	d.order()
	return true, nil
}

// draftAll writes the entries of some devices, a chunk at a time; false when the settings
// became others, under which it would be another plan.
func (g *Gate) draftAll(d *draft, states []*state) bool {
	for some := range slices.Chunk(states, chunk) {
		now := g.now()
		g.mu.Lock()
		if g.settings.generation != d.generation {
			g.mu.Unlock()
			return false
		}
		for _, st := range some {
			g.draftOne(d, st, now)
		}
		g.mu.Unlock()
	}
	return true
}

// draftOne writes one device's entry. The caller holds mu.
func (g *Gate) draftOne(d *draft, st *state, now Instant) {
	var e Entry // of one that is no more: none
	delete(d.faults, st.id)
	if st.nth >= 0 {
		var err error
		if e, err = g.entry(st, now); err != nil {
			d.faults[st.id] = err
		}
	}
	st.spot.moves = st.moves
	if st.spot.draft == d.number {
		d.plan.Entries[st.spot.at] = e
		return
	}
	if n := len(d.owners); n > 0 && d.owners[n-1].id > st.id {
		d.late = true
	}
	st.spot.draft, st.spot.at = d.number, uint32(len(d.owners))
	d.owners = append(d.owners, st)
	d.plan.Entries = append(d.plan.Entries, e)
}

// takeTouched returns the devices that must be written anew.
func (g *Gate) takeTouched(d *draft) []*state {
	g.mu.Lock()
	defer g.mu.Unlock()
	some := d.touched
	for _, st := range some {
		st.spot.touched = 0 // what comes from here on touches it again
	}
	d.touched = nil
	return some
}

// closeDraft makes the draft the plan of this moment: the index is complete up to its
// revision, and all of it is in the draft, or will be applied after it.
func (g *Gate) closeDraft(d *draft) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.settings.generation != d.generation {
		return false
	}
	d.plan.Revision, d.plan.Pools = g.revision, g.kernelPools() // with the names of this moment
	g.dirty = false                                             // what changes from here on says so again
	return true
}

func (g *Gate) endDraft() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.draft = nil
}

// order leaves out devices without a peer, and sorts by device.
func (d *draft) order() {
	d.plan.Entries = slices.DeleteFunc(d.plan.Entries, func(e Entry) bool { return e.Key.IsZero() })
	if d.late {
		slices.SortFunc(d.plan.Entries, func(a, b Entry) int { return strings.Compare(string(a.Device), string(b.Device)) })
	}
}

// replace sends one complete plan.
func (g *Gate) replace(ctx context.Context) (Plan, error) {
	d, err := g.drafted(ctx)
	if err != nil {
		return Plan{}, err
	}
	defer func() { <-g.applying }()
	if err := g.Enforcer.Replace(ctx, d.plan); err != nil {
		g.mu.Lock()
		g.dirty = true
		g.mu.Unlock()
		return Plan{}, fmt.Errorf("sending the plan: %w", err)
	}
	g.mu.Lock()
	g.planned, g.plannedAt, g.problem, g.naming.enforced = true, d.plan.Revision, nil, d.plan.Pools
	g.mu.Unlock()
	g.noteFaults(d)
	return d.plan, nil
}

// faulty is an Enforcer that took a plan and says of which devices it holds less.
type faulty interface {
	Faults() (faults map[ID]error, more int)
}

// noteFaults takes in of which devices the enforcer holds less than the plan says.
func (g *Gate) noteFaults(d *draft) {
	var told map[ID]error
	if f, ok := g.Enforcer.(faulty); ok {
		var more int
		if told, more = f.Faults(); len(told) > 0 {
			g.Log.Warn("devices are held stricter than planned", "devices", len(told), "not named", more)
		}
	}
	for some := range slices.Chunk(d.owners, chunk) {
		g.mu.Lock()
		for _, st := range some {
			st.problem = d.faults[st.id]
			if err := told[st.id]; err != nil {
				g.alone(st, err)
				continue
			}
			st.applied = max(st.applied, st.spot.moves)
		}
		g.mu.Unlock()
	}
}
