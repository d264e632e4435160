package e2e

import (
	"net/http"
	"strings"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// TestAttestation: where a policy asks for a TPM's word, a device is released with it and
// not without, and only while an administrator believes its TPM.
func TestAttestation(t *testing.T) {
	t.Parallel()
	socket := testneed.TPMSocket(t, t.TempDir())
	g := newGateway(t, options{})
	l := newLaptop(t, g)
	l.config.TPM = socket
	l.enroll(t, g.url(), api.OTPRequest{User: "tpm@example.com"})
	l.start(t, "")
	yes := true
	g.want(t, http.StatusOK, "PUT", "/api/v1/policies/tpm", api.Policy{Assigned: &yes, TOML: `name = "tpm"
[[rule]]
name = "attested"
text = "its TPM vouches for it"
remedy = "let the agent use the TPM"
expression = 'tpm.attested'
`}, nil)
	if stage := g.reported(t, l.id, "compliant"); stage != "quarantined" {
		t.Fatalf("nothing was attested, and the device is %s", stage)
	}
	l.ask(t, "report")
	if a := g.call(t, "GET", "/api/v1/devices/"+l.id+"/attestation", nil, nil); a.status != http.StatusNotFound {
		t.Errorf("no TPM is believed, and one is known: %s", a)
	}

	g.want(t, http.StatusOK, "PUT", "/api/v1/attestation", api.AttestationTrust{FirstUse: true, Makers: []string{}}, nil)
	l.end(t) // asks a gateway that took none again after ten minutes, or anew
	l.start(t, "")
	l.ask(t, "report")
	until(t, "it is released", func() bool { return g.show(t, l.id).Stage == "routed" })
	var known api.Attestation
	g.want(t, http.StatusOK, "GET", "/api/v1/devices/"+l.id+"/attestation", nil, &known)
	if len(known.Baseline) != 4 || known.Maker != "" {
		t.Errorf("known of its TPM: %+v", known)
	}

	g.want(t, http.StatusOK, "PUT", "/api/v1/attestation", api.AttestationTrust{Makers: []string{rootPEM(t, g)}}, nil)
	l.ask(t, "report")
	until(t, "it is quarantined: its maker is not trusted", func() bool { return g.show(t, l.id).Stage == "quarantined" })
	told := false
	for _, r := range g.explain(t, l.id).Decided.Reasons {
		told = told || !r.Holds && r.Fact == "tpm.attested" && strings.Contains(r.Text, `tpm.attested is "false"`)
	}
	if !told {
		t.Errorf("it is not told why: %+v", g.explain(t, l.id).Decided.Reasons)
	}
}

// rootPEM is some CA that made no TPM: the organization's own.
func rootPEM(t *testing.T, g *gateway) string {
	t.Helper()
	return string(g.want(t, http.StatusOK, "GET", "/api/v1/root", nil, nil).body)
}
