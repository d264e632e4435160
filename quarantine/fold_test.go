package quarantine_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

func reportChange(source string, v quarantine.Verdict, at time.Time, sequence uint64) quarantine.Change {
	return quarantine.Change{Kind: quarantine.Reported, Device: "d1", By: token, At: noon,
		Report: &quarantine.Report{Device: "d1", Source: source, Verdict: v, At: at, Sequence: sequence, Validity: time.Hour, Received: noon}}
}

func TestWith(t *testing.T) {
	base := enrolled(1, "staff", noon)
	base.Reports = map[string]quarantine.Report{"mdm": *reportChange("mdm", quarantine.Compliant, noon, 5).Report}
	revoked := base
	revoked.Revocation = quarantine.Decision{By: admin, At: noon}
	blocked := base
	blocked.Block = quarantine.Decision{By: admin, At: noon}
	moving := base
	moving.Next = keyOf(9)
	person := quarantine.Decision{By: admin, At: noon, Why: "why"}
	of := func(kind quarantine.Kind) quarantine.Change {
		return quarantine.Change{Kind: kind, Device: "d1", By: admin, At: noon, Why: "why"}
	}
	with := func(c quarantine.Change, f func(*quarantine.Change)) quarantine.Change { f(&c); return c }
	key := func(c quarantine.Change, n int) quarantine.Change { c.Key = keyOf(n); return c }
	certificate := quarantine.Certificate{Serial: "ff", NotBefore: noon, NotAfter: noon.Add(time.Hour)}
	renew := with(of(quarantine.Renew), func(c *quarantine.Change) { c.Certificate, c.Next = &certificate, keyOf(8).String() })
	for _, c := range []struct {
		name   string
		from   quarantine.Record
		change quarantine.Change
		want   func(*quarantine.Record)
		err    error
	}{
		{"newer report", base, reportChange("mdm", quarantine.NonCompliant, noon.Add(time.Second), 0), nil, nil},
		{"same time, higher sequence", base, reportChange("mdm", quarantine.Compliant, noon, 6), nil, nil},
		{"same time, lower sequence", base, reportChange("mdm", quarantine.NonCompliant, noon, 4), nil, quarantine.ErrStale},
		{"older, higher sequence", base, reportChange("mdm", quarantine.NonCompliant, noon.Add(-1), 9), nil, quarantine.ErrStale},
		{"same moment, worse", base, reportChange("mdm", quarantine.NonCompliant, noon, 5), nil, nil},
		{"same moment, the same", base, reportChange("mdm", quarantine.Compliant, noon, 5), nil, quarantine.ErrStale},
		{"another source, older", base, reportChange("scan", quarantine.Compliant, noon.Add(-time.Hour), 0), nil, nil},
		{"two minutes ahead", base, reportChange("mdm", quarantine.Compliant, noon.Add(2*time.Minute), 0), nil, nil},
		{"more than two minutes ahead", base, reportChange("mdm", quarantine.NonCompliant, noon.Add(2*time.Minute+1), 0), nil, quarantine.ErrFuture},
		{"no report", base, of(quarantine.Reported), nil, quarantine.ErrMalformed},
		{"report on another", base, with(reportChange("mdm", "", noon.Add(1), 0), func(c *quarantine.Change) { c.Report.Device = "d2" }), nil, quarantine.ErrMalformed},
		{"report of nobody", base, reportChange("", "", noon.Add(1), 0), nil, quarantine.ErrMalformed},
		{"report of no time", base, reportChange("mdm", "", time.Time{}, 0), nil, quarantine.ErrMalformed},
		{"report of a strange verdict", base, reportChange("mdm", "fine", noon.Add(1), 0), nil, quarantine.ErrMalformed},
		{"report of negative validity", base, with(reportChange("mdm", "", noon.Add(1), 0), func(c *quarantine.Change) { c.Report.Validity = -1 }), nil, quarantine.ErrMalformed},
		{"report on a revoked device", revoked, reportChange("mdm", quarantine.NonCompliant, noon.Add(1), 0), nil, quarantine.ErrFinal},
		{"approve", with2(base, func(r *quarantine.Record) { r.Hold = person }), of(quarantine.Approve), func(r *quarantine.Record) { r.Approval, r.Hold = person, quarantine.Decision{} }, nil},
		{"hold", base, of(quarantine.Hold), func(r *quarantine.Record) { r.Hold = person }, nil},
		{"block", base, of(quarantine.Block), func(r *quarantine.Record) { r.Block = person }, nil},
		{"unblock", blocked, of(quarantine.Unblock), func(r *quarantine.Record) { r.Block, r.Unblocking = quarantine.Decision{}, person }, nil},
		{"unblock one that is not blocked", base, of(quarantine.Unblock), func(*quarantine.Record) {}, nil},
		{"revoke", base, of(quarantine.Revoke), func(r *quarantine.Record) { r.Revocation = person }, nil},
		{"revoke again", revoked, of(quarantine.Revoke), nil, quarantine.ErrFinal},
		{"unblock a revoked one", revoked, of(quarantine.Unblock), nil, quarantine.ErrFinal},
		{"renew a revoked one", revoked, renew, nil, quarantine.ErrFinal},
		{"prove", with2(base, func(r *quarantine.Record) { r.Proven = false }), key(of(quarantine.Prove), 1), func(r *quarantine.Record) { r.Proven = true }, nil},
		{"prove no key", base, of(quarantine.Prove), nil, quarantine.ErrMalformed},
		{"prove another key", base, key(of(quarantine.Prove), 9), nil, quarantine.ErrConflict},
		{"prove the next key", moving, key(of(quarantine.Prove), 9), nil, quarantine.ErrConflict},
		{"confirm", base, of(quarantine.Confirm), func(r *quarantine.Record) { r.Confirmed = true }, nil},
		{"renew", base, renew, func(r *quarantine.Record) { r.Certificate, r.Next = certificate, keyOf(8) }, nil},
		{"renew without a key", base, with(renew, func(c *quarantine.Change) { c.Next = "" }), func(r *quarantine.Record) { r.Certificate = certificate }, nil},
		{"renew with a bad key", base, with(renew, func(c *quarantine.Change) { c.Next = "AAAA" }), nil, quarantine.ErrMalformed},
		{"renew with a zero key", base, with(renew, func(c *quarantine.Change) { c.Next = tunnel.Key{}.String() }), nil, quarantine.ErrMalformed},
		{"renew without a certificate", base, with(renew, func(c *quarantine.Change) { c.Certificate = nil }), nil, quarantine.ErrMalformed},
		{"renew a blocked one", blocked, renew, nil, quarantine.ErrBlocked},
		{"rotate", moving, key(of(quarantine.Rotate), 9), func(r *quarantine.Record) { r.Key, r.Next = keyOf(9), tunnel.Key{} }, nil},
		{"rotate to no key", moving, of(quarantine.Rotate), nil, quarantine.ErrMalformed},
		{"rotate without a next key", base, key(of(quarantine.Rotate), 9), nil, quarantine.ErrConflict},
		{"rotate without either", base, of(quarantine.Rotate), nil, quarantine.ErrMalformed},
		{"rotate to another key", moving, key(of(quarantine.Rotate), 8), nil, quarantine.ErrConflict},
		{"rotate to the current key", moving, key(of(quarantine.Rotate), 1), nil, quarantine.ErrConflict},
		{"lapse", base, of(quarantine.Lapse), func(*quarantine.Record) {}, nil},
		{"counter", base, with(of(quarantine.Hold), func(c *quarantine.Change) { c.Tighten = 4 }), func(r *quarantine.Record) { r.Hold, r.Tighten = person, 4 }, nil},
		{"unknown kind", base, of("promote"), nil, quarantine.ErrMalformed},
		{"no kind", base, of(""), nil, quarantine.ErrMalformed},
		{"another device", base, with(of(quarantine.Hold), func(c *quarantine.Change) { c.Device = "d2" }), nil, quarantine.ErrMalformed},
		{"no time", base, with(of(quarantine.Hold), func(c *quarantine.Change) { c.At = time.Time{} }), nil, quarantine.ErrMalformed},
	} {
		before := c.from
		before.Reports = map[string]quarantine.Report{"mdm": c.from.Reports["mdm"]}
		got, err := c.from.With(c.change)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if diff := cmp.Diff(before, c.from); diff != "" {
			t.Errorf("%s: it changed what it was made from:\n%s", c.name, diff)
		}
		if err != nil {
			continue
		}
		want := c.from
		if c.change.Report != nil {
			want.Reports = map[string]quarantine.Report{"mdm": before.Reports["mdm"], c.change.Report.Source: *c.change.Report}
		} else {
			c.want(&want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func with2(r quarantine.Record, f func(*quarantine.Record)) quarantine.Record { f(&r); return r }

// Reports give the same record in whatever order they arrive.
func TestReportsCommute(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := rapid.Custom(func(t *rapid.T) quarantine.Change {
			c := reportChange(rapid.SampledFrom([]string{"mdm", "scan"}).Draw(t, "source"),
				rapid.SampledFrom([]quarantine.Verdict{quarantine.Compliant, quarantine.NonCompliant, ""}).Draw(t, "verdict"),
				noon.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "at"))), uint64(rapid.IntRange(0, 2).Draw(t, "sequence")))
			c.Report.Validity = time.Duration(rapid.IntRange(0, 2).Draw(t, "hours")) * time.Hour
			return c
		})
		changes := rapid.SliceOfN(one, 1, 6).Draw(t, "reports")
		other := rapid.Permutation(changes).Draw(t, "other order")
		fold := func(all []quarantine.Change) quarantine.Record {
			r := enrolled(1, "staff", noon)
			for _, c := range all {
				next, err := r.With(c)
				if err == nil {
					r = next
				} else if !errors.Is(err, quarantine.ErrStale) {
					t.Fatal(err)
				}
			}
			for source, report := range r.Reports {
				if report.Validity == 0 {
					report.Validity = quarantine.DefaultValidity // means the same
					r.Reports[source] = report
				}
			}
			return r
		}
		if diff := cmp.Diff(fold(changes), fold(other)); diff != "" {
			t.Fatal(diff)
		}
	})
}
