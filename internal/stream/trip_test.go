package stream

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/sourcetest"
	"lazaret/quarantine/source/ssf"
)

// signalStore is one stream's settings and secrets for a receiver of ours.
type signalStore struct {
	settings json.RawMessage
	secrets  map[ssf.Secret]string
}

func (s signalStore) Streams(context.Context) (map[string]json.RawMessage, error) {
	return map[string]json.RawMessage{"upstream": s.settings}, nil
}
func (s signalStore) Secret(_ context.Context, _ string, kind ssf.Secret) (string, error) {
	return s.secrets[kind], nil
}
func (s signalStore) Accounts(context.Context, string) (json.RawMessage, int64, error) {
	return nil, 0, nil
}
func (s signalStore) PutAccounts(context.Context, quarantine.Actor, string, json.RawMessage, int64) error {
	return nil
}

type nobody struct{ t *testing.T }

func (n nobody) Refused(_ context.Context, _ quarantine.Actor, _ quarantine.ID, why string) error {
	n.t.Errorf("refused: %s", why)
	return nil
}

// TestRoundTripToOurReceiver lets one gateway act on another's events, asked for and pushed.
func TestRoundTripToOurReceiver(t *testing.T) {
	for _, how := range []ssf.Delivery{ssf.Poll, ssf.Push} {
		t.Run(string(how), func(t *testing.T) {
			l := newLab(t)
			s := l.transmitter()
			gate := sourcetest.NewGate(quarantine.Source{Name: "upstream", Kind: quarantine.SourceSSF, MayRelease: true}, time.Now,
				quarantine.Record{Device: quarantine.Device{ID: "d1", Name: "laptop", Stage: quarantine.Quarantined}})
			keep := signalStore{secrets: map[ssf.Secret]string{ssf.Authorization: "Bearer pushing"}}
			dir := t.TempDir()
			receiver, err := ssf.New(ssf.Config{Store: &keep, Gate: gate, Ledger: &source.Ledger{}, Auditor: nobody{t}, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			mux := http.NewServeMux()
			mux.Handle(ssf.PushPattern, receiver.Handler())
			other := httptest.NewTLSServer(mux)
			defer other.Close()
			stream := Receiver{Name: "downstream", Kind: SSF, Audience: "https://other.example.com", CA: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Certificate().Raw}))}
			push := ""
			if how == ssf.Push {
				stream.URL, push = other.URL+ssf.PushPath+"upstream", "Bearer pushing"
			}
			made, token, err := l.Add(t.Context(), boss, stream, push)
			if err != nil {
				t.Fatal(err)
			}
			st := ssf.Settings{Issuer: s.URL, Audience: []string{"https://other.example.com"}, Delivery: how, StreamID: made.StreamID,
				Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))}
			if how == ssf.Poll {
				st.PollURL = s.URL + "/streams/v1/poll/" + made.StreamID
				keep.secrets[ssf.Bearer] = token
			}
			if keep.settings, err = json.Marshal(st); err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- receiver.Run(ctx) }()
			defer func() {
				stop()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			verdict := func() quarantine.Verdict {
				d, err := gate.Device("d1")
				if err != nil {
					t.Fatal(err)
				}
				return d.Reports["upstream"].Verdict
			}
			at := time.Now().Add(-time.Minute)
			for i, to := range []string{"routed", "quarantined"} {
				from := map[string]string{"routed": "quarantined", "quarantined": "routed"}[to]
				l.book.write(audit.Entry{Action: "device.report", Device: "d1", Time: at.Add(time.Duration(i) * time.Second), Actor: audit.Actor{Kind: "source", Name: "mdm"}, Detail: map[string]string{"from": from, "to": to}})
				want := map[string]quarantine.Verdict{"routed": quarantine.Compliant, "quarantined": quarantine.NonCompliant}[to]
				until(t, func() bool { return verdict() == want })
			}
		})
	}
}
