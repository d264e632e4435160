package quarantine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxWaiver  = 30 * 24 * time.Hour // of one waiver
	maxWaivers = 64                  // of one device
	maxGroups  = 32                  // of one device
	contact    = 6 * time.Hour       // how much newer a contact is that is worth keeping
)

// clear waives a rule for a while: a person's word, with who and why (N8).
func (r *Record) clear(c Change) error {
	switch {
	case !ruleRef(c.Rule):
		return fmt.Errorf("%w: %q names no rule, want SET/RULE", ErrMalformed, c.Rule)
	case !c.Until.After(c.At) || c.Until.After(c.At.Add(maxWaiver)):
		return fmt.Errorf("%w: a rule is waived until a time within the next %d days, not %s", ErrMalformed, maxWaiver/(24*time.Hour), stamp(c.Until))
	case c.Why == "":
		return fmt.Errorf("%w: say why the rule is waived", ErrMalformed)
	}
	waivers := make(map[string]Waiver, len(r.Waivers)+1)
	maps.Copy(waivers, r.Waivers)
	waivers[c.Rule] = Waiver{Decision{By: c.By, At: c.At, Why: c.Why}, c.Until, c.Digest}
	if len(waivers) > maxWaivers {
		return fmt.Errorf("%w: %d rules are waived already", ErrMalformed, maxWaivers)
	}
	r.Waivers = waivers
	return nil
}

func (r *Record) regroup(c Change) error {
	groups := slices.Compact(slices.Sorted(slices.Values(c.Groups)))
	if len(groups) > maxGroups {
		return fmt.Errorf("%w: %d groups, at most %d", ErrMalformed, len(groups), maxGroups)
	}
	for _, g := range groups {
		if !ruleName(g) {
			return fmt.Errorf("%w: group %.80q: want 1 to %d lower-case letters, digits, '.', '-' or '_', starting with a letter or digit", ErrMalformed, g, maxRuleName)
		}
	}
	r.Groups = groups
	return nil
}

// signIn takes a user's session. One that began before the last one ended, or before the
// present one, comes too late.
func (r *Record) signIn(c Change) error {
	if c.Session == nil || c.Session.User == "" {
		return fmt.Errorf("%w: no user in it", ErrMalformed)
	}
	s := *c.Session
	if s.At.IsZero() {
		s.At = c.At
	}
	switch {
	case s.User != r.Owner:
		return fmt.Errorf("%w: %q signed in", ErrNotOwner, s.User)
	case s.At.After(c.At.Add(MaxAhead)):
		return fmt.Errorf("%w: signed in at %s", ErrFuture, stamp(s.At))
	case s.At.After(c.At):
		s.At = c.At
	}
	switch last := r.Session; {
	case !s.At.After(last.At) && last.User == "" && !last.At.IsZero():
		return fmt.Errorf("%w: signed in at %s, and out at %s", ErrStale, stamp(s.At), stamp(last.At))
	case s.At.Before(last.At):
		return fmt.Errorf("%w: signed in at %s, and again at %s", ErrStale, stamp(s.At), stamp(last.At))
	case !s.Until.After(s.At):
		return fmt.Errorf("%w: the session has no life", ErrMalformed)
	}
	s.By = c.By
	r.Session = s
	return nil
}

// signOut leaves the time since when nobody is signed in.
func (r *Record) signOut(c Change) {
	at := c.At
	if r.Session.At.After(at) {
		at = r.Session.At
	}
	r.Session = UserSession{At: at, By: c.By}
}

// completed is a sign-in as the organization's conduct lets it be: no longer, and as long as
// that where it does not say.
func (c Change) completed(conduct Conduct) Change {
	if c.Kind != SignIn || c.Session == nil {
		return c
	}
	s := *c.Session
	s.At = s.At.UTC().Round(0)
	if s.At.IsZero() || s.At.After(c.At) && !s.At.After(c.At.Add(MaxAhead)) {
		s.At = c.At
	}
	most := s.At.Add(conduct.Session())
	if s.Until.IsZero() || s.Until.After(most) {
		s.Until = most
	}
	s.Until = s.Until.UTC().Round(0)
	c.Session = &s
	return c
}

// digested is a change that waives a rule, with the digest of the rule in force. Where there is
// none of that name, it is about none that comes later.
func (s *settings) digested(c Change, known Record) Change {
	c.Digest = ""
	ref := c.Rule
	switch c.Kind {
	case Clear:
	case Unblock:
		ref, _ = orderedBy(known.Block)
	case Unwipe:
		ref, _ = orderedBy(known.Wipe)
	default:
		return c
	}
	set, name, _ := strings.Cut(ref, "/")
	var rule PolicyRule
	if at := slices.IndexFunc(s.sets[set].Rules, func(r PolicyRule) bool { return r.Name == name }); at >= 0 {
		rule = s.sets[set].Rules[at]
	}
	c.Digest = rule.Digest()
	return c
}

