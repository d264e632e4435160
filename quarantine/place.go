package quarantine

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Rules that reasons name, in the order in which they are asked.
const (
	RuleFacts       = "facts"
	RuleRevocation  = "revocation"
	RuleBlock       = "block"
	RuleProfile     = "profile"
	RuleApproval    = "approval"
	RuleHold        = "hold"
	RuleCertificate = "certificate"
	RuleProof       = "proof"
	RulePool        = "pool"
	RuleWipe        = "wipe"         // told of only where there is an order
	RuleUser        = "user session" // told of only where the pool asks for one
	RuleSkip        = "release.profile"
)

// Place decides where a device belongs. It is pure: the same facts give the same
// placement. Whatever is odd (no time, no quarantine pool, an unknown profile or pool, no
// policy) takes away and never gives.
func Place(f Facts) Placement { return place(decision{Facts: f}) }

// placeQuietly is Place without reasons, for when nobody asks.
func placeQuietly(f Facts) Placement { return place(decision{Facts: f, quiet: true}) }

func place(d decision) Placement {
	d.marks = d.Record.Marks
	if stage, ok := d.denied(); ok {
		return d.placement(stage, d.quarantinePool(), time.Time{})
	}
	admitted := d.admitted()
	mayRoute := d.mayRoute()
	released, until := d.released()
	switch {
	case d.demand == FailBlock:
		return d.placement(Blocked, d.quarantinePool(), time.Time{})
	case !admitted:
		return d.placement(Pending, d.quarantinePool(), time.Time{})
	case mayRoute && released && d.demand == "" && until.After(d.Now):
		return d.placement(Routed, d.Profile.Pool, until)
	default:
		return d.placement(Quarantined, d.quarantinePool(), time.Time{})
	}
}

// decision is a placement in the making.
type decision struct {
	Facts
	quiet   bool // tells no reasons
	reasons []Reason
	again   time.Time
	session time.Time // end of the user's session; zero: none is asked for
	failing []string
	marks   map[string]Mark
	demand  FailureAction
	order   *Decision
}

func (d *decision) rule(rule string, holds bool, at time.Time, format string, args ...any) bool {
	if !d.quiet {
		d.reasons = append(d.reasons, Reason{Rule: rule, Holds: holds, At: at, Text: fmt.Sprintf(format, args...)})
	}
	return holds
}

// placement closes the decision: the reason that decided goes first.
func (d *decision) placement(stage Stage, pool string, until time.Time) Placement {
	first := slices.IndexFunc(d.reasons, func(r Reason) bool {
		switch {
		case stage == Routed:
			return r.Holds && (r.Rule == RuleReport || r.Rule == RuleSkip)
		case d.demand == FailBlock:
			return !r.Holds && r.Rule == RuleBlock
		case d.demand == FailWipe && stage != Pending:
			return !r.Holds && r.Rule == RuleWipe
		}
		return !r.Holds && !(r.Rule == RuleSkip)
	})
	if first > 0 {
		decisive := d.reasons[first]
		copy(d.reasons[1:first+1], d.reasons[:first])
		d.reasons[0] = decisive
	}
	d.remedy()
	return Placement{Stage: stage, Pool: pool, Until: until, Again: soonest(d.Now, d.again, until), Reasons: d.reasons,
		Demand: d.demand, Order: d.order, Failing: d.failing, Marks: d.marks}
}

