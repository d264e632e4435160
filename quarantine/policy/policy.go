// Package policy judges devices by policy sets: rules that an administrator writes as CEL
// expressions over what sources report. It implements quarantine.Policy, moves nobody, and
// looks at nothing but the facts it is handed.
package policy

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"lazaret/quarantine"
)

// Config is what an Engine is made of. The zero Config is good.
type Config struct {
	// Kept is how many compiled sets are kept; optional: twice quarantine.MaxSets.
	Kept int
}

// Engine judges by the sets in the facts. It is safe for concurrent use, and keeps nothing
// but compiled rules.
type Engine struct {
	kept  int
	views sync.Pool

	mu       sync.RWMutex
	compiled map[string][]*compiled // by the set's name, latest first
	count    int
}

// compiled is a set whose rules were compiled.
type compiled struct {
	source []quarantine.PolicyRule
	rules  []rule
}

// New makes an Engine.
func New(c Config) *Engine {
	if c.Kept <= 0 {
		c.Kept = 2 * quarantine.MaxSets
	}
	return &Engine{kept: c.Kept, compiled: map[string][]*compiled{}, views: sync.Pool{New: func() any { return new(view) }}}
}

// rules returns the rules of a set, compiled once for as long as they stay as they are.
func (e *Engine) rules(s quarantine.PolicySet) []rule {
	e.mu.RLock()
	c := find(e.compiled[s.Name], s.Rules)
	e.mu.RUnlock()
	if c != nil {
		return c.rules
	}
	c = compile(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count >= e.kept {
		clear(e.compiled)
		e.count = 0
	}
	if find(e.compiled[s.Name], s.Rules) == nil {
		e.compiled[s.Name] = append([]*compiled{c}, e.compiled[s.Name]...)
		e.count++
	}
	return c.rules
}

func find(all []*compiled, rules []quarantine.PolicyRule) *compiled {
	for _, c := range all {
		if slices.Equal(c.source, rules) {
			return c
		}
	}
	return nil
}

func compile(s quarantine.PolicySet) *compiled {
	c := &compiled{source: slices.Clone(s.Rules), rules: make([]rule, len(s.Rules))}
	for i, r := range s.Rules {
		c.rules[i] = rule{PolicyRule: r, ref: quarantine.RuleRef(s.Name, r.Name), digest: r.Digest()}
		p, _, _, err := program(r.Expression)
		if err != nil {
			c.rules[i].fault = "it does not compile: " + firstLine(err.Error())
			continue
		}
		c.rules[i].program = p
	}
	return c
}

// Judge implements quarantine.Policy.
func (e *Engine) Judge(f quarantine.Facts) quarantine.Judgement {
	sets := selecting(f)
	plain := quarantine.PlainPolicy{}.Judge(f)
	if len(sets) == 0 && !f.Conduct.Strict {
		return plain
	}
	j := judging{facts: f, plain: plain, again: plain.Again, clear: plain.Clear, self: len(sets) > 0}
	if len(sets) == 0 {
		j.deny(quarantine.Reason{Rule: RuleStrict, Text: "no assigned policy set selects it, and the organization is strict",
			Remedy: "an administrator assigns a policy set marked stig that selects it"})
		j.clear = false
	}
	v := e.views.Get().(*view)
	v.reset(wordsOf(f), &f.Record, quarantine.GroupsOf(f.Record, f.Profile))
	defer func() {
		v.reset(nil, nil, nil)
		e.views.Put(v)
	}()
	j.view = v
	for _, s := range sets {
		j.self = j.self && s.AgentReleases && asks(s)
	}
	j.releases()
	for _, s := range sets {
		j.set(s, e.rules(s))
	}
	return j.judgement()
}

// asks reports whether a set asks for anything at all: a device's own word is enough only
// where something was asked of it.
func asks(s quarantine.PolicySet) bool {
	return slices.ContainsFunc(s.Rules, func(r quarantine.PolicyRule) bool { return r.OnFailure != quarantine.FailReport })
}

// RuleStrict is the rule of reasons that only strict mode gives.
const RuleStrict = "strict"

// selecting are the assigned sets that select the device, by name.
func selecting(f quarantine.Facts) []quarantine.PolicySet {
	var out []quarantine.PolicySet
	for _, name := range slices.Sorted(maps.Keys(f.Sets)) {
		if s := f.Sets[name]; s.Assigned && s.For.Selects(f.Record, f.Profile) {
			s.Name = name
			out = append(out, s)
		}
	}
	return out
}

// judging is a judgement in the making.
type judging struct {
	facts quarantine.Facts
	view  *view
	plain quarantine.Judgement
	self  bool // every set that selects the device takes its own word

	until   time.Time // of the release, as far as is known; zero: none
	denied  bool
	clear   bool
	again   time.Time
	failing []string
	marks   map[string]quarantine.Mark

	wiping, blocking, against []quarantine.Reason // what denies the release, by what it demands
	tolerated, speaks         []quarantine.Reason
}

func (j *judging) deny(r quarantine.Reason) {
	j.denied = true
	j.against = append(j.against, r)
}

// wake notes that the judgement may be another at an instant.
func (j *judging) wake(at time.Time) {
	if at.After(j.facts.Now) {
		j.again = sooner(j.again, at)
	}
}

// releases finds what speaks for a release at all: a source with the right to it, or, where
// every set says that it is enough, the device's own word.
func (j *judging) releases() {
	if j.plain.Release {
		j.until = j.plain.Until
	}
	if !j.self || !j.plain.Clear {
		return
	}
	for i := range j.view.words {
		w := &j.view.words[i]
		if w.name != quarantine.AgentSource || !w.live(j.facts.Now) {
			continue // one that says noncompliant, live, does not leave it clear
		}
		if w.until.After(j.until) {
			j.until = w.until
		}
		j.speaks = append(j.speaks, quarantine.Reason{Rule: quarantine.RuleReport, Holds: true, Source: w.name, At: w.report.At,
			Text: fmt.Sprintf("its own agent's report of %s, which its policy sets take, is valid until %s", stamp(w.report.At), stamp(w.until))})
	}
}

// set judges by one set.
func (j *judging) set(s quarantine.PolicySet, rules []rule) {
	if j.facts.Conduct.Strict && !s.STIG {
		j.clear = false
		j.deny(quarantine.Reason{Rule: RuleStrict, Set: s.Name, Version: s.Version, Fault: true,
			Text:   fmt.Sprintf("policy set %s is not marked stig, and the organization is strict", s.Name),
			Remedy: "an administrator marks the set, or takes it back"})
	}
	if len(rules) > quarantine.MaxRules {
		j.clear = false
		j.deny(quarantine.Reason{Rule: "rules", Set: s.Name, Version: s.Version, Fault: true,
			Text: fmt.Sprintf("policy set %s has %d rules, and %d at most are asked", s.Name, len(rules), quarantine.MaxRules)})
		return
	}
	for i := range rules {
		j.rule(s, &rules[i])
	}
}

// rule judges by one rule.
func (j *judging) rule(s quarantine.PolicySet, r *rule) {
	now := j.facts.Now
	o := r.outcome(j.view, now)
	j.wake(o.next)
	reason := j.reason(s, r, o)
	if r.OnFailure != quarantine.FailReport {
		j.mark(r, o.result)
	}
	if o.result == holds {
		j.speaks = append(j.speaks, reason)
		if r.OnFailure == quarantine.FailReport || j.until.IsZero() {
			return
		}
		if end := r.ends(j.view, o, j.until); !end.IsZero() {
			j.wake(end)
			_, last := j.tolerance(r, end)
			j.shorten(last)
		}
		return
	}
	j.failing = append(j.failing, r.ref)
	if r.OnFailure == quarantine.FailReport {
		reason.Text += "; the rule only reports"
		j.tolerated = append(j.tolerated, reason)
		return
	}
	if why, until := j.tolerance(r, now); until.After(now) {
		reason.Text += fmt.Sprintf("; it does not count until %s, since %s", stamp(until), why)
		j.tolerated = append(j.tolerated, reason)
		j.wake(until)
		j.shorten(until)
		return
	}
	if w, ok := j.facts.Record.Waivers[r.ref]; ok && !w.Waives(r.digest) && w.Until.After(now) {
		reason.Text += fmt.Sprintf("; what %s %s waived was another rule of that name, before it was written anew", w.By.Kind, w.By.Name)
	}
	j.denied = true
	marked := j.marks[r.ref].Broken
	if marked || o.result == faulty { // an error means no
		j.clear = false
	}
	if marked && o.result == unclear {
		reason.Text += "; it was violated when last known"
	}
	switch {
	case o.result == broken && r.OnFailure == quarantine.FailWipe:
		j.wiping = append(j.wiping, reason)
	case o.result == broken && r.OnFailure == quarantine.FailBlock:
		j.blocking = append(j.blocking, reason)
	default:
		j.against = append(j.against, reason)
	}
}

// mark notes what stays of a rule: that its grace began, until it has held for as long as
// that, and that it was broken, until it holds or is waived.
func (j *judging) mark(r *rule, found result) {
	now := j.facts.Now.UTC().Round(0)
	m := j.facts.Record.Marks[r.ref]
	if r.Grace <= 0 || !m.Held.IsZero() && !now.Before(m.Held.Add(r.Grace)) {
		m.Since, m.Held = time.Time{}, time.Time{}
	}
	switch {
	case found == holds:
		m.Broken = false
		if m.Since.IsZero() {
			break
		}
		if m.Held.IsZero() {
			m.Held = now
		}
		j.wake(m.Held.Add(r.Grace))
	default:
		m.Held = time.Time{}
		if m.Since.IsZero() && r.Grace > 0 && j.facts.Record.Stage == quarantine.Routed {
			m.Since = now
			if since, ok := j.facts.Record.Failing[r.ref]; ok && since.Before(now) {
				m.Since = since
			}
		}
		w := j.facts.Record.Waivers[r.ref]
		waived := w.Set() && w.Waives(r.digest) && w.Until.After(now)
		m.Broken = !waived && (m.Broken || found == broken)
	}
	if m == (quarantine.Mark{}) {
		return
	}
	if j.marks == nil {
		j.marks = make(map[string]quarantine.Mark)
	}
	j.marks[r.ref] = m
}

// tolerance is until when a rule that fails from an instant on does not count, and why: a
// waiver, or the grace of a device that is routed.
func (j *judging) tolerance(r *rule, from time.Time) (why string, until time.Time) {
	until = from
	if w, ok := j.facts.Record.Waivers[r.ref]; ok && w.Set() && w.Waives(r.digest) && w.Until.After(until) {
		why, until = fmt.Sprintf("%s %s waived it", w.By.Kind, w.By.Name), w.Until
	}
	if j.facts.Record.Stage == quarantine.Routed && r.Grace > 0 {
		since, ok := j.facts.Record.Failing[r.ref]
		if !ok || since.After(from) || from.After(j.facts.Now) {
			since = from
		}
		if m := j.marks[r.ref]; !m.Since.IsZero() && m.Since.Before(since) && (m.Held.IsZero() || from.Before(m.Held.Add(r.Grace))) {
			since = m.Since // it has not earned another grace
		}
		if end := since.Add(r.Grace); end.After(until) {
			why, until = fmt.Sprintf("routed devices have %s of grace", r.Grace), end
		}
	}
	return why, until
}

// shorten ends the release no later than at.
func (j *judging) shorten(at time.Time) {
	if !j.until.IsZero() && at.Before(j.until) {
		j.until = at
	}
}

// demand is the strongest that a rule demands. A wipe goes before a block, since a blocked
// device could not be told to wipe.
func (j *judging) demand() quarantine.FailureAction {
	switch {
	case len(j.wiping) > 0:
		return quarantine.FailWipe
	case len(j.blocking) > 0:
		return quarantine.FailBlock
	default:
		return ""
	}
}

func (j *judging) judgement() quarantine.Judgement {
	slices.Sort(j.failing)
	out := quarantine.Judgement{Clear: j.clear, Demand: j.demand(), Failing: j.failing, Marks: j.marks}
	if !j.denied && j.until.After(j.facts.Now) {
		out.Release, out.Until = true, j.until
		j.wake(j.until)
	}
	out.Again = j.again
	told := j.plain.Reasons
	if j.self && !j.until.IsZero() {
		told = slices.DeleteFunc(slices.Clone(told), func(r quarantine.Reason) bool {
			return r.Rule == "release" || r.Source == quarantine.AgentSource && !r.Holds
		})
	}
	against := slices.Concat(j.wiping, j.blocking, j.against)
	if out.Release || j.until.IsZero() {
		out.Reasons = slices.Concat(told, against, j.speaks, j.tolerated)
	} else {
		out.Reasons = slices.Concat(against, told, j.speaks, j.tolerated)
	}
	return out
}

// reason tells what a rule found.
func (j *judging) reason(s quarantine.PolicySet, r *rule, o outcome) quarantine.Reason {
	out := quarantine.Reason{Rule: r.Name, Set: s.Name, Version: s.Version, Fact: o.on.fact.Name, Holds: o.result == holds, Fault: o.result == faulty}
	if o.result != faulty && o.on.word != nobody && o.on.fact.Name != "" {
		w := &j.view.words[o.on.word]
		out.Source, out.At = w.name, w.report.At
	}
	out.Text = r.Text
	if out.Text == "" {
		out.Text = r.Expression
	}
	if o.result == holds {
		return out
	}
	out.Remedy = r.Remedy
	switch o.result {
	case broken:
		if o.on.fact.Name != "" {
			out.Text += ": " + j.view.say(o.on)
		}
	case unclear:
		out.Text += ": " + j.view.lack(o.on, r.CheckEvery, j.facts.Now)
		if out.Remedy == "" {
			out.Remedy = "a source that may, or its agent, reports " + o.on.fact.Name
		}
	default:
		out.Text += ": this rule cannot be evaluated, which is the policy's fault and not the device's: " + o.fault
		out.Remedy = "an administrator corrects the rule: lazaretctl policy check " + s.Name
	}
	return out
}
