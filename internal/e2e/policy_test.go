package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// TestPolicy: a policy set decides over a compliant report, by name and by its packets; a
// trial says so before, and moves nobody.
func TestPolicy(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{Ownership: "corporate"})
	d.open(t)
	says := func(disk string) string {
		t.Helper()
		var got api.Placed
		if a, err := g.report(soon(t), api.ReportRequest{Device: d.id, Verdict: "compliant", Facts: map[string]string{"disk.encrypted": disk}}, &got); err != nil || a.status != http.StatusOK {
			t.Fatalf("reporting: %s, %v", a, err)
		}
		return g.explain(t, d.id).Decided.Stage
	}
	if stage := says("false"); stage != "routed" || !d.routed(t) {
		t.Fatalf("without a policy set, reported compliant: %s", stage)
	}
	const set = `name = "disk"
[for]
ownerships = ["corporate"]
[[rule]]
name = "encrypted"
text = "the disk is encrypted"
remedy = "encrypt it"
expression = 'disk.encrypted'
`
	var checked api.PolicyChecked
	g.want(t, http.StatusOK, "POST", "/api/v1/policies/check", api.Policy{TOML: strings.Replace(set, "disk.encrypted", "disk.encryptd", 1)}, &checked)
	if checked.Good || len(checked.Faults) != 1 || checked.Faults[0].Line != 8 || checked.Faults[0].Column != 19 || !strings.Contains(checked.Faults[0].What, "disk.encrypted") {
		t.Errorf("a misspelt fact: %+v", checked)
	}
	if a := g.call(t, "PUT", "/api/v1/policies/disk", api.Policy{TOML: strings.Replace(set, "disk.encrypted", "disk.encryptd", 1)}, nil); a.status != http.StatusBadRequest {
		t.Errorf("a misspelt fact is kept: %s", a)
	}
	var tried api.PolicyTried
	g.want(t, http.StatusOK, "POST", "/api/v1/policies/try", api.PolicyTry{TOML: set}, &tried)
	if tried.Moves != 1 || tried.Devices != 1 || tried.Listed[0].Rule != "disk/encrypted" || tried.Listed[0].From != "routed" || tried.Listed[0].To != "quarantined" {
		t.Errorf("tried %+v", tried)
	}
	if stage := g.explain(t, d.id).Decided.Stage; stage != "routed" || !d.routed(t) {
		t.Errorf("a trial made it %s", stage)
	}

	// As a draft it takes part in nothing, and assigned it cuts off what is open.
	var kept api.Policy
	g.want(t, http.StatusOK, "PUT", "/api/v1/policies/disk", api.Policy{TOML: set}, &kept)
	if stage := g.explain(t, d.id).Decided.Stage; stage != "routed" {
		t.Errorf("a draft made it %s", stage)
	}
	yes := true
	g.want(t, http.StatusOK, "PUT", "/api/v1/policies/disk", api.Policy{TOML: kept.TOML, Assigned: &yes, Revision: kept.Revision}, &kept)
	until(t, "the set counts", func() bool { return g.explain(t, d.id).Decided.Stage == "quarantined" })
	if !d.shut(t) {
		t.Error("a rule fails, and it reaches what it must not")
	}
	told := slices.ContainsFunc(g.explain(t, d.id).Decided.Reasons, func(r api.Reason) bool {
		return !r.Holds && r.Set == "disk" && r.Version > 0 && r.Fact == "disk.encrypted" && r.Remedy == "encrypt it" && strings.Contains(r.Text, `the disk is encrypted: disk.encrypted is "false", as `)
	})
	if !told {
		t.Errorf("it is not told why: %+v", g.explain(t, d.id).Decided.Reasons)
	}
	if stage := says("true"); stage != "routed" || !d.routed(t) {
		t.Errorf("every rule holds: %s", stage)
	}

	// In strict mode no set counts that is not marked.
	var conduct api.Conduct
	g.want(t, http.StatusOK, "GET", "/api/v1/conduct", nil, &conduct)
	conduct.Strict = true
	if a := g.call(t, "PUT", "/api/v1/conduct", conduct, nil); a.status != http.StatusUnprocessableEntity || !strings.Contains(a.problem.Error, "stig") {
		t.Errorf("strict mode with a set that is not marked: %s", a)
	}
	no := false
	g.want(t, http.StatusOK, "PUT", "/api/v1/policies/disk", api.Policy{TOML: kept.TOML, Assigned: &no, Revision: kept.Revision}, &kept)
	g.want(t, http.StatusOK, "PUT", "/api/v1/conduct", conduct, nil)
	until(t, "strict mode counts", func() bool { return g.explain(t, d.id).Decided.Stage == "quarantined" })
	if a := g.call(t, "PUT", "/api/v1/policies/disk", api.Policy{TOML: kept.TOML, Assigned: &yes, Revision: kept.Revision}, nil); a.status != http.StatusUnprocessableEntity {
		t.Errorf("assigned in strict mode: %s", a)
	}
	g.want(t, http.StatusNoContent, "DELETE", "/api/v1/policies/disk", nil, nil)
}
