package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"lazaret/internal/agentapi"
	"lazaret/internal/attest"
	"lazaret/internal/testneed"
)

// tpmStore remembers one device's TPM.
type tpmStore struct {
	mu    sync.Mutex
	state *attest.State
	trust attest.Trust
}

func (s *tpmStore) Trust(context.Context) (attest.Trust, error) { return s.trust, nil }

func (s *tpmStore) State(context.Context, string) (attest.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		return attest.State{}, attest.ErrNone
	}
	return *s.state, nil
}

func (s *tpmStore) Save(_ context.Context, _ string, st attest.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = &st
	return nil
}

// challenger is the gateway's end: it hands out challenges over real TLS.
func challenger(t *testing.T, trust attest.Trust) (*gateway, *attest.Verifier, *atomic.Int32) {
	t.Helper()
	asked := new(atomic.Int32)
	v := attest.NewVerifier(attest.Config{Store: &tpmStore{trust: trust}, Log: slog.New(slog.DiscardHandler)})
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		hello, err := io.ReadAll(r.Body)
		binding, e := r.TLS.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
		if r.URL.Path != agentapi.AttestPath || err != nil || e != nil {
			t.Errorf("asked for %s: %v, %v", r.URL.Path, err, e)
		}
		out, err := v.Challenge(r.Context(), "d1", hello, binding)
		if err != nil {
			t.Error(err)
		}
		w.Write(out)
	}))
	t.Cleanup(s.Close)
	return &gateway{base: s.URL, http: s.Client()}, v, asked
}

// TestVouch: an agent's report comes with its TPM's word, which the gateway takes for these
// facts alone.
func TestVouch(t *testing.T) {
	api, gate, asked := challenger(t, attest.Trust{FirstUse: true})
	v := &voucher{at: testneed.TPMSocket(t, t.TempDir()), log: slog.New(slog.DiscardHandler)}
	facts := map[string]string{"os.name": "debian", "disk.encrypted": "true"}
	for i, want := range []string{"was bound to it now", "vouches for this report", "vouches for this report"} {
		add, note := gate.Check(t.Context(), "d1", v.vouch(t.Context(), api, "d1", facts), maps.Clone(facts))
		if add["tpm.attested"] != "true" || !strings.Contains(note, want) {
			t.Fatalf("report %d: %v %q", i, add, note)
		}
	}
	if asked.Load() != 5 {
		t.Errorf("the gateway was asked %d times, want three times for the first report and once for each other", asked.Load())
	}
	word := v.vouch(t.Context(), api, "d1", map[string]string{"os.name": "debian", "disk.encrypted": "false"})
	if add, note := gate.Check(t.Context(), "d1", word, facts); add["tpm.attested"] != "false" {
		t.Errorf("vouched for other facts: %v %q", add, note)
	}
}

// TestNoVouch: without a TPM, or where the gateway wants none, reports go without.
func TestNoVouch(t *testing.T) {
	api, _, asked := challenger(t, attest.Trust{})
	log := slog.New(slog.DiscardHandler)
	for _, at := range []string{"", "/nonexistent", NoTPM} {
		v := &voucher{at: at, log: log}
		if at == "" { // this machine may have one; the gateway wants none of it
			if word := v.vouch(t.Context(), api, "d1", nil); word != nil {
				t.Error("a gateway without trust was sent a TPM's word")
			}
			continue
		}
		if word := v.vouch(t.Context(), nil, "d1", nil); word != nil {
			t.Errorf("%q: %s", at, word)
		}
	}
	v := &voucher{at: "/dev/null", log: log} // a TPM that would fail if it were asked
	before := asked.Load()
	for range 3 {
		if word := v.vouch(t.Context(), api, "d1", nil); word != nil {
			t.Errorf("got %s", word)
		}
	}
	if asked.Load() != before+1 {
		t.Errorf("a gateway that wants none was asked %d times, want once", asked.Load()-before)
	}
	text, err := json.Marshal(agentapi.Report{})
	if err != nil || strings.Contains(string(text), "attestation") {
		t.Errorf("a report without: %s", text)
	}
}
