package quarantine

import (
	"maps"
	"strings"
	"time"
)

// PolicyActor is the kind of actor that a policy's own orders are by. Its name is "SET vN/RULE".
const PolicyActor = "policy"

// waived is how long a rule does not count after a person took back what it ordered, so that
// the person's decision is not undone at once.
const waived = 24 * time.Hour

// ordered is the decision that a placement demands.
func (p Placement) ordered(now time.Time) Decision {
	if p.Order == nil {
		return Decision{By: Actor{Kind: PolicyActor, Name: "unknown rule"}, At: now}
	}
	return *p.Order
}

// overrule waives the rule whose order, by the policy, a person takes back, with that digest.
func (r *Record) overrule(order, by Decision, digest string) {
	ref, ok := orderedBy(order)
	if !ok {
		return
	}
	waivers := maps.Clone(r.Waivers)
	if waivers == nil {
		waivers = make(map[string]Waiver)
	}
	if until := by.At.Add(waived); waivers[ref].Until.Before(until) || !waivers[ref].Waives(digest) {
		waivers[ref] = Waiver{by, until, digest}
	}
	r.Waivers = waivers
}

// orderedBy is the SET/RULE that a policy's order is by.
func orderedBy(d Decision) (ref string, ok bool) {
	set, rest, ok := strings.Cut(d.By.Name, " v")
	_, rule, found := strings.Cut(rest, "/")
	ref = RuleRef(set, rule)
	return ref, d.By.Kind == PolicyActor && ok && found && ruleRef(ref)
}

// failingSince is since when each of the rules fails that fail now.
func failingSince(before map[string]time.Time, now []string, at time.Time) map[string]time.Time {
	if len(now) == 0 {
		return nil
	}
	since := make(map[string]time.Time, len(now))
	for _, ref := range now {
		since[ref] = at
		if t, ok := before[ref]; ok {
			since[ref] = t
		}
	}
	return since
}

// failsAs reports whether the rules that fail are those on record.
func failsAs(record map[string]time.Time, now []string) bool {
	if len(record) != len(now) {
		return false
	}
	for _, ref := range now {
		if _, ok := record[ref]; !ok {
			return false
		}
	}
	return true
}

// dropWaivers forgets waivers that are over, in a map of its own.
func (r *Record) dropWaivers(now time.Time) {
	over := func(_ string, w Waiver) bool { return !now.Before(w.Until) }
	for ref, w := range r.Waivers {
		if over(ref, w) {
			r.Waivers = maps.Clone(r.Waivers)
			maps.DeleteFunc(r.Waivers, over)
			break
		}
	}
	if len(r.Waivers) == 0 {
		r.Waivers = nil
	}
}

// base is the record as stored, with the times since when rules fail that are not recorded
// yet: while the store is down, they stand still all the same.
func (st *state) base() Record { return withFailing(st.rec, st.failing).withMarks(st.marks) }

func withFailing(rec *Record, failing map[string]time.Time) Record {
	r := *rec
	if len(failing) == 0 {
		return r
	}
	all := maps.Clone(failing)
	maps.Copy(all, r.Failing)
	r.Failing = all
	return r
}

// noteFailing remembers since when rules fail that the record does not name. The map that is
// there is never written to. The caller holds mu.
func (st *state) noteFailing(now []string, at time.Time) {
	if len(st.failing) == 0 && failsAs(st.rec.Failing, now) {
		return
	}
	var next map[string]time.Time
	for _, ref := range now {
		if _, ok := st.rec.Failing[ref]; ok {
			continue
		}
		since, ok := st.failing[ref]
		if !ok {
			since = at
		}
		if next == nil {
			next = make(map[string]time.Time)
		}
		next[ref] = since
	}
	st.failing = next
}

// obey makes a policy's order a change of its own, which is journalled, recorded and stays,
// whatever the device's facts say next. The caller holds mu.
func (g *Gate) obey(st *state, now time.Time) {
	p := Place(g.facts(st.known(), now))
	order := p.ordered(now)
	c := Change{Device: st.id, By: order.By, At: now, Why: order.Why}
	switch p.Demand {
	case FailBlock:
		c.Kind = Block
	case FailWipe:
		c.Kind = Wipe
	default:
		return
	}
	g.makePending(st, c)
}
