package quarantine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lazaret/quarantine/tunnel"
)

// attempts is how often a loosening is tried when others write the same record.
const attempts = 5

// Change brings one fact and returns where the device stands now. What tightens returns
// once it is applied; what loosens once it is recorded and applied; what says nothing new
// once what was known before is applied. Errors: ErrForbidden,
// ErrUnknownDevice, ErrNotReady, those of Record.With, ErrConflict, the store's own, and
// ErrNotEnforced, which comes with the placement and is retried without the caller.
func (g *Gate) Change(ctx context.Context, by Actor, c Change) (Placement, error) {
	p, err := g.change(ctx, by, c)
	if err != nil {
		return p, fmt.Errorf("taking %q for device %s: %w", c.Kind, c.Device, err)
	}
	return p, nil
}

func (g *Gate) change(ctx context.Context, by Actor, c Change) (Placement, error) {
	now := g.now().Wall
	c = stamped(by, c, now)
	g.mu.Lock()
	w, p, err := g.weigh(by, &c, now)
	g.mu.Unlock()
	switch w {
	case toTighten:
		return g.tighten(ctx, c)
	case toLoosen:
		return g.loosen(ctx, c)
	case toConfirm:
		return g.confirm(ctx, c.Device)
	default:
		return p, err
	}
}

// stamped is the change as it arrives now.
func stamped(by Actor, c Change, now time.Time) Change {
	c.By, c.Tighten, c.At = by, 0, now
	if c.Report != nil {
		r := *c.Report
		r.At, r.Received = r.At.UTC().Round(0), now
		c.Report = &r
	}
	return c
}

// way is how a change is brought about.
type way int

const (
	toIgnore  way = iota // it is refused, or says nothing new of what is enforced
	toTighten            // it is pending, and is to be journalled and applied
	toLoosen             // it is to be recorded, and applied then
	toConfirm            // it says nothing new, and what is known is not enforced yet
)

// weigh says what is to be done about a change. One that does nothing, for now, comes with
// where the device stands, or why it is refused. The caller holds mu.
func (g *Gate) weigh(by Actor, c *Change, now time.Time) (way, Placement, error) {
	st, err := g.admissible(by, *c)
	if err != nil {
		return toIgnore, Placement{}, err
	}
	*c = c.completed(g.settings.conduct)
	known := st.known()
	*c = g.settings.digested(*c, known)
	if g.repeats(st, known, *c, now) {
		return g.nothingNew(st, now)
	}
	next, err := known.With(*c)
	if err != nil {
		return toIgnore, g.inForce(st, now), err
	}
	before, after := g.look(st, now), placeQuietly(g.facts(next, now))
	if after.same(before) && g.canWait(st, known, *c, now) {
		g.putOff(st, *c, now)
		return g.nothingNew(st, now)
	}
	ordered := after.Demand != "" && after.Demand != before.Demand
	standing := st.rec.standing()
	before, after = before.Meet(standing, g.settings.quarantine), after.Meet(standing, g.settings.quarantine)
	if c.tightens() || c.Kind == Reported && (ordered || !before.within(after)) {
		g.push(st, c, now)
		return toTighten, Placement{}, nil
	}
	return toLoosen, Placement{}, nil
}

// nothingNew is what is to be done about a change that repeats what is known. The caller
// holds mu.
func (g *Gate) nothingNew(st *state, now time.Time) (way, Placement, error) {
	if !g.enforced(st) {
		return toConfirm, Placement{}, nil
	}
	return toIgnore, g.inForce(st, now), nil
}

// admissible says whether by may bring this change at all. The caller holds mu.
func (g *Gate) admissible(by Actor, c Change) (*state, error) {
	if err := c.mayBring(by); err != nil {
		return nil, err
	}
	if g.settings.generation == 0 {
		return nil, ErrNotReady
	}
	if c.Kind == Reported {
		_, known := g.settings.sources[c.Report.Source]
		self := by.Kind == "device" // mayBring has seen that it is this one
		agent := c.Report.Source == AgentSource
		if !agent && !known && !self {
			return nil, fmt.Errorf("%w: %q", ErrUnknownSource, c.Report.Source)
		}
		if agent && !self && by.Kind != "gateway" || !agent && self {
			return nil, fmt.Errorf("%w: %s %s as source %q", ErrForbidden, by.Kind, by.Name, c.Report.Source)
		}
	}
	st := g.index[c.Device]
	if st == nil {
		return nil, ErrUnknownDevice
	}
	if err := g.settings.scope(by, c, *st.rec); err != nil {
		return nil, err
	}
	return st, nil
}

// push adds a tightening to what is known of the device and gives it its counter. The
// caller holds mu.
func (g *Gate) push(st *state, c *Change, now time.Time) {
	if c.Kind == Revoke {
		g.ripenAll(st, now) // nothing is filed after it
	}
	st.tighten = max(st.tighten, st.kept) + 1
	c.Tighten = st.tighten
	if c.Kind == Reported {
		c.Key = st.rec.Key
	}
	st.pending = merged(st.pending, *c)
	st.generation = 0
	g.decide(st, now)
}

