package console

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

const (
	listedMoves = 100
	mostMoves   = 10_000
)

// tryPolicy answers who would move under other policy sets. It reads, and moves nobody.
func (s *Server) tryPolicy(w http.ResponseWriter, r *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	var q api.PolicyTry
	if err := read(r, &q); err != nil {
		return err
	}
	kept, err := p.Sets.List(r.Context())
	if err != nil {
		return err
	}
	sets := values(kept)
	if err := p.supposed(sets, q); err != nil {
		return err
	}
	conduct, err := p.Conducts.Conduct(r.Context())
	if err != nil {
		return err
	}
	if q.Strict != nil {
		conduct.Value.Strict = *q.Strict
	}
	if q.Limit < 0 || q.Limit > mostMoves {
		return bad(fmt.Sprintf("ask for %d at most", mostMoves), "limit is %d", q.Limit)
	}
	out := summary(p.Try(sets, conduct.Value), cmp.Or(q.Limit, listedMoves))
	for stage, n := range s.cfg.Gate.Counts() {
		if stage != quarantine.Revoked {
			out.Devices += n
		}
	}
	reply(w, http.StatusOK, out)
	return nil
}

// supposed makes sets what the request supposes.
func (p Policies) supposed(sets map[string]quarantine.PolicySet, q api.PolicyTry) error {
	set := quarantine.PolicySet{}
	switch {
	case q.TOML != "" && q.Policy != "":
		return bad("send the one or the other", "the request brings a set and names another")
	case q.TOML != "":
		var faults []api.PolicyFault
		if set, _, faults = p.Rulebook.Parse(q.TOML); len(faults) > 0 {
			return refused(faults)
		}
		if err := checkName("policy set", set.Name, ""); err != nil {
			return err
		}
		set.Version = sets[set.Name].Version
	case q.Policy != "":
		have, ok := sets[q.Policy]
		if !ok {
			return fmt.Errorf("policy set %q: %w", q.Policy, ErrNotFound)
		}
		set = have
	case q.Strict == nil:
		return bad("send a set as \"toml\", or name one as \"policy\"", "the request supposes nothing")
	default:
		return nil
	}
	set.Assigned = !q.Without
	sets[set.Name] = set
	return nil
}

// summary counts trials, and lists the devices that would move.
func summary(trials []quarantine.Trial, limit int) api.PolicyTried {
	out := api.PolicyTried{Listed: []api.PolicyMove{}, Counts: []api.PolicyCount{}, Rules: []api.PolicyFails{}}
	counts, fails := map[api.PolicyCount]int{}, map[string]int{}
	for _, t := range trials {
		for _, ref := range t.Then.Failing {
			if !slices.Contains(t.Now.Failing, ref) {
				fails[ref]++
			}
		}
		if t.Now.Stage == t.Then.Stage && t.Now.Pool == t.Then.Pool && t.Now.Demand == t.Then.Demand {
			continue
		}
		out.Moves++
		m := move(t)
		counts[api.PolicyCount{From: m.From, To: m.To, Rule: m.Rule}]++
		if len(out.Listed) < limit {
			out.Listed = append(out.Listed, m)
		}
	}
	for c, n := range counts {
		c.Devices = n
		out.Counts = append(out.Counts, c)
	}
	slices.SortFunc(out.Counts, func(a, b api.PolicyCount) int {
		return cmp.Or(cmp.Compare(b.Devices, a.Devices), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Rule, b.Rule))
	})
	for ref, n := range fails {
		out.Rules = append(out.Rules, api.PolicyFails{Rule: ref, Devices: n})
	}
	slices.SortFunc(out.Rules, func(a, b api.PolicyFails) int {
		return cmp.Or(cmp.Compare(b.Devices, a.Devices), cmp.Compare(a.Rule, b.Rule))
	})
	return out
}

// move is one device that would move, with the rule that decides.
func move(t quarantine.Trial) api.PolicyMove {
	m := api.PolicyMove{Device: string(t.Record.ID), Name: t.Record.Name, Owner: t.Record.Owner, From: string(t.Now.Stage), To: string(t.Then.Stage)}
	if t.Then.Demand != t.Now.Demand {
		m.Order = string(t.Then.Demand)
	}
	if len(t.Then.Reasons) > 0 {
		why := t.Then.Reasons[0]
		if i := slices.IndexFunc(t.Then.Reasons, func(r quarantine.Reason) bool { return r.Set != "" && !r.Holds }); m.Order != "" && i >= 0 {
			why = t.Then.Reasons[i] // the rule that orders it, rather than the order
		}
		m.Rule, m.Text = why.Rule, why.Text
		if why.Set != "" && why.Rule != "" {
			m.Rule = quarantine.RuleRef(why.Set, why.Rule)
		}
	}
	return m
}

func (s *Server) showConduct(w http.ResponseWriter, r *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	it, err := p.Conducts.Conduct(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, showConductItem(it))
	return nil
}

func (s *Server) putConduct(w http.ResponseWriter, r *http.Request, who identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	var q api.Conduct
	if err := read(r, &q); err != nil {
		return err
	}
	c := quarantine.Conduct{Strict: q.Strict, OnInactive: quarantine.FailureAction(q.OnInactive)}
	alert, e1 := span("alert_after", q.AlertAfter)
	act, e2 := span("act_after", q.ActAfter)
	session, e3 := span("session_life", q.SessionLife)
	if err := errors.Join(e1, e2, e3); err != nil {
		return cmp.Or(e1, e2, e3)
	}
	c.AlertAfter, c.ActAfter, c.SessionLife = alert, act, session
	if err := c.Check(); err != nil {
		return bad("correct it and send it again", "%v", err)
	}
	if cmp.Or(c.OnInactive, quarantine.FailWipe) == quarantine.FailWipe && !who.can(WipeDevices) {
		return fmt.Errorf("granting %s: %w", WipeDevices, errDenied)
	}
	it, err := p.Conducts.PutConduct(r.Context(), who.actor, Item[quarantine.Conduct]{Value: c, Revision: q.Revision})
	if err != nil {
		return fmt.Errorf("saving the conduct: %w", err)
	}
	reply(w, http.StatusOK, showConductItem(it))
	return nil
}

// showConductItem tells what holds: defaults as what they are.
func showConductItem(it Item[quarantine.Conduct]) api.Conduct {
	c := it.Value
	return api.Conduct{
		Strict: c.Strict, AlertAfter: formatSpan(cmp.Or(c.AlertAfter, quarantine.DefaultAlertAfter)), ActAfter: formatSpan(cmp.Or(c.ActAfter, quarantine.DefaultActAfter)),
		OnInactive: string(cmp.Or(c.OnInactive, quarantine.FailWipe)), SessionLife: formatSpan(c.Session()), Revision: it.Revision,
	}
}
