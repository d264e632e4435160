package ssf

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// validity is how long a report would be good for: longer than any source's MaxValidity,
// which is what counts.
const validity = 10 * 365 * 24 * time.Hour

// act lets one event take effect.
func (r *Receiver) act(ctx context.Context, st *stream, by quarantine.Actor, a act) error {
	switch a.kind {
	case compliance:
		return r.comply(ctx, st, by, a)
	case credential:
		return r.revoked(ctx, st, by, a)
	case signOut:
		return r.signOut(ctx, st, by, a)
	case word:
		return r.account(ctx, st, by, a)
	case verified:
		st.state.verified(a.event, r.cfg.Now())
	case updated:
		r.updated(st, a)
	case noted:
		r.note(st, a, "moves nobody")
	default:
		st.state.count(func(c *Counts) { c.Unknown++ })
		r.cfg.Log.Info("an event of a type that is not known here", "stream", st.name, "type", printable(a.event.Type))
	}
	return nil
}

// note tells that an event moves nobody, and why.
func (r *Receiver) note(st *stream, a act, why string) {
	st.state.count(func(c *Counts) { c.Noted++ })
	subject := ""
	if a.subject != nil {
		subject = a.subject.String()
	}
	r.cfg.Log.Info("an event "+why, "stream", st.name, "type", a.event.Type, "subject", printable(subject))
}

// comply takes a verdict on a device. What releases must name one device, and one only; what
// tightens may concern several, or all of a user where it names no device.
func (r *Receiver) comply(ctx context.Context, st *stream, by quarantine.Actor, a act) error {
	found, named := r.devices(st, *a.subject)
	if a.verdict != quarantine.Compliant && (!named || len(found) == 0 && a.subject.Format != set.FormatComplex) {
		found = r.ownedBy(owners(st.settings, *a.subject)) // a simple subject that is no device of ours may be a user
	}
	switch {
	case len(found) == 0:
		r.note(st, a, "is about no device of ours")
		return nil
	case len(found) > 1 && a.verdict == quarantine.Compliant:
		r.note(st, a, fmt.Sprintf("releases nobody: %d devices are called so", len(found)))
		return nil
	}
	text := a.why
	if a.verdict != quarantine.Compliant {
		text = detail(deviceStart, a.why)
	}
	if a.verdict == quarantine.Compliant {
		// The account's state comes first: a sound device of a disabled account stays out.
		w, err := r.standing(ctx, st, found[0].Owner)
		if err != nil {
			return err
		}
		if w != nil {
			a.verdict, text = quarantine.NonCompliant, w.text()
		}
	}
	return r.report(ctx, st, by, a, found, a.verdict, text)
}

// revoked takes that a certificate was revoked or deleted.
func (r *Receiver) revoked(ctx context.Context, st *stream, by quarantine.Actor, a act) error {
	found, named := r.devices(st, *a.subject)
	if !named || len(found) == 0 {
		found = nil
		for _, rec := range r.ownedBy(owners(st.settings, *a.subject)) {
			if a.serial == "" || sameSerial(a.serial, rec.Certificate.Serial) {
				found = append(found, rec)
			}
		}
	}
	if len(found) == 0 {
		r.note(st, a, "is about no certificate of ours")
		return nil
	}
	return r.report(ctx, st, by, a, found, quarantine.NonCompliant, detail(deviceStart+", a certificate was revoked", a.why))
}

// sameSerial compares the serial number of a certificate, however it is written, with one
// of ours in hexadecimal.
func sameSerial(theirs, ours string) bool {
	plain := func(s string) string {
		return strings.TrimLeft(strings.ToLower(strings.NewReplacer(":", "", " ", "", "-", "").Replace(s)), "0")
	}
	a, b := plain(strings.TrimPrefix(strings.ToLower(theirs), "0x")), plain(ours)
	return a == b || decimal(b) == theirs
}