// sameFacts reports whether two reports of a source tell the same facts.
func sameFacts(a, b Report) bool { return maps.Equal(a.Facts, b.Facts) }

// scope says why a source may not bring a change: it speaks of a device, or of a fact, that is
// none of its business.
func (s *settings) scope(by Actor, c Change, rec Record) error {
	if c.Kind == Reported {
		return s.reportScope(by, *c.Report, rec)
	}
	if by.Kind != "source" {
		return nil
	}
	return s.speaksFor(by.Name, rec)
}

// speaksFor says why a source may not speak for a device. One that is not known speaks for none.
func (s *settings) speaksFor(name string, rec Record) error {
	source, known := s.sources[name]
	if !known {
		return fmt.Errorf("%w: %q", ErrUnknownSource, name)
	}
	if !source.For.Selects(rec, s.profiles[rec.Profile]) {
		return fmt.Errorf("%w: source %q does not speak for it", ErrForbidden, name)
	}
	return nil
}

// reportScope is scope for reports. A device's own agent has no such bounds, but that only the
// gateway can say that it was attested.
func (s *settings) reportScope(by Actor, r Report, rec Record) error {
	if _, attested := r.Facts[AttestedFact]; attested && (r.Source != AgentSource || by.Kind != "gateway") {
		return fmt.Errorf("%w: %q is the gateway's to say", ErrForbidden, AttestedFact)
	}
	if r.Source == AgentSource {
		return nil
	}
	if err := s.speaksFor(r.Source, rec); err != nil {
		return err
	}
	source := s.sources[r.Source]
	for _, fact := range slices.Sorted(maps.Keys(r.Facts)) {
		if !source.Speaks(fact) {
			return fmt.Errorf("%w: source %q does not speak of %.80q", ErrForbidden, r.Source, fact)
		}
	}
	return nil
}

// AttestedFact is the fact that a device's TPM vouched for what it says. It stands in reports
// of the device's agent, and only the gateway puts it there.
const AttestedFact = "tpm.attested"

// outside are the kinds that come from outside, and who may bring them. A kind of actor that
// is not named here may bring nothing.
var outside = sync.OnceValue(func() map[string]map[Kind]bool {
	kinds := func(lists ...[]Kind) map[Kind]bool {
		m := make(map[Kind]bool)
		for _, k := range slices.Concat(lists...) {
			m[k] = true
		}
		return m
	}
	shown := []Kind{Prove, Confirm, Rotate}
	against := []Kind{Hold, Block, Revoke, Wipe}
	person := kinds(shown, against, []Kind{Reported, Approve, Unblock, Unwipe, Clear, Regroup, SignIn, SignOut, Contact})
	return map[string]map[Kind]bool{
		"administrator": person,
		"token":         person,
		"gateway":       kinds(shown, against, []Kind{Reported, SignIn, SignOut, Contact}),
		PolicyActor:     kinds(against),
		"source":        kinds([]Kind{Reported, SignOut}),
		"device":        kinds(shown, []Kind{Reported, SignOut, Contact}),
		"otp":           kinds(shown),
	}
})

// mayBring says why by may not bring the change, whatever device it is about.
func (c Change) mayBring(by Actor) error {
	if !outside()["administrator"][c.Kind] {
		return fmt.Errorf("%w: kind %q does not come from outside", ErrMalformed, c.Kind)
	}
	switch {
	case by.Kind == "" || by.Name == "":
		return fmt.Errorf("%w: nobody asks", ErrForbidden)
	case !outside()[by.Kind][c.Kind], by.Kind == "device" && by.Name != string(c.Device):
		return ErrForbidden
	case c.Kind == Reported && c.Report == nil:
		return fmt.Errorf("%w: no report in it", ErrMalformed)
	case c.Kind == Reported && by.Kind == "source" && c.Report.Source != by.Name:
		return fmt.Errorf("%w: source %q as %q", ErrForbidden, by.Name, c.Report.Source)
	}
	return nil
}

// seenEnough reports whether a contact is too soon after the last one to be worth keeping.
func seenEnough(known Record, c Change) bool {
	return c.Kind == Contact && Recent(known.Seen, c.At)
}

// Recent reports whether a device that was last seen at one time need not be noted as seen at
// another.
func Recent(seen, now time.Time) bool { return now.Sub(seen) <= contact }
