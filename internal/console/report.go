package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// report takes a management server's word.
func (s *Server) report(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.ReportRequest
	if err := read(r, &q); err != nil {
		return err
	}
	report, err := s.readReport(r.Context(), who, q)
	if err == nil {
		err = s.change(w, r, who, quarantine.Change{
			Kind: quarantine.Reported, Device: report.Device, By: who.actor, At: report.Received, Report: &report,
		})
	}
	if errors.Is(err, quarantine.ErrForbidden) {
		s.refused(r.Context(), who, s.named(q.Device), err.Error())
	}
	return err
}

// named is the id of a device that a report names, or empty.
func (s *Server) named(ref string) quarantine.ID {
	d, err := s.find(ref)
	if err != nil {
		return ""
	}
	return d.ID
}

// maxReports is how many reports one request may bring.
const maxReports = 10000

// maxRefusals is how many of one request's refusals the audit log names; it counts the rest.
const maxRefusals = 20

// refused has the audit log tell of a report that the source may not make, as often as its
// actor's budget lasts.
func (s *Server) refused(ctx context.Context, who identity, device quarantine.ID, why string) {
	if s.cfg.Refused == nil {
		return
	}
	ok, left := s.refusals.entry(who.actor.Kind+" "+who.actor.Name, s.cfg.Now())
	if !ok {
		return
	}
	if left > 0 {
		why += fmt.Sprintf(" (%d refusals before it are not in this log: there were too many)", left)
	}
	if err := s.cfg.Refused.Refused(ctx, who.actor, device, why); err != nil {
		s.cfg.Log.Error("a refused report is not in the audit log", "actor", who.actor.Name, "device", device, "why", why, "err", err)
	}
}

// refusalsEach is how many refused reports of one actor the audit log names in a minute; the
// rest is counted, so that no credential fills the log.
const refusalsEach = 60

// refusalBudgets are those of all actors. Each is known by its credential, so they are few.
type refusalBudgets struct {
	mu sync.Mutex
	by map[string]*refusalBudget
}

type refusalBudget struct {
	since       time.Time
	named, left int
}

// entry says whether one more refusal may be named, and how many were not before it.
func (b *refusalBudgets) entry(actor string, now time.Time) (ok bool, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]*refusalBudget{}
	}
	of := b.by[actor]
	if of == nil {
		of = &refusalBudget{since: now}
		b.by[actor] = of
	}
	if passed := now.Sub(of.since); passed < 0 || passed >= time.Minute {
		of.since, of.named = now, 0
	}
	if of.named == refusalsEach {
		of.left++
		return false, 0
	}
	of.named++
	left, of.left = of.left, 0
	return true, left
}

// reports takes a management server's word on many devices, as after an outage of it. The
// answer has one line for each report, in their order: one that is refused stops no other. Each is judged as it is read, so
// that what a request takes in memory is bounded by what reports may hold, not by what its
// body can be made to unfold to.
func (s *Server) reports(w http.ResponseWriter, r *http.Request, who identity) error {
	out := []api.Reported{}
	var good []quarantine.Report
	var at []int // of good, in out
	var refusals []refusal
	err := readEach(r, func(q api.ReportRequest) error {
		if len(out) == maxReports {
			return bad("send them in several requests", "more than %d reports at once", maxReports)
		}
		report, err := s.readReport(r.Context(), who, q)
		if errors.Is(err, quarantine.ErrForbidden) {
			refusals = append(refusals, refusal{s.named(q.Device), err.Error()})
		}
		if err != nil {
			out = append(out, api.Reported{Device: q.Device, Problem: s.problem(r, err)})
			return nil
		}
		good, at = append(good, report), append(at, len(out))
		out = append(out, api.Reported{})
		return nil
	})
	if err != nil {
		return err
	}
	for i, result := range s.cfg.Gate.Reports(r.Context(), who.actor, good) {
		out[at[i]] = s.reported(r, who, good[i].Device, result)
		if errors.Is(result.Err, quarantine.ErrForbidden) {
			refusals = append(refusals, refusal{good[i].Device, result.Err.Error()})
		}
	}
	for i, n := range refusals {
		if i == maxRefusals {
			s.refused(r.Context(), who, "", fmt.Sprintf("%d more reports of the same request", len(refusals)-i))
			break
		}
		s.refused(r.Context(), who, n.device, n.why)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// refusal is a report that the source may not make.
type refusal struct {
	device quarantine.ID
	why    string
}

// reported is one report's line of the answer.
func (s *Server) reported(r *http.Request, who identity, id quarantine.ID, result quarantine.Result) api.Reported {
	p, err := result.Placement, result.Err
	if err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
		return api.Reported{Device: string(id), Problem: s.problem(r, err)}
	}
	if !who.can(ReadDevices) {
		p.Reasons = nil // as in change
	}
	d := showPlacement(p)
	return api.Reported{Device: string(id), Decision: &d, Enforced: err == nil}
}

// readReport checks one report. A token speaks as the source it was made for and as no
// other (D4); an administrator names the source.
func (s *Server) readReport(ctx context.Context, who identity, q api.ReportRequest) (quarantine.Report, error) {
	none := quarantine.Report{}
	source := cmp.Or(q.Source, who.source)
	if source == "" {
		return none, bad("name the source in \"source\"", "this credential speaks for no source of its own")
	}
	if (who.source != "" && source != who.source) || source == quarantine.AgentSource {
		return none, quarantine.ErrForbidden
	}
	verdict := quarantine.Verdict(q.Verdict)
	if verdict != quarantine.Compliant && verdict != quarantine.NonCompliant {
		return none, bad("send \"compliant\" or \"noncompliant\"", "verdict is %.40q", q.Verdict)
	}
	validity, err := duration("validity", q.Validity)
	if err != nil {
		return none, err
	}
	if err := boundFacts(q.Facts, q.Detail); err != nil {
		return none, err
	}
	d, err := s.findFor(ctx, who, q.Device)
	if err != nil {
		return none, err
	}
	now := s.cfg.Now()
	at := q.At
	if at.IsZero() {
		at = now
	}
	return quarantine.Report{
		Device: d.ID, Source: source, Verdict: verdict, At: at, Sequence: q.Sequence,
		Validity: validity, Received: now, Facts: q.Facts, Detail: q.Detail,
	}, nil
}

// boundFacts keeps a report small enough to live in a device's record.
func boundFacts(facts map[string]string, detail string) error {
	if len(facts) > 64 || len(detail) > 1024 {
		return bad("send at most 64 facts and a detail of 1024 bytes", "the report is too large")
	}
	for k, v := range facts {
		if len(k) > 64 || len(v) > 256 {
			return bad("names of at most 64 bytes, values of at most 256", "fact %.64q is too large", k)
		}
	}
	return nil
}