// report hands one verdict on several devices to the gate.
func (r *Receiver) report(ctx context.Context, st *stream, by quarantine.Actor, a act, on []quarantine.Record, v quarantine.Verdict, detail string) error {
	if len(on) == 0 {
		return nil
	}
	reports := make([]quarantine.Report, len(on))
	for i, rec := range on {
		reports[i] = quarantine.Report{Device: rec.ID, Source: st.name, Verdict: v, At: a.at, Sequence: a.sequence, Validity: validity, Detail: detail}
	}
	var errs []error
	forbidden := 0
	for i, result := range r.cfg.Gate.Reports(ctx, by, reports) {
		if outOfScope(result.Err) {
			forbidden++
			r.refused(ctx, st, by, on[i].ID, "report: "+result.Err.Error())
			continue
		}
		errs = append(errs, r.settled(st, on[i].ID, result.Err))
	}
	if forbidden == len(on) {
		return set.Refuse(set.AccessDenied, "this stream may not speak for that device")
	}
	return worst(errs...)
}

// worst is the error that counts of several: one that is to be tried again comes before a
// refusal, which is for good.
func worst(errs ...error) error {
	var refusal error
	for _, err := range errs {
		if _, ok := errors.AsType[*set.Error](err); ok {
			refusal = cmp.Or(refusal, err)
		} else if err != nil {
			return err
		}
	}
	return refusal
}

// outOfScope says whether the gate refuses for good. A stream that the gate knows nothing of
// was just made, or is just taken away: its word is to come again, since a bad one that is
// refused for good would be lost.
func outOfScope(err error) bool {
	return errors.Is(err, quarantine.ErrForbidden) && !errors.Is(err, quarantine.ErrUnknownSource)
}

// settled sorts what the gate said of one fact: nil where there is nothing to repeat.
func (r *Receiver) settled(st *stream, id quarantine.ID, err error) error {
	switch {
	case err == nil, errors.Is(err, quarantine.ErrNotEnforced): // recorded; the gate goes on by itself
		st.state.count(func(c *Counts) { c.Moved++ })
		return nil
	case errors.Is(err, quarantine.ErrStale):
		st.state.count(func(c *Counts) { c.Late++ })
		return nil
	case errors.Is(err, quarantine.ErrFinal), errors.Is(err, quarantine.ErrUnknownDevice):
		r.cfg.Log.Info("a device is gone", "stream", st.name, "device", id, "why", err)
		return nil
	case errors.Is(err, quarantine.ErrFuture), errors.Is(err, quarantine.ErrMalformed):
		return set.Refuse(set.InvalidRequest, "the event cannot be taken: it is dated ahead, or malformed")
	}
	return err
}

// slack is how much a session may be younger than the event that ends it: transmitters give
// whole seconds.
const slack = time.Second

// signOut ends sessions that began before the event: of a device where it names one of
// ours, else of all devices of the user. Where nobody is signed in it still counts: an
// earlier authentication does not open a session any more.
func (r *Receiver) signOut(ctx context.Context, st *stream, by quarantine.Actor, a act) error {
	found, _ := r.devices(st, *a.subject)
	if len(found) == 0 {
		found = r.ownedBy(owners(st.settings, *a.subject))
	}
	if len(found) == 0 {
		r.note(st, a, "is about no device or user of ours")
		return nil
	}
	return r.endSessions(ctx, st, by, a, found)
}

func (r *Receiver) endSessions(ctx context.Context, st *stream, by quarantine.Actor, a act, on []quarantine.Record) error {
	var errs []error
	forbidden := 0
	for _, rec := range on {
		if rec.Session.At.After(a.at.Add(slack)) {
			continue // it began, or was ended, after the event
		}
		_, err := r.cfg.Gate.Change(ctx, by, quarantine.Change{Kind: quarantine.SignOut, Device: rec.ID, Why: sessionEnd(a)})
		if outOfScope(err) {
			forbidden++
			r.refused(ctx, st, by, rec.ID, "sign-out: "+err.Error())
			continue
		}
		errs = append(errs, r.settled(st, rec.ID, err))
	}
	if forbidden == len(on) {
		return set.Refuse(set.AccessDenied, "this stream may not speak for that device")
	}
	return worst(errs...)
}

func sessionEnd(a act) string {
	why := a.event.Type[strings.LastIndex(a.event.Type, "/")+1:]
	if a.why != "" {
		why += ": " + a.why
	}
	return why
}