// tighten journals and applies a change that is pending already; the record follows.
func (g *Gate) tighten(ctx context.Context, c Change) (Placement, error) {
	g.secureOne(c)
	return g.tightened(c, g.enforce(ctx, c.Device))
}

// secureOne makes a tightening safe from a crash, or says that it is not: it is applied all
// the same.
func (g *Gate) secureOne(c Change) {
	if err := g.journal(c); err != nil {
		g.Log.Error("a tightening is not safe from a crash before the store takes it in",
			"device", c.Device, "kind", c.Kind, "error", err)
	}
}

// tightened has an applied tightening recorded, and says where the device stands.
func (g *Gate) tightened(c Change, err error) (Placement, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enqueue(c.Device)
	g.journalled(c)
	st := g.index[c.Device]
	if st == nil {
		return Placement{}, ErrUnknownDevice
	}
	return g.inForce(st, g.now().Wall), err
}

// journalled strikes c off again if it was recorded, or its device gone, before the journal
// had it. One that is superseded by what is pending stays until the journal has that. The
// caller holds mu.
func (g *Gate) journalled(c Change) {
	if st := g.index[c.Device]; st != nil {
		for _, p := range st.pending {
			if p.Tighten == c.Tighten || c.supersededBy(p) {
				return
			}
		}
	}
	g.strike(c)
}

// maxJournal is how long a tightening waits for the journal before it is applied anyway.
const maxJournal = time.Second

// journal makes c safe from a crash, or stops waiting for a disk that does not answer;
// the append then ends when the disk does.
func (g *Gate) journal(c Change) error {
	done := make(chan error, 1)
	go func() { done <- g.Journal.Append(c) }()
	t := time.NewTimer(maxJournal)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("the journal did not answer within %s", maxJournal)
	}
}

// loosen records a change, with all that is pending before it, and applies it then.
func (g *Gate) loosen(ctx context.Context, c Change) (Placement, error) {
	release, err := g.hold(ctx, c.Device)
	if err != nil {
		return Placement{}, err
	}
	defer release()
	for try := 1; ; try++ {
		err := g.writeOut(ctx, c.Device)
		if err == nil {
			err = g.recordChange(ctx, c)
		}
		if !errors.Is(err, ErrConflict) || try == attempts {
			return g.loosened(ctx, c.Device, err)
		}
	}
}

// recordChange writes one change on top of the record as it is known now.
func (g *Gate) recordChange(ctx context.Context, c Change) error {
	g.mu.Lock()
	st := g.index[c.Device]
	if st == nil {
		g.mu.Unlock()
		return ErrUnknownDevice
	}
	now := g.now().Wall
	next, err := st.base().With(c)
	if err != nil {
		g.mu.Unlock()
		return err
	}
	next = next.Settle(Place(g.facts(next.replay(st.pending).replay(st.later), now)), now)
	g.mu.Unlock()
	return g.write(ctx, c, next)
}

// loosened applies what was recorded and says where the device stands.
func (g *Gate) loosened(ctx context.Context, id ID, err error) (Placement, error) {
	if err == nil {
		err = g.enforce(ctx, id)
	}
	return g.standing(id, err)
}

// Report takes a source's report.
func (g *Gate) Report(ctx context.Context, by Actor, r Report) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Reported, Device: r.Device, Report: &r})
}

// Contact notes that the device itself was heard of.
func (g *Gate) Contact(ctx context.Context, by Actor, id ID) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Contact, Device: id})
}

// Approve admits a pending device and lifts a hold.
func (g *Gate) Approve(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Approve, Device: id, Why: why})
}

// Hold keeps a device in quarantine until it is approved.
func (g *Gate) Hold(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Hold, Device: id, Why: why})
}

// Block takes the device's peer away until a person unblocks it.
func (g *Gate) Block(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Block, Device: id, Why: why})
}

// Unblock lifts a block.
func (g *Gate) Unblock(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Unblock, Device: id, Why: why})
}

// Revoke takes the device's peer away for ever. Its certificate is the caller's to revoke.
func (g *Gate) Revoke(ctx context.Context, by Actor, id ID, why string) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Revoke, Device: id, Why: why})
}

// Prove notes that the device showed that it holds this WireGuard key; ErrConflict if it is
// not the device's current one.
func (g *Gate) Prove(ctx context.Context, by Actor, id ID, key tunnel.Key) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Prove, Device: id, Key: key})
}

// Confirm notes that the device has its certificate.
func (g *Gate) Confirm(ctx context.Context, by Actor, id ID) (Placement, error) {
	return g.Change(ctx, by, Change{Kind: Confirm, Device: id})
}
