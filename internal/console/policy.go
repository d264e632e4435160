package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Rulebook knows the language of policy sets.
type Rulebook interface {
	// Parse reads a set's text form. assigned is whether the text says that it is; nil: it does
	// not say.
	Parse(text string) (set quarantine.PolicySet, assigned *bool, faults []api.PolicyFault)
	// Check returns all that is wrong with a set.
	Check(set quarantine.PolicySet) []api.PolicyFault
	// Text is a set's text form.
	Text(set quarantine.PolicySet) string
	// Asks are the facts that an expression can look at.
	Asks(expression string) []string
	// Facts are all that there are.
	Facts() []api.Fact
}

// Conducts keeps the organization's conduct; *store.Store is one.
type Conducts interface {
	Conduct(ctx context.Context) (Item[quarantine.Conduct], error)
	PutConduct(ctx context.Context, by quarantine.Actor, it Item[quarantine.Conduct]) (Item[quarantine.Conduct], error)
}

// Policies is what the routes of policy sets need.
type Policies struct {
	Sets     Table[quarantine.PolicySet]
	Conducts Conducts
	Rulebook Rulebook
	// Try judges all devices by other sets without effect; *quarantine.Gate's.
	Try func(sets map[string]quarantine.PolicySet, conduct quarantine.Conduct) []quarantine.Trial
}

// policyRoutes are about policy sets and conduct.
func (s *Server) policyRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/policies", ReadOrganization, (*Server).listPolicies, "Policy sets.", nil, []api.Policy{}, ok},
		{"GET /api/v1/policies/{name}", ReadOrganization, (*Server).showPolicy, "One policy set, with its text form.", nil, api.Policy{}, ok},
		{"PUT /api/v1/policies/{name}", WriteOrganization, (*Server).putPolicy, "Create a policy set (revision 0) or change it; it is checked before.", api.Policy{}, api.Policy{}, ok},
		{"DELETE /api/v1/policies/{name}", WriteOrganization, (*Server).deletePolicy, "Delete a policy set; one that is assigned counts no more.", nil, nil, none},
		{"POST /api/v1/policies/check", ReadOrganization, (*Server).checkPolicy, "Say what is wrong with a policy set; it is not kept.", api.Policy{}, api.PolicyChecked{}, ok},
		{"POST /api/v1/policies/try", ReadDevices, (*Server).tryPolicy, "Say which devices would move under a policy set; none does.", api.PolicyTry{}, api.PolicyTried{}, ok},
		{"GET /api/v1/facts", ReadOrganization, (*Server).listFacts, "The facts that rules can speak of.", nil, []api.Fact{}, ok},
		{"GET /api/v1/conduct", ReadOrganization, (*Server).showConduct, "How the organization treats its devices as a whole.", nil, api.Conduct{}, ok},
		{"PUT /api/v1/conduct", WriteOrganization, (*Server).putConduct, "Change how the organization treats its devices as a whole.", api.Conduct{}, api.Conduct{}, ok},
	}
}

// policies are what New was given, or ErrNotFound where this gateway has none.
func (s *Server) policies() (Policies, error) {
	p := s.cfg.Policies
	if p.Sets == nil || p.Conducts == nil || p.Rulebook == nil || p.Try == nil {
		return p, fmt.Errorf("policy sets: %w", ErrNotFound)
	}
	return p, nil
}

func (s *Server) listPolicies(w http.ResponseWriter, r *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	return listed(w, r, p.Sets, p.show)
}

// policyItem finds a set that is kept, or returns ErrNotFound.
func (p Policies) item(ctx context.Context, name string) (Item[quarantine.PolicySet], error) {
	all, err := p.Sets.List(ctx)
	if err != nil {
		return Item[quarantine.PolicySet]{}, err
	}
	i := slices.IndexFunc(all, func(it Item[quarantine.PolicySet]) bool { return it.Name == name })
	if i < 0 {
		return Item[quarantine.PolicySet]{}, fmt.Errorf("policy set %q: %w", name, ErrNotFound)
	}
	return all[i], nil
}

func (s *Server) showPolicy(w http.ResponseWriter, r *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	it, err := p.item(r.Context(), r.PathValue("name"))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, p.show(it))
	return nil
}

func (s *Server) putPolicy(w http.ResponseWriter, r *http.Request, who identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	var q api.Policy
	if err := read(r, &q); err != nil {
		return err
	}
	name := r.PathValue("name")
	set, assigned, faults, err := p.read(q)
	if err != nil {
		return err
	}
	if err := checkName("policy set", name, set.Name); err != nil {
		return err
	}
	if err := refused(faults); err != nil {
		return err
	}
	all, err := p.Sets.List(r.Context())
	if err != nil {
		return err
	}
	have, old := values(all)[name]
	if !old && len(all) >= quarantine.MaxSets {
		return bad("delete one first, or add the rules to another", "there are %d policy sets, and no more can be", len(all))
	}
	if err := mayRule(who, set); err != nil {
		return err
	}
	if assigned == nil {
		set.Assigned = have.Assigned
		if err := refused(p.Rulebook.Check(set)); err != nil {
			return err
		}
	}
	set.Name = name
	return saved(w, r, who, p.Sets, Item[quarantine.PolicySet]{Name: name, Value: set, Revision: q.Revision}, p.show)
}

