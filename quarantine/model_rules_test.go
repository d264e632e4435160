package quarantine_test

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// A world's organization has, besides the harness's, a pool that asks for its users, sources
// with a scope, and policy sets that come and go.

// modelSets are the sets that there may be, by name; each world has some of them at a time.
func modelSets() map[string]quarantine.PolicySet {
	agent := oneRule("agent", "disk=on", quarantine.FailQuarantine, 0)
	agent.AgentReleases = true
	group := oneRule("group", "disk=on", quarantine.FailQuarantine, 0)
	group.For.Groups = []string{"some"}
	return map[string]quarantine.PolicySet{
		"jail":   oneRule("jail", "jail=no", quarantine.FailBlock, 0),
		"disk":   oneRule("disk", "disk=on", quarantine.FailQuarantine, 0),
		"patch":  oneRule("patch", "patched=yes", quarantine.FailQuarantine, 10*time.Minute),
		"tamper": oneRule("tamper", "tampered=no", quarantine.FailWipe, 0),
		"agent":  agent, "group": group,
	}
}

// modelFacts are what rules of the sets look at, and what must be said.
var modelFacts = map[string]string{"jail": "no", "disk": "on", "patched": "yes", "tampered": "no"}

func modelSettings(sets map[string]quarantine.PolicySet) storetest.Settings {
	s := settings()
	s.Pools["desk"] = quarantine.Pool{Name: "desk", IPv4: netip.MustParsePrefix("10.4.0.0/16"), NeedUser: true}
	s.Profiles["desk"] = quarantine.Profile{Name: "desk", Pool: "desk"}
	s.Sources["mdm"] = quarantine.Source{Name: "mdm", MayRelease: true, MaxValidity: 2 * time.Hour, Facts: []string{"*"}}
	s.Sources["scan"] = quarantine.Source{Name: "scan", Facts: []string{"disk"}}
	s.Sources["mars"] = quarantine.Source{Name: "mars", MayRelease: true, Facts: []string{"*"}, For: quarantine.Selection{Platforms: []string{"mars"}}}
	s.Sets = sets
	return s
}

// saveSets gives the organization other sets, or none.
func (w *world) saveSets() {
	all := modelSets()
	sets := make(map[string]quarantine.PolicySet)
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom(slices.Sorted(maps.Keys(all))), rapid.ID[string]).Draw(w.rt, "sets") {
		sets[name] = all[name]
	}
	w.store.Save(modelSettings(sets))
	w.sets, w.sure = sets, nil
	w.maybe = append(w.maybe, sets)
	for _, m := range w.models {
		m.told = time.Now()
	}
	synctest.Wait()
	if w.healthy {
		w.sureOfSets()
	}
}

// sureOfSets is called when every gateway has heard of the sets.
func (w *world) sureOfSets() { w.sure, w.maybe = w.sets, []map[string]quarantine.PolicySet{w.sets} }

// mayBe reports whether a set with this property may be in force anywhere.
func (w *world) mayBe(has func(quarantine.PolicySet) bool) bool {
	for _, sets := range w.maybe {
		for _, set := range sets {
			if has(set) {
				return true
			}
		}
	}
	return false
}

// forbids reports whether a rule that surely counts for the device surely fails, so that it
// must not be routed: what speaks against it lives, or nothing that could speak for it does.
func (w *world) forbids(m *model, v view, now time.Time) bool {
	for name, set := range w.sure {
		rule := set.Rules[0]
		if len(set.For.Groups) > 0 || rule.Grace > 0 || now.Before(m.waived[quarantine.RuleRef(name, rule.Name)]) {
			continue
		}
		fact := map[string]string{"jail": "jail", "disk": "disk", "agent": "disk", "tamper": "tampered"}[name]
		good := false
		for source, r := range v.last {
			said, ok := r.Facts[fact]
			if !ok || !now.Before(r.At.Add(r.Validity)) {
				continue
			}
			lives := now.Before(r.Received.Add(min(r.Validity, time.Hour))) && now.Before(r.At.Add(min(r.Validity, time.Hour))) && !now.Before(r.At)
			if said != modelFacts[fact] && lives && len(v.maybe[source]) == 0 {
				return true
			}
			good = good || said == modelFacts[fact]
		}
		for _, all := range v.maybe {
			for _, r := range all {
				good = good || r.Facts[fact] == modelFacts[fact] && now.Before(r.At.Add(r.Validity))
			}
		}
		if !good {
			return true
		}
	}
	return false
}

// inScope reports whether a source may bring the report.
func inScope(r quarantine.Report) bool {
	if r.Source == "mars" {
		return false
	}
	for fact := range r.Facts {
		if r.Source == "scan" && fact != "disk" {
			return false
		}
	}
	return true
}

