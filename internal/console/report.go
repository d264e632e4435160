package console

import (
	"cmp"
	"net/http"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// report takes a management server's word. A token speaks as the source it was made for
// and as no other (D4); an administrator names the source.
func (s *Server) report(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.ReportRequest
	if err := read(r, &q); err != nil {
		return err
	}
	source := cmp.Or(q.Source, who.source)
	if source == "" {
		return bad("name the source in \"source\"", "this credential speaks for no source of its own")
	}
	if (who.source != "" && source != who.source) || source == quarantine.AgentSource {
		return quarantine.ErrForbidden
	}
	verdict := quarantine.Verdict(q.Verdict)
	if verdict != quarantine.Compliant && verdict != quarantine.NonCompliant {
		return bad("send \"compliant\" or \"noncompliant\"", "verdict is %q", q.Verdict)
	}
	validity, err := duration("validity", q.Validity)
	if err != nil {
		return err
	}
	if err := boundFacts(q.Facts, q.Detail); err != nil {
		return err
	}
	d, err := s.find(q.Device)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	at := q.At
	if at.IsZero() {
		at = now
	}
	return s.change(w, r, who, quarantine.Change{
		Kind: quarantine.Reported, Device: d.ID, By: who.actor, At: now,
		Report: &quarantine.Report{
			Device: d.ID, Source: source, Verdict: verdict, At: at, Sequence: q.Sequence,
			Validity: validity, Received: now, Facts: q.Facts, Detail: q.Detail,
		},
	})
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