// mayRule refuses a set that does what the one who saves it may not: release, or wipe (D4).
func mayRule(who identity, set quarantine.PolicySet) error {
	if set.AgentReleases && !who.can(GrantRelease) {
		return fmt.Errorf("granting %s: %w", GrantRelease, errDenied)
	}
	if !who.can(WipeDevices) && slices.ContainsFunc(set.Rules, func(r quarantine.PolicyRule) bool { return r.OnFailure == quarantine.FailWipe }) {
		return fmt.Errorf("granting %s: %w", WipeDevices, errDenied)
	}
	return nil
}

func (s *Server) deletePolicy(w http.ResponseWriter, r *http.Request, who identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	return deleted(w, r, who, p.Sets)
}

func (s *Server) checkPolicy(w http.ResponseWriter, r *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	var q api.Policy
	if err := read(r, &q); err != nil {
		return err
	}
	set, assigned, faults, err := p.read(q)
	if err != nil {
		return err
	}
	out := api.PolicyChecked{Good: len(faults) == 0, Faults: append([]api.PolicyFault{}, faults...)}
	if out.Good {
		shown := p.show(Item[quarantine.PolicySet]{Name: set.Name, Value: set})
		shown.Assigned = assigned
		out.Policy = &shown
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) listFacts(w http.ResponseWriter, _ *http.Request, _ identity) error {
	p, err := s.policies()
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, p.Rulebook.Facts())
	return nil
}

// refused is the error of a set with faults.
func refused(faults []api.PolicyFault) error {
	if len(faults) == 0 {
		return nil
	}
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = FormatFault(f)
	}
	return bad("correct the policy set and send it again", "%s", strings.Join(lines, "\n"))
}

// FormatFault writes a fault of a policy set on one line.
func FormatFault(f api.PolicyFault) string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d, column %d: ", f.Line, max(f.Column, 1))
	}
	if f.Rule != "" {
		fmt.Fprintf(&b, "rule %s: ", f.Rule)
	}
	if f.Field != "" {
		fmt.Fprintf(&b, "%s: ", f.Field)
	}
	b.WriteString(f.What)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// read turns a request into a set and what is wrong with it.
func (p Policies) read(q api.Policy) (set quarantine.PolicySet, assigned *bool, faults []api.PolicyFault, err error) {
	if q.TOML != "" {
		if q.Rules != nil || q.Text != "" || q.STIG || q.AgentReleases {
			return set, nil, nil, bad("send the one or the other", "the set comes as TOML and as JSON")
		}
		set, assigned, faults = p.Rulebook.Parse(q.TOML)
		if q.Assigned != nil {
			assigned, set.Assigned = q.Assigned, *q.Assigned
		}
		return set, assigned, faults, nil
	}
	set = quarantine.PolicySet{Name: q.Name, Text: q.Text, Assigned: q.Assigned != nil && *q.Assigned, STIG: q.STIG,
		AgentReleases: q.AgentReleases, For: quarantine.Selection(q.For)}
	for _, r := range q.Rules {
		rule := quarantine.PolicyRule{Name: r.Name, Text: r.Text, Remedy: r.Remedy, Expression: r.Expression, OnFailure: quarantine.FailureAction(r.OnFailure)}
		if rule.CheckEvery, err = span("check_every", r.CheckEvery); err != nil {
			return set, nil, nil, err
		}
		if rule.Grace, err = span("grace", r.Grace); err != nil {
			return set, nil, nil, err
		}
		set.Rules = append(set.Rules, rule)
	}
	return set, q.Assigned, p.Rulebook.Check(set), nil
}

func (p Policies) show(it Item[quarantine.PolicySet]) api.Policy {
	s := it.Value
	out := api.Policy{Name: it.Name, Version: s.Version, Text: s.Text, Assigned: &s.Assigned, STIG: s.STIG, AgentReleases: s.AgentReleases,
		For: api.Selection(s.For), TOML: p.Rulebook.Text(s), Revision: it.Revision}
	for _, r := range s.Rules {
		out.Rules = append(out.Rules, api.PolicyRule{Name: r.Name, Text: r.Text, Remedy: r.Remedy, Expression: r.Expression,
			CheckEvery: formatSpan(r.CheckEvery), Grace: formatSpan(r.Grace), OnFailure: string(r.OnFailure), Facts: p.Rulebook.Asks(r.Expression)})
	}
	return out
}

// span reads a time like "90m", "36h" or "30d"; empty is zero.
func span(field, text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n > 0 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := duration(field, text)
	if err != nil {
		return 0, bad(`write a time like "90m", "36h" or "30d"`, "%s is %q", field, text)
	}
	return d, nil
}

// formatSpan writes what span reads.
func formatSpan(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return ""
	case d >= 2*day && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}
