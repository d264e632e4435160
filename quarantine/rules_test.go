package quarantine_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
)

// rulesPolicy is PlainPolicy with policy sets whose rules are as plain as "fact=value": what a
// Policy must do with sets, written for these tests alone. Where an assigned set that selects
// the device says so, its agent's live report releases as well.
type rulesPolicy struct{}

// said is what live reports that are no older than every say of a fact: what none of them
// contradicts, or else the word against it.
func said(f quarantine.Facts, fact, want string, every time.Duration) (value string, r quarantine.Report, until time.Time, ok bool) {
	for _, name := range slices.Sorted(maps.Keys(f.Record.Reports)) {
		n := f.Record.Reports[name]
		v, has := n.Facts[fact]
		from, end := quarantine.Life(n, f.Sources[name])
		if every > 0 && from.Add(every).Before(end) {
			end = from.Add(every)
		}
		if !has || f.Now.Before(from) || !f.Now.Before(end) {
			continue
		}
		if !ok || v != want && value == want || (v == want) == (value == want) && end.After(until) {
			value, r, until, ok = v, n, end, true
		}
	}
	return value, r, until, ok
}

func (rulesPolicy) Judge(f quarantine.Facts) quarantine.Judgement {
	j := quarantine.PlainPolicy{}.Judge(f)
	soon := func(t time.Time) {
		if t.After(f.Now) && (j.Again.IsZero() || t.Before(j.Again)) {
			j.Again = t
		}
	}
	var against []quarantine.Reason
	agentReleases, agentReported := false, false
	agent := f.Record.Reports[quarantine.AgentSource]
	if from, end := quarantine.Life(agent, f.Sources[quarantine.AgentSource]); !agent.At.IsZero() && agent.Verdict != quarantine.NonCompliant && !f.Now.Before(from) && f.Now.Before(end) {
		agentReported = true
		soon(end)
	}
	end := time.Time{} // of what the rules allow
	until := func(t time.Time) {
		soon(t)
		if end.IsZero() || t.Before(end) {
			end = t
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Sets)) {
		set := f.Sets[name]
		if !set.Assigned || !set.For.Selects(f.Record, f.Profile) {
			continue
		}
		agentReleases = agentReleases || set.AgentReleases
		for _, rule := range set.Rules {
			ref := quarantine.RuleRef(set.Name, rule.Name)
			fact, want, _ := strings.Cut(rule.Expression, "=")
			value, report, live, known := said(f, fact, want, rule.CheckEvery)
			if known {
				soon(live)
			}
			if known && value == want {
				if rule.OnFailure != quarantine.FailReport {
					until(live)
				}
				continue
			}
			if w, ok := f.Record.Waivers[ref]; ok && f.Now.Before(w.Until) {
				if rule.OnFailure != quarantine.FailReport {
					until(w.Until)
				}
				continue
			}
			j.Failing = append(j.Failing, ref)
			reason := quarantine.Reason{Rule: ref, Set: set.Name, Version: set.Version, Fact: fact, Source: report.Source, At: report.At,
				Text: fact + " is not " + want, Remedy: "make it so"}
			if rule.OnFailure == quarantine.FailReport {
				continue
			}
			if rule.Grace > 0 && f.Record.Stage == quarantine.Routed {
				since, ok := f.Record.Failing[ref]
				if !ok {
					since = f.Now
				}
				if over := since.Add(rule.Grace); f.Now.Before(over) {
					until(over)
					continue
				}
			}
			against = append(against, reason)
			if known && (rule.OnFailure == quarantine.FailBlock || rule.OnFailure == quarantine.FailWipe && j.Demand != quarantine.FailBlock) {
				j.Demand = rule.OnFailure
			}
		}
	}
	slices.Sort(j.Failing)
	if agentReleases && agentReported && j.Clear && !j.Release {
		_, j.Until = quarantine.Life(agent, f.Sources[quarantine.AgentSource])
		j.Release = true
		j.Reasons = append(j.Reasons, quarantine.Reason{Rule: quarantine.RuleReport, Holds: true, Source: quarantine.AgentSource, Text: "its agent's word is enough"})
	}
	if len(against) > 0 {
		j.Release, j.Clear = false, false
		j.Reasons = slices.Concat(against, j.Reasons)
	}
	if j.Release && !end.IsZero() && end.Before(j.Until) {
		j.Until = end
	}
	if !j.Release {
		j.Until = time.Time{}
	}
	return j
}

// rule is a policy set of one rule.
func oneRule(name, expression string, on quarantine.FailureAction, grace time.Duration) quarantine.PolicySet {
	return quarantine.PolicySet{Name: name, Assigned: true,
		Rules: []quarantine.PolicyRule{{Name: "only", Expression: expression, OnFailure: on, Grace: grace}}}
}
