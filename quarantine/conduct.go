package quarantine

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// What zero fields of a Conduct mean, and its bounds.
const (
	DefaultAlertAfter = 21 * 24 * time.Hour
	DefaultActAfter   = 90 * 24 * time.Hour
	DefaultSession    = 2 * time.Hour // also the most in strict mode
	MaxSession        = 24 * time.Hour
)

// Check returns all that is wrong with the conduct.
func (c Conduct) Check() error {
	var faults []error
	if alert, act := cmp.Or(c.AlertAfter, DefaultAlertAfter), cmp.Or(c.ActAfter, DefaultActAfter); alert <= 0 || act < alert {
		faults = append(faults, fmt.Errorf("an alert after %s and action after %s: want an alert, and action no sooner", alert, act))
	}
	if !slices.Contains([]FailureAction{"", FailWipe, FailBlock, FailReport}, c.OnInactive) {
		faults = append(faults, fmt.Errorf("an inactive device cannot be met with %q", c.OnInactive))
	}
	if c.SessionLife < 0 || c.SessionLife > c.mostSession() {
		faults = append(faults, fmt.Errorf("a session of %s: at most %s", c.SessionLife, c.mostSession()))
	}
	return errors.Join(faults...)
}

func (c Conduct) mostSession() time.Duration {
	if c.Strict {
		return DefaultSession
	}
	return MaxSession
}

// Session is how long a user's sign-in opens a pool that asks for one, never more than the
// bound.
func (c Conduct) Session() time.Duration {
	if c.SessionLife <= 0 {
		return DefaultSession
	}
	return min(c.SessionLife, c.mostSession())
}

// Bounds of a policy set, so that judging one device stays cheap.
const (
	MaxSets  = 64
	MaxRules = 100 // of a set
)

// Check returns all that is wrong with the set's form. What its expressions mean is the
// Policy's matter.
func (s PolicySet) Check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("set %q: "+format, append([]any{s.Name}, args...)...))
	}
	if !ruleName(s.Name) {
		fault("the name must be 1 to %d lower-case letters, digits, '.', '-' or '_', starting with a letter or digit", maxRuleName)
	}
	if len(s.Rules) > MaxRules {
		fault("%d rules, at most %d", len(s.Rules), MaxRules)
	}
	seen := map[string]bool{}
	for _, r := range s.Rules {
		if !ruleName(r.Name) {
			fault("rule %q: a name is 1 to %d lower-case letters, digits, '.', '-' or '_', starting with a letter or digit", r.Name, maxRuleName)
		}
		if seen[r.Name] {
			fault("two rules are named %q", r.Name)
		}
		seen[r.Name] = true
		if !slices.Contains([]FailureAction{"", FailReport, FailQuarantine, FailBlock, FailWipe}, r.OnFailure) {
			fault("rule %q: on_failure %q is not report, quarantine, block or wipe", r.Name, r.OnFailure)
		}
		if r.CheckEvery < 0 || r.Grace < 0 {
			fault("rule %q: check_every and grace cannot be negative", r.Name)
		}
	}
	return errors.Join(faults...)
}

const maxRuleName = 64

// ruleName reports whether s can name a set or a rule: the two are written SET/RULE.
func ruleName(s string) bool {
	for i, c := range []byte(s) {
		plain := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !plain && (i == 0 || c != '.' && c != '-' && c != '_') {
			return false
		}
	}
	return s != "" && len(s) <= maxRuleName
}

// RuleRef is how a rule of a set is named in waivers and elsewhere.
func RuleRef(set, rule string) string { return set + "/" + rule }

// ruleRef reports whether s has the form SET/RULE.
func ruleRef(s string) bool {
	set, rule, ok := strings.Cut(s, "/")
	return ok && ruleName(set) && ruleName(rule)
}

// sourceKinds are the kinds of source that there are.
var sourceKinds = []SourceKind{"", SourceAPI, SourceWebhook, SourceSSF, SourceFleet, SourceIntune, SourceJamf}

// Check returns all that is wrong with the source.
func (s Source) Check() error {
	var faults []error
	if s.Name == "" || s.Name == AgentSource {
		faults = append(faults, fmt.Errorf("a source cannot be named %q", s.Name))
	}
	if !slices.Contains(sourceKinds, s.Kind) {
		faults = append(faults, fmt.Errorf("source %q: no kind %q is known", s.Name, s.Kind))
	}
	if s.MaxValidity < 0 || s.Silent < 0 {
		faults = append(faults, fmt.Errorf("source %q: a time cannot be negative", s.Name))
	}
	for _, f := range s.Facts {
		if !factPattern(f) {
			faults = append(faults, fmt.Errorf("source %q: %q is neither a fact's name, nor \"*\", nor like \"os.*\"", s.Name, f))
		}
	}
	return errors.Join(faults...)
}

// factPattern reports whether p can stand in Source.Facts.
func factPattern(p string) bool {
	if p == "*" {
		return true
	}
	name, all := strings.CutSuffix(p, ".*")
	return name != "" && !strings.Contains(name, "*") && (all || p == name)
}

// Speaks reports whether the source may speak of a fact.
func (s Source) Speaks(fact string) bool {
	return slices.ContainsFunc(s.Facts, func(p string) bool {
		prefix, all := strings.CutSuffix(p, "*")
		return p == fact || all && strings.HasPrefix(fact, prefix)
	})
}
