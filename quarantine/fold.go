package quarantine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lazaret/quarantine/tunnel"
)

// MaxAhead is how far a report may be dated ahead of its arrival.
const MaxAhead = 2 * time.Minute

// With returns the record with one more fact in it; r itself stays as it is. Errors:
// ErrFinal for a revoked device, ErrStale and ErrFuture for reports, ErrBlocked for a
// renewal of a blocked device, ErrConflict for a proof or rotation of a key that is not, or
// no longer, the record's, ErrNotOwner for the session of another user, ErrMalformed for a
// change that makes no sense.
func (r Record) With(c Change) (Record, error) {
	if err := r.accepts(c); err != nil {
		return Record{}, err
	}
	if err := r.fold(c); err != nil {
		return Record{}, err
	}
	if c.byItself() && c.At.After(r.Seen) {
		r.Seen = c.At
	}
	r.Tighten = max(r.Tighten, c.Tighten)
	return r, nil
}

// fold puts the fact in.
func (r *Record) fold(c Change) error {
	decision := Decision{By: c.By, At: c.At, Why: c.Why}
	switch c.Kind {
	case Reported:
		return r.report(c)
	case Approve:
		r.Approval, r.Hold = decision, Decision{}
	case Hold:
		r.Hold = decision
	case Block:
		r.Block = decision
	case Unblock:
		if r.Block.Set() {
			r.overrule(r.Block, decision, c.Digest)
			r.Block, r.Unblocking = Decision{}, decision
		}
	case Revoke:
		r.Revocation = decision
	case Prove:
		if err := c.uses(r.Key); err != nil {
			return err
		}
		r.Proven = true
	case Confirm:
		r.Confirmed = true
	case Renew:
		return r.renew(c)
	case Rotate:
		if err := c.uses(r.Next); err != nil {
			return err
		}
		r.Key, r.Next = r.Next, tunnel.Key{}
	case Clear:
		return r.clear(c)
	case Regroup:
		return r.regroup(c)
	case SignIn:
		return r.signIn(c)
	case SignOut:
		r.signOut(c)
	case Wipe:
		r.Wipe = decision
	case Unwipe:
		if r.Wipe.Set() {
			r.overrule(r.Wipe, decision, c.Digest)
			r.Wipe, r.Unwiping = Decision{}, decision
		}
	case Contact, Lapse, Review: // no fact but the time
	default:
		return fmt.Errorf("%w: unknown kind %q", ErrMalformed, c.Kind)
	}
	return nil
}

// byItself reports whether the change shows that the device itself was there.
func (c Change) byItself() bool {
	switch c.Kind {
	case Contact:
		return true
	case Reported:
		return c.Report != nil && c.Report.Source == AgentSource
	default:
		return false
	}
}

// uses says whether the change is about the key that it must be about: what was seen of one
// key says nothing of the one that has taken its place.
func (c Change) uses(want tunnel.Key) error {
	switch {
	case c.Key.IsZero():
		return fmt.Errorf("%w: it names no key", ErrMalformed)
	case c.Key != want:
		return fmt.Errorf("%w: key %s is not the one that the device has, or moves to, now", ErrConflict, c.Key)
	}
	return nil
}

func (r Record) accepts(c Change) error {
	switch {
	case c.Device == "" || c.Device != r.ID:
		return fmt.Errorf("%w: it is about device %q, not %q", ErrMalformed, c.Device, r.ID)
	case c.At.IsZero():
		return fmt.Errorf("%w: it has no time", ErrMalformed)
	case r.Revocation.Set() && c.Kind != Lapse && c.Kind != Review:
		return ErrFinal
	}
	return nil
}

// report files a report under its source, in a map of its own.
func (r *Record) report(c Change) error {
	if c.Report == nil {
		return fmt.Errorf("%w: no report in it", ErrMalformed)
	}
	n := *c.Report
	switch {
	case n.Device != r.ID:
		return fmt.Errorf("%w: the report is about device %q", ErrMalformed, n.Device)
	case n.Source == "":
		return fmt.Errorf("%w: the report names no source", ErrMalformed)
	case n.At.IsZero():
		return fmt.Errorf("%w: the report has no time", ErrMalformed)
	case n.Validity < 0:
		return fmt.Errorf("%w: the report is valid for %s", ErrMalformed, n.Validity)
	case n.Verdict != Compliant && n.Verdict != NonCompliant && n.Verdict != "":
		return fmt.Errorf("%w: unknown verdict %q", ErrMalformed, n.Verdict)
	case n.At.After(c.At.Add(MaxAhead)):
		return fmt.Errorf("%w: %s, more than %s after now, %s", ErrFuture, stamp(n.At), MaxAhead, stamp(c.At))
	}
	if last, ok := r.Reports[n.Source]; ok && !n.newer(last) {
		return fmt.Errorf("%w: dated %s, and the last one %s", ErrStale, stamp(n.At), stamp(last.At))
	}
	n.Facts = maps.Clone(n.Facts)
	reports := make(map[string]Report, len(r.Reports)+1)
	maps.Copy(reports, r.Reports)
	reports[n.Source] = n
	r.Reports = reports
	return nil
}

// newer reports whether n supersedes last. Of two reports with the same time and sequence
// the worse one stands, so that the order of their arrival does not matter.
func (n Report) newer(last Report) bool {
	if d := n.At.Compare(last.At); d != 0 {
		return d > 0
	}
	if n.Sequence != last.Sequence {
		return n.Sequence > last.Sequence
	}
	if n.Verdict != last.Verdict {
		return n.Verdict.badness() > last.Verdict.badness()
	}
	longer := cmp.Compare(cmp.Or(n.Validity, DefaultValidity), cmp.Or(last.Validity, DefaultValidity))
	return n.Verdict == Compliant && longer < 0 || n.Verdict != Compliant && longer > 0
}