// newFacts are some facts, right or wrong; right twice as often.
func (w *world) newFacts() map[string]string {
	facts := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(modelFacts)) {
		switch rapid.SampledFrom([]string{"right", "right", "wrong", "missing"}).Draw(w.rt, name) {
		case "right":
			facts[name] = modelFacts[name]
		case "wrong":
			facts[name] = "wrong"
		}
	}
	return facts
}

// tell is what people and the device itself say beside reports: a waiver, groups, a sign-in, its
// end, a contact.
func (w *world) tell() {
	m, g := w.pick(), w.via()
	kind := rapid.SampledFrom([]quarantine.Kind{quarantine.Clear, quarantine.Regroup, quarantine.SignIn, quarantine.SignIn, quarantine.SignIn, quarantine.SignOut, quarantine.Contact, quarantine.Unwipe}).Draw(w.rt, "tell")
	c := quarantine.Change{Kind: kind, Device: m.id, Why: "because"}
	life := time.Duration(rapid.IntRange(1, 120).Draw(w.rt, "minutes")) * time.Minute
	now := time.Now()
	by := admin
	switch kind {
	case quarantine.Clear:
		c.Rule, c.Until = rapid.SampledFrom([]string{"jail/only", "disk/only", "agent/only", "tamper/only", "patch/only"}).Draw(w.rt, "rule"), now.Add(life)
	case quarantine.Regroup:
		c.Groups = rapid.SampledFrom([][]string{nil, {"some"}}).Draw(w.rt, "groups")
	case quarantine.SignIn:
		c.Session = &quarantine.UserSession{User: "owner", Until: now.Add(life)}
	case quarantine.SignOut, quarantine.Contact:
		by = agent(m.id)
	}
	m.told = now
	_, err := w.gates[g].gate.Change(w.t.Context(), by, c)
	if errors.Is(err, quarantine.ErrNotReady) || errors.Is(err, quarantine.ErrUnknownDevice) || errors.Is(err, quarantine.ErrFinal) || errors.Is(err, quarantine.ErrStale) {
		return
	}
	if errors.Is(err, quarantine.ErrForbidden) || errors.Is(err, quarantine.ErrMalformed) || errors.Is(err, quarantine.ErrNotOwner) {
		w.rt.Fatalf("%s: %v", kind, err)
	}
	switch kind { // an error of the store leaves open whether it was taken
	case quarantine.Clear:
		m.waive(c.Rule, c.Until)
	case quarantine.SignIn:
		if end := now.Add(life); end.After(m.session) {
			m.session = end
		}
		for g := range m.views {
			m.views[g].out = false
		}
	case quarantine.SignOut:
		m.views[g].out = true
		if len(w.gates) == 1 {
			m.session = time.Time{}
		}
	case quarantine.Unwipe:
		m.waive("tamper/only", now.Add(24*time.Hour))
		for g := range m.views {
			m.views[g].wiped = false
		}
	}
}

func (m *model) waive(rule string, until time.Time) {
	if until.After(m.waived[rule]) {
		m.waived[rule] = until
	}
}

// stood notes what the gateway answered: a block by the policy stays until a person lifts it.
func (w *world) stood(g int, id quarantine.ID, p quarantine.Placement, err error) {
	m := w.models[id]
	if m == nil || m.uncertain || err != nil && !errors.Is(err, quarantine.ErrNotEnforced) || p.Stage != quarantine.Blocked {
		return // where an answer was lost, it may be a person's block that was lifted meanwhile
	}
	v := &m.views[g]
	if !v.blocked && !v.revoked {
		if !w.mayBe(func(s quarantine.PolicySet) bool { return s.Rules[0].OnFailure == quarantine.FailBlock }) && w.healthy {
			w.rt.Fatalf("%s is blocked, by nobody: %+v", id, p)
		}
		v.blocked = true
		m.uncertain = m.uncertain || !w.healthy // whether the other gateway knows of it
	}
}

// observe notes the policy's orders that are recorded.
func (w *world) observe() {
	for id, m := range w.models {
		r, ok := w.store.Get(id)
		if !ok {
			continue
		}
		for g := range m.views {
			m.views[g].blocked = m.views[g].blocked || r.Block.Set() && r.Block.By.Kind == quarantine.PolicyActor
			m.views[g].wiped = m.views[g].wiped || r.Wipe.Set()
		}
	}
}

// ended is the end of what a release of the device may rest on but reports: the session that
// its pool asks for. Zero: it may not be routed.
func (m *model) ended(g int, until time.Time) time.Time {
	switch {
	case m.profile != "desk":
		return until
	case m.views[g].out || m.session.IsZero():
		return time.Time{}
	case m.session.Before(until):
		return m.session
	}
	return until
}
