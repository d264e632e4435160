package console

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"crypto/tls"
	"crypto/x509"

	"lazaret/internal/agentapi"
	"lazaret/internal/attest"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// fakeTPMs believes evidence that says "true".
type fakeTPMs struct {
	trust attest.Trust
	state *attest.State
	facts map[string]string // that evidence came with
}

func (f *fakeTPMs) Challenge(context.Context, string, json.RawMessage, []byte) (json.RawMessage, error) {
	return nil, attest.ErrHello
}

func (f *fakeTPMs) Check(_ context.Context, device string, evidence json.RawMessage, facts map[string]string) (map[string]string, string) {
	f.facts = maps.Clone(facts)
	return map[string]string{"tpm.attested": string(evidence)}, "TPM of " + device
}

func (f *fakeTPMs) Trust(context.Context) (attest.Trust, error) { return f.trust, nil }

func (f *fakeTPMs) SetTrust(_ context.Context, _ quarantine.Actor, t attest.Trust) error {
	f.trust = t
	return nil
}

func (f *fakeTPMs) State(context.Context, string) (attest.State, error) {
	if f.state == nil {
		return attest.State{}, attest.ErrNone
	}
	return *f.state, nil
}

func (f *fakeTPMs) Accept(context.Context, quarantine.Actor, string) error {
	if f.state == nil || f.state.Seen == nil {
		return fmt.Errorf("%w (%w)", ErrNotFound, attest.ErrNone)
	}
	return f.state.Accept()
}

func (f *fakeTPMs) Forget(context.Context, quarantine.Actor, string) error {
	f.state = nil
	return nil
}

// TestAttestedIsTheGatewaysWord: whether a TPM vouched is said by the gateway, whatever the
// device says of it.
func TestAttestedIsTheGatewaysWord(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		without bool // a gateway that was built without attestation
		want    map[string]string
		detail  string
	}{
		"no evidence":        {`{"facts":{"os.name":"debian"}}`, false, map[string]string{"os.name": "debian"}, ""},
		"its own word":       {`{"facts":{"os.name":"debian","tpm.attested":"true"}}`, false, map[string]string{"os.name": "debian"}, ""},
		"its own, without":   {`{"facts":{"tpm.attested":"true"},"attestation":true}`, true, map[string]string{}, ""},
		"good evidence":      {`{"facts":{"os.name":"debian"},"attestation":true}`, false, map[string]string{"os.name": "debian", "tpm.attested": "true"}, "TPM of dev1"},
		"evidence alone":     {`{"attestation":true}`, false, map[string]string{"tpm.attested": "true"}, "TPM of dev1"},
		"bad evidence, word": {`{"facts":{"tpm.attested":"true"},"attestation":false}`, false, map[string]string{"tpm.attested": "false"}, "TPM of dev1"},
	} {
		l := newLab(t)
		tpms := &fakeTPMs{}
		if !c.without {
			l.Server.cfg.Attestation = tpms
		}
		r := httptest.NewRequest("POST", agentapi.ReportPath, strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		r.TLS, r.RemoteAddr = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.device}}, "10.66.0.2:4711"
		out := httptest.NewRecorder()
		l.Agent().ServeHTTP(out, r)
		if out.Code != http.StatusOK || len(l.gate.changes) != 1 {
			t.Fatalf("%s: %d %s, %d changes", name, out.Code, out.Body, len(l.gate.changes))
		}
		got := l.gate.changes[0].Report
		if !maps.Equal(got.Facts, c.want) || got.Detail != c.detail || got.Source != quarantine.AgentSource {
			t.Errorf("%s: the gate was told %+v", name, got)
		}
		if strings.Contains(c.body, `"tpm.attested"`) && c.detail != "" && tpms.facts["tpm.attested"] != "true" {
			t.Errorf("%s: the TPM signed what was sent, and was judged by %v", name, tpms.facts)
		}
	}
}

func TestAttestationRoutes(t *testing.T) {
	l := newLab(t)
	admin := who{cert: l.admin}
	const trust, dev = "/api/v1/attestation", "/api/v1/devices/dev1/attestation"
	if got := l.ask(l.API(), admin, "GET", trust, ""); got.Code != http.StatusNotFound {
		t.Errorf("a gateway without attestation: %d", got.Code)
	}
	tpms := &fakeTPMs{}
	l.Server.cfg.Attestation = tpms
	for body, want := range map[string]int{`{"first_use":true}`: 200, `{"makers":["no certificate"]}`: 400, `{"sure":true}`: 400} {
		if got := l.ask(l.API(), admin, "PUT", trust, body); got.Code != want {
			t.Errorf("%s: %d %s", body, got.Code, got.Body)
		}
	}
	if !tpms.trust.FirstUse || len(tpms.trust.Makers) != 0 {
		t.Errorf("trusts %+v", tpms.trust)
	}
	for _, try := range [][2]string{{"GET", dev}, {"POST", dev + "/accept"}} {
		if got := l.ask(l.API(), admin, try[0], try[1], ""); got.Code != http.StatusNotFound {
			t.Errorf("%v of a device that never attested: %d %s", try, got.Code, got.Body)
		}
	}
	tpms.state = &attest.State{EK: []byte("ek"), AK: []byte("ak"), Seen: &attest.Registers{2: {1}}}
	var shown api.Attestation
	got := l.ask(l.API(), admin, "GET", dev, "")
	if err := json.Unmarshal(got.Body.Bytes(), &shown); err != nil || len(shown.Baseline) != 4 || len(shown.Seen) != 1 || !strings.HasPrefix(shown.Seen["4"], "0100") || shown.EK == shown.AK {
		t.Errorf("%v: %s", err, got.Body)
	}
	if got := l.ask(l.API(), admin, "POST", dev+"/accept", ""); got.Code != http.StatusOK || tpms.state.Seen != nil || tpms.state.Baseline[2][0] != 1 {
		t.Errorf("accepting: %d %s, %+v", got.Code, got.Body, tpms.state)
	}
	if got := l.ask(l.API(), admin, "DELETE", dev, ""); got.Code != http.StatusNoContent || tpms.state != nil {
		t.Errorf("forgetting: %d %s", got.Code, got.Body)
	}
}