// quarantinePool is the name of the one quarantine pool, or empty.
func (f Facts) quarantinePool() string {
	name, n := "", 0
	for _, p := range f.Pools {
		if p.Quarantine {
			name = p.Name
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return name
}

// denied asks the rules that take even the peer away.
func (d *decision) denied() (Stage, bool) {
	r := d.Record
	switch {
	case r.Revocation.Set():
		d.decided(RuleRevocation, "revoked", r.Revocation)
		return Revoked, true
	case r.Block.Set():
		d.decided(RuleBlock, "blocked", r.Block)
		return Blocked, true
	case d.Now.IsZero():
		d.rule(RuleFacts, false, time.Time{}, "the time is not known")
		return "", true
	case r.ID == "" || r.Seat == 0 || r.Key.IsZero():
		d.rule(RuleFacts, false, time.Time{}, "the device lacks an ID, a seat or a WireGuard key")
		return "", true
	case d.quarantinePool() == "":
		d.rule(RuleFacts, false, time.Time{}, "there is not exactly one quarantine pool")
		return "", true
	}
	d.rule(RuleRevocation, true, time.Time{}, "not revoked")
	d.rule(RuleBlock, true, time.Time{}, "not blocked")
	return "", false
}

// decided adds a person's decision against the device.
func (d *decision) decided(rule, what string, by Decision) {
	why := ""
	if by.Why != "" {
		why = ": " + by.Why
	}
	d.rule(rule, false, by.At, "%s by %s %s at %s%s", what, by.By.Kind, by.By.Name, stamp(by.At), why)
}

// profileKnown reports whether the facts hold the record's own profile.
func (d *decision) profileKnown() bool {
	return d.Profile.Name != "" && d.Profile.Name == d.Record.Profile
}

// admitted asks whether the device may have a peer at all.
func (d *decision) admitted() bool {
	a := d.Record.Approval
	switch {
	case a.Set():
		return d.rule(RuleApproval, true, a.At, "approved by %s %s at %s", a.By.Kind, a.By.Name, stamp(a.At))
	case !d.profileKnown():
		return d.rule(RuleApproval, false, time.Time{}, "profile %q is not known, so approval is needed", d.Record.Profile)
	case d.Profile.NeedApproval:
		return d.rule(RuleApproval, false, time.Time{}, "waits for approval, as profile %q asks", d.Profile.Name)
	}
	return d.rule(RuleApproval, true, time.Time{}, "profile %q needs no approval", d.Profile.Name)
}

// mayRoute asks every rule but the release itself; all are asked, so that all are told.
func (d *decision) mayRoute() bool {
	ok := true
	if d.Record.Hold.Set() {
		d.decided(RuleHold, "held in quarantine", d.Record.Hold)
		ok = false
	} else {
		d.rule(RuleHold, true, time.Time{}, "not held in quarantine")
	}
	if !d.certificate() {
		ok = false
	}
	if !d.rule(RuleProof, d.Record.Proven, time.Time{}, "%s", map[bool]string{
		true:  "showed that it holds its WireGuard key",
		false: "has not shown that it holds its WireGuard key",
	}[d.Record.Proven]) {
		ok = false
	}
	if !d.pool() {
		ok = false
	}
	if d.Record.Wipe.Set() {
		d.decided(RuleWipe, "told to wipe what enrollment gave", d.Record.Wipe)
		ok = false
	}
	if !d.user() {
		ok = false
	}
	return ok
}

// user asks for the user's session where the pool that the device is released into does
// (G3).
func (d *decision) user() bool {
	p := d.Pools[d.Profile.Pool]
	if !d.profileKnown() || !p.NeedUser {
		return true
	}
	s, owner := d.Record.Session, d.Record.Owner
	end := s.Ends(d.Conduct)
	d.again = soonest(d.Now, d.again, s.At, end)
	switch {
	case s.User == "" || owner == "":
		return d.rule(RuleUser, false, s.At, "pool %q asks for a user session, and nobody is signed in", p.Name)
	case s.User != owner:
		return d.rule(RuleUser, false, s.At, "the session is of %q, and the device of %q", s.User, owner)
	case d.Now.Before(s.At):
		return d.rule(RuleUser, false, s.At, "the session of %s is dated ahead, %s", s.User, stamp(s.At))
	case !d.Now.Before(end):
		return d.rule(RuleUser, false, s.At, "the session of %s ended at %s", s.User, stamp(end))
	}
	d.session = end
	return d.rule(RuleUser, true, s.At, "%s signed in at %s, which stands until %s", s.User, stamp(s.At), stamp(end))
}

func (d *decision) certificate() bool {
	c := d.Record.Certificate
	d.again = soonest(d.Now, d.again, c.NotBefore, c.NotAfter)
	switch {
	case c.NotAfter.IsZero() || c.Serial == "":
		return d.rule(RuleCertificate, false, time.Time{}, "has no certificate")
	case !d.Now.Before(c.NotAfter):
		return d.rule(RuleCertificate, false, c.NotAfter, "certificate %s ran out at %s", c.Serial, stamp(c.NotAfter))
	case d.Now.Before(c.NotBefore):
		return d.rule(RuleCertificate, false, c.NotBefore, "certificate %s is not valid before %s", c.Serial, stamp(c.NotBefore))
	}
	return d.rule(RuleCertificate, true, c.NotAfter, "certificate %s is valid until %s", c.Serial, stamp(c.NotAfter))
}

// pool asks whether there is a full pool to be routed in.
func (d *decision) pool() bool {
	if !d.profileKnown() {
		return d.rule(RuleProfile, false, time.Time{}, "profile %q is not known", d.Record.Profile)
	}
	d.rule(RuleProfile, true, time.Time{}, "profile %q", d.Profile.Name)
	p, ok := d.Pools[d.Profile.Pool]
	switch {
	case !ok || p.Name != d.Profile.Pool:
		return d.rule(RulePool, false, time.Time{}, "pool %q of profile %q does not exist", d.Profile.Pool, d.Profile.Name)
	case p.Quarantine:
		return d.rule(RulePool, false, time.Time{}, "profile %q releases into the quarantine pool", d.Profile.Name)
	case p.Mark == 0:
		return d.rule(RulePool, false, time.Time{}, "pool %q has no mark yet", p.Name)
	case d.Record.Seat > p.LastSeat():
		return d.rule(RulePool, false, time.Time{}, "pool %q has no address for seat %d", p.Name, d.Record.Seat)
	}
	return d.rule(RulePool, true, time.Time{}, "is released into pool %q", p.Name)
}

// released asks the profile and the policy, and until when; never past the certificate.
func (d *decision) released() (bool, time.Time) {
	if d.Policy == nil {
		return d.rule("policy", false, time.Time{}, "there is no policy"), time.Time{}
	}
	j := d.Policy.Judge(d.Facts)
	d.again = soonest(d.Now, d.again, j.Again)
	end := d.Record.Certificate.NotAfter
	released, until := j.Release && !j.Until.IsZero(), j.Until
	if d.profileKnown() && d.Profile.SkipQuarantine {
		d.rule(RuleSkip, j.Clear, time.Time{}, "profile %q skips quarantine while nothing live speaks against the device", d.Profile.Name)
		if j.Clear {
			released, until = true, end
		}
	}
	if !d.quiet {
		d.reasons = append(d.reasons, j.Reasons...)
	}
	d.demanded(j)
	if until.After(end) {
		until = end
	}
	if !d.session.IsZero() && until.After(d.session) {
		until = d.session
	}
	if released && !until.After(d.Now) {
		d.rule(RuleFacts, false, until, "the release is over since %s", stamp(until))
	}
	return released, until
}

// demanded takes in what the policy asks for beyond quarantine.
func (d *decision) demanded(j Judgement) {
	d.failing, d.marks = j.Failing, j.Marks
	if j.Demand != FailBlock && (j.Demand != FailWipe || d.Record.Wipe.Set()) {
		return // nothing, or what is on record already
	}
	d.demand = j.Demand
	if d.quiet {
		return
	}
	by := Reason{Text: "the policy asks for it"}
	name := "unknown rule"
	for _, r := range j.Reasons {
		if rule, ok := d.ruleOf(r); ok && !r.Holds && !r.Fault && rule.OnFailure == j.Demand {
			by, name = r, fmt.Sprintf("%s v%d/%s", r.Set, r.Version, rule.Name)
			break
		}
	}
	d.order = &Decision{By: Actor{Kind: PolicyActor, Name: name}, At: d.Now, Why: by.Text}
	r := Reason{Source: by.Source, At: by.At} // the rule itself has a reason of its own
	switch j.Demand {
	case FailBlock:
		d.reasons = slices.DeleteFunc(d.reasons, func(r Reason) bool { return r.Rule == RuleBlock })
		r.Rule, r.Text = RuleBlock, fmt.Sprintf("blocked by policy %s: %s", name, by.Text)
	case FailWipe:
		r.Rule, r.Text = RuleWipe, fmt.Sprintf("told by policy %s to wipe what enrollment gave: %s", name, by.Text)
	}
	d.reasons = append(d.reasons, r)
}

// ruleOf is the rule of a policy set that a reason is about. Its Rule is the rule's name,
// alone or behind that of its set.
func (f Facts) ruleOf(r Reason) (PolicyRule, bool) {
	name := strings.TrimPrefix(r.Rule, r.Set+"/")
	for _, rule := range f.Sets[r.Set].Rules {
		if r.Set != "" && rule.Name == name {
			return rule, true
		}
	}
	return PolicyRule{}, false
}

// Meet is the placement that both p and q allow: the less free of the two, the earlier
// end, and quarantine where they name different pools. p's reasons stay.
func (p Placement) Meet(q Placement, quarantine string) Placement {
	switch {
	case q.Stage.freedom() < p.Stage.freedom():
		p.Stage, p.Pool, p.Until = q.Stage, quarantine, time.Time{}
	case p.Stage == Routed && q.Stage == Routed && p.Pool != q.Pool:
		p.Stage, p.Pool, p.Until = Quarantined, quarantine, time.Time{}
	case p.Stage == Routed && q.Stage == Routed && q.Until.Before(p.Until):
		p.Until = q.Until
	}
	return p
}

// within reports whether p allows nothing that q does not.
func (p Placement) within(q Placement) bool {
	if p.Stage.freedom() != q.Stage.freedom() {
		return p.Stage.freedom() < q.Stage.freedom()
	}
	return p.Stage != Routed || p.Pool == q.Pool && !p.Until.After(q.Until)
}

// same reports whether p and q stand for the same stage, pool and end, and nothing else is
// demanded.
func (p Placement) same(q Placement) bool {
	return p.Stage == q.Stage && p.Pool == q.Pool && p.Until.Equal(q.Until) && p.Demand == q.Demand
}
