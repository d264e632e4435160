package quarantine

import (
	"slices"
	"strings"
	"time"
)

// register finds devices by a text that several may share; the empty text finds none.
type register map[string][]*state

func (r register) add(text string, st *state) {
	if text != "" {
		r[text] = append(r[text], st)
	}
}

func (r register) remove(text string, st *state) {
	all := r[text]
	n := slices.Index(all, st)
	if n < 0 {
		return
	}
	if len(all) == 1 {
		delete(r, text)
		return
	}
	r[text] = slices.Delete(all, n, n+1)
}

// first is the device of that text that is not revoked, or else the one written last.
func (r register) first(text string) *state {
	var best *state
	for _, st := range r[text] {
		if best == nil || st.rec.supersedes(best.rec) {
			best = st
		}
	}
	return best
}

// supersedes reports whether r rather than other has the name that both bear: a revoked
// device gives it up.
func (r *Record) supersedes(other *Record) bool {
	if a, b := r.Revocation.Set(), other.Revocation.Set(); a != b {
		return b
	}
	return r.Revision > other.Revision
}

// unlist takes the device out of the registers. The caller holds mu.
func (g *Gate) unlist(st *state) {
	g.names.remove(st.rec.Name, st)
	g.serials.remove(st.rec.Serial, st)
	g.unseat(st)
}

// glimpse is what the gate held of a device at one moment. Nothing in it is written to
// any more, so it is read without a lock.
type glimpse struct {
	rec     *Record
	pending []Change
	later   []Change
	failing map[string]time.Time
	marks   map[string]Mark
	settled bool // stands where its record says
}

// everyone is all devices, in no order.
func (g *Gate) everyone() []*state {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

// glance looks at devices a few at a time, so that decisions hardly wait. Those that went
// meanwhile are left out.
func (g *Gate) glance(states []*state) []glimpse {
	all := make([]glimpse, 0, len(states))
	for some := range slices.Chunk(states, chunk) {
		now := g.now().Wall
		g.mu.Lock()
		for _, st := range some {
			if st.nth >= 0 {
				all = append(all, glimpse{st.rec, st.pending, st.later, st.failing, st.marks, g.settled(st, now)})
			}
		}
		g.mu.Unlock()
	}
	return all
}

// judge says what is known of devices that were glanced at, and where they stand.
type judge struct {
	settings settings
	policy   Policy
	now      time.Time
}

func (g *Gate) judge() judge {
	g.mu.Lock()
	defer g.mu.Unlock()
	return judge{g.settings, g.Policy, g.now().Wall}
}

// known is the record with everything that it has not taken in.
func (l glimpse) known() Record {
	return withFailing(l.rec, l.failing).withMarks(l.marks).replay(l.pending).replay(l.later)
}

// view is the device as it stands, without reasons.
func (j judge) view(l glimpse) Record {
	if l.settled {
		return *l.rec
	}
	known := l.known()
	p := Place(j.settings.facts(known, j.policy, j.now)).Meet(l.rec.standing(), j.settings.quarantine)
	known = known.Settle(p, j.now)
	known.Reasons = nil
	return known
}

// Devices returns all devices as they stand now, sorted by name, without Reasons. Their
// maps are the gate's own: they are not to be written to.
func (g *Gate) Devices() []Record { return g.views(g.everyone()) }

// BySerial returns the devices with a hardware serial number, revoked ones too, as Devices
// does; none for the empty one. A serial number is no credential, and may not be unique.
func (g *Gate) BySerial(serial string) []Record {
	g.mu.Lock()
	found := slices.Clone(g.serials[serial])
	g.mu.Unlock()
	return g.views(found)
}

// views is how devices stand, sorted by name. Sorting and copying happen without the lock.
func (g *Gate) views(states []*state) []Record {
	some := g.glance(states)
	j := g.judge()
	slices.SortFunc(some, func(a, b glimpse) int { return byName(a.rec, b.rec) })
	all := make([]Record, len(some))
	for i, l := range some {
		all[i] = j.view(l)
	}
	return all
}

// byName orders devices by name, and those of one name by ID.
func byName(a, b *Record) int {
	if n := strings.Compare(a.Name, b.Name); n != 0 {
		return n
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// HighestSeat is the highest seat that any device has, revoked ones too; zero for none.
func (g *Gate) HighestSeat() Seat {
	var highest Seat
	for _, l := range g.glance(g.everyone()) {
		highest = max(highest, l.rec.Seat)
	}
	return highest
}

// Counts is how many devices stand in each stage now.
func (g *Gate) Counts() map[Stage]int {
	some := g.glance(g.everyone())
	j := g.judge()
	n := make(map[Stage]int)
	for _, l := range some {
		if l.settled {
			n[l.rec.Stage]++
			continue
		}
		n[j.view(l).Stage]++
	}
	return n
}

// UsesProfile returns one device, and true, if any that is not revoked has the profile.
func (g *Gate) UsesProfile(name string) (Record, bool) {
	some := g.glance(g.everyone())
	j := g.judge()
	for _, l := range some {
		if l.rec.Profile != name {
			continue
		}
		if r := j.view(l); !r.Revocation.Set() {
			return r, true
		}
	}
	return Record{}, false
}