// badness orders verdicts; an unknown verdict is worse than compliant.
func (v Verdict) badness() int {
	switch v {
	case Compliant:
		return 0
	case NonCompliant:
		return 2
	default:
		return 1
	}
}

func (r *Record) renew(c Change) error {
	if r.Block.Set() {
		return fmt.Errorf("renewing the certificate: %w", ErrBlocked)
	}
	if c.Certificate == nil || c.Certificate.Serial == "" || !c.Certificate.NotAfter.After(c.Certificate.NotBefore) {
		return fmt.Errorf("%w: a renewal needs a certificate with a life", ErrMalformed)
	}
	if c.Next != "" {
		next, err := tunnel.ParseKey(c.Next)
		if err != nil {
			return fmt.Errorf("%w: next key: %w", ErrMalformed, err)
		}
		if next.IsZero() {
			return fmt.Errorf("%w: the next key is all zeros", ErrMalformed)
		}
		if next != r.Key {
			r.Next = next
		}
	}
	r.Certificate = *c.Certificate
	return nil
}

// supersededBy reports whether n makes c idle: a newer report of the same source, taken in
// later. The record comes out the same without c.
func (c Change) supersededBy(n Change) bool {
	return c.Kind == Reported && n.Kind == Reported && c.Report != nil && n.Report != nil &&
		c.Report.Source == n.Report.Source && c.Tighten <= n.Tighten && n.Report.newer(*c.Report)
}

// merged returns pending with c in its place, by tighten counter, and without what is
// superseded: there is one report of each source at most. pending stays as it is.
func merged(pending []Change, c Change) []Change {
	all := make([]Change, 0, len(pending)+1)
	for _, p := range pending {
		switch {
		case c.supersededBy(p):
			return pending
		case !p.supersededBy(c):
			all = append(all, p)
		}
	}
	all = append(all, c)
	slices.SortStableFunc(all, func(a, b Change) int { return cmp.Compare(a.Tighten, b.Tighten) })
	return all
}

// tightens reports whether the change can only take away, whatever else is known: it must
// not wait for the store, and must not be lost.
func (c Change) tightens() bool {
	switch c.Kind {
	case Hold, Block, Revoke, SignOut, Wipe:
		return true
	case Reported:
		if c.Report == nil || c.Report.Verdict == "" && c.Report.Source == AgentSource {
			return false // a device that does not know of itself is as if it said nothing
		}
		return c.Report.Verdict != Compliant
	default:
		return false
	}
}

// tookIn reports whether the record surely holds the journalled tightening c already, as
// after a crash between recording it and striking it off the journal. The counter alone
// does not say so, since another gateway may have counted the same.
func (r Record) tookIn(c Change) bool {
	if r.Tighten < c.Tighten {
		return false
	}
	switch c.Kind {
	case Reported:
		if c.Report == nil {
			return false
		}
		last, ok := r.Reports[c.Report.Source]
		return ok && !c.Report.newer(last)
	case Hold:
		return r.Hold.Set() || !r.Approval.At.Before(c.At)
	case Block:
		return r.Block.Set() || r.Unblocking.At.After(c.At)
	case Revoke:
		return r.Revocation.Set()
	case Wipe:
		return r.Wipe.Set() || r.Unwiping.At.After(c.At)
	case SignOut:
		return !r.Session.At.Before(c.At)
	default:
		return true // nothing but time
	}
}

// replay folds journalled tightenings in; forKeyOf says what a release is worth. One that was overtaken (a newer report of the
// source, a revocation) still counts.
func (r Record) replay(pending []Change) Record {
	for _, c := range pending {
		if r.tookIn(c) {
			continue
		}
		next, err := r.With(c.forKeyOf(r))
		if err == nil {
			r = next
			continue
		}
		r.Tighten = max(r.Tighten, c.Tighten)
		if !errors.Is(err, ErrStale) && !errors.Is(err, ErrFinal) && !r.Hold.Set() {
			// It was accepted once and cannot be understood now: no.
			r.Hold = Decision{By: c.By, At: c.At, Why: "a journalled change cannot be read: " + err.Error()}
		}
	}
	return r
}

// Settle returns the record standing where p says, with the policy's order in it, if it gives
// one, and since when each rule fails. It is the only thing that sets Stage, Pool, Since,
// Reason, Until, Reasons, Failing and Marks, and it takes nobody out of Revoked. Waivers that are
// over go.
func (r Record) Settle(p Placement, now time.Time) Record {
	if r.Revocation.Set() && p.Stage != Revoked {
		p = Placement{Stage: Revoked, Pool: p.Pool, Reasons: p.Reasons}
	}
	if r.Stage != p.Stage || r.Pool != p.Pool || r.Since.IsZero() {
		r.Since = now
	}
	r.Stage, r.Pool, r.Until = p.Stage, p.Pool, p.Until
	r.Reasons = slices.Clone(p.Reasons)
	r.Reason = ""
	if len(p.Reasons) > 0 {
		r.Reason = p.Reasons[0].Text
	}
	switch {
	case p.Demand == FailBlock && !r.Block.Set():
		r.Block = p.ordered(now)
	case p.Demand == FailWipe && !r.Wipe.Set():
		r.Wipe = p.ordered(now)
	}
	r.Failing = failingSince(r.Failing, p.Failing, now)
	r.Marks = p.Marks
	r.dropWaivers(now)
	return r
}

// standing is the placement the record was settled at.
func (r Record) standing() Placement {
	return Placement{Stage: r.Stage, Pool: r.Pool, Until: r.Until, Reasons: r.Reasons}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
