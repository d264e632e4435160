package ssf

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// transmitterLab is a transmitter that hands tokens out (RFC 8936) and lets its stream be
// managed (SSF 1.0 section 8).
type transmitterLab struct {
	*server
	mu      sync.Mutex
	pending map[string]string // by jti
	erred   map[string]refusalForm
	polls   []pollRequest
	status  statusForm
	states  []string // of verifications that were asked for
	verify  func(state string)
	answer  int // status of the next answers, if not 0
	after   string
	token   string // bearer that is asked for
	tokens  int    // access tokens that were given out
	emptied chan struct{}
}

func newTransmitter(t *testing.T) *transmitterLab {
	x := &transmitterLab{pending: map[string]string{}, erred: map[string]refusalForm{}, status: statusForm{StreamID: "s1", Status: "enabled"}, token: "b3arer", emptied: make(chan struct{}, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /poll", x.poll)
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		if id != "gw" || secret != "s+e cret" && secret != "s%2Be+cret" || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "ssf.read" {
			http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
			return
		}
		x.mu.Lock()
		defer x.mu.Unlock()
		x.tokens++
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"bearer","expires_in":3600}`, x.token)
	})
	mux.HandleFunc("GET /.well-known/ssf-configuration", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"spec_version":"1_0","issuer":%q,"jwks_uri":"%[1]s/keys","configuration_endpoint":"%[1]s/stream","status_endpoint":"%[1]s/status","verification_endpoint":"%[1]s/verify"}`, x.URL)
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `[{"stream_id":"s0","iss":%q,"aud":"https://elsewhere.example.org","delivery":{"method":"urn:ietf:rfc:8936"}},
			{"stream_id":"s1","iss":%[1]q,"aud":["x",%q],"delivery":{"method":"urn:ietf:rfc:8936"}},{"stream_id":"s2","iss":%[1]q,"aud":%[2]q,"delivery":{"method":"urn:ietf:rfc:8935"}}]`, x.URL, audience)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if r.FormValue("stream_id") != "s1" || r.Header.Get("Authorization") != "Bearer "+x.token {
			http.Error(w, "", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(x.status)
	})
	mux.HandleFunc("POST /status", func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		defer x.mu.Unlock()
		_ = json.NewDecoder(r.Body).Decode(&x.status)
		_ = json.NewEncoder(w).Encode(x.status)
	})
	mux.HandleFunc("POST /verify", func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			StreamID string `json:"stream_id"`
			State    string `json:"state"`
		}
		_ = json.NewDecoder(r.Body).Decode(&q)
		x.mu.Lock()
		x.states = append(x.states, q.StreamID+" "+q.State)
		verify := x.verify
		x.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		if verify != nil {
			verify(q.State)
		}
	})
	x.server = newServer(t, mux)
	return x
}

func (x *transmitterLab) poll(w http.ResponseWriter, r *http.Request) {
	var q pollRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answer != 0 {
		w.Header().Set("Retry-After", x.after)
		w.WriteHeader(x.answer)
		return
	}
	if r.Header.Get("Authorization") != "Bearer "+x.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	x.polls = append(x.polls, q)
	for _, id := range q.Ack {
		delete(x.pending, id)
	}
	for id, e := range q.SetErrs {
		x.erred[id] = e
		delete(x.pending, id)
	}
	if len(x.pending) == 0 {
		select {
		case x.emptied <- struct{}{}:
		default:
		}
	}
	out := pollAnswer{Sets: map[string]string{}}
	for id, text := range x.pending {
		if len(out.Sets) < q.MaxEvents {
			out.Sets[id] = text
		}
	}
	out.More = len(x.pending) > len(out.Sets)
	_ = json.NewEncoder(w).Encode(out)
}

// hold keeps a token for the next poll.
func (x *transmitterLab) hold(l *lab, tok set.Token) string {
	x.mu.Lock()
	defer x.mu.Unlock()
	tok.Issuer = x.URL
	x.pending[tok.ID] = l.sign(tok)
	return tok.ID
}

// polled makes a lab whose stream is that transmitter's; the test polls by itself.
func (x *transmitterLab) polled(t *testing.T, change func(s *Settings)) *lab {
	l := newLab(t, func(s *Settings) {
		s.Issuer, s.Delivery, s.PollURL, s.MaxEvents = x.URL, Poll, x.URL+"/poll", 2
		x.reach(s)
		if change != nil {
			change(s)
		}
	})
	l.stop() // so that it does not poll by itself
	l.store.secrets["idp/bearer"] = "b3arer"
	st, err := l.open("idp", l.store.streams["idp"])
	if err != nil {
		t.Fatal(err)
	}
	l.Receiver.mu.Lock()
	l.streams["idp"], l.loaded = st, true
	l.Receiver.mu.Unlock()
	close(st.done)
	st.cancel = func() {}
	return l
}

// TestPoll: a token is acknowledged after it was taken in, named as an error after it was
// refused for good, and neither while it is the gateway that could not take it.
func TestPoll(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, nil)
	good := x.hold(l, l.token(set.DeviceComplianceChange, device("d1"), bad()))
	wrong := l.token(set.DeviceComplianceChange, device("d2"), bad())
	wrong.Audience = []string{"https://elsewhere.example.org"}
	x.hold(l, wrong)
	next, more, err := l.pollOnce(t.Context(), l.idp(), pollRequest{})
	if err != nil || more || len(next.Ack) != 1 || next.Ack[0] != good || next.SetErrs[wrong.ID].Err != set.InvalidAudience || l.gate.told() != "d1 noncompliant" {
		t.Fatalf("next is %+v, %v, %v", next, more, err)
	}
	if x.polls[0].ReturnImmediately || x.polls[0].MaxEvents != 2 {
		t.Errorf("asked %+v", x.polls[0])
	}
	// An answer that is lost: the same is told again.
	x.answer, x.after = http.StatusTooManyRequests, "77"
	again, _, err := l.pollOnce(t.Context(), l.idp(), next)
	if err == nil || len(again.Ack) != 1 || len(again.SetErrs) != 1 {
		t.Errorf("after a failure: %+v, %v", again, err)
	}
	if wait := retryWait(1, err); wait != 77*time.Second {
		t.Errorf("waits %s though it is told 77 s", wait)
	}
	x.answer = 0
	l.store.err = fmt.Errorf("no quorum")
	lateID := x.hold(l, l.token(set.AccountDisabled, user("ann@example.com"), nil))
	l.store.err = nil // the bearer is a secret of the store, too
	l.gate.fail = nil
	l.gate.mu.Lock()
	l.gate.fail = failing("d1", "d3")
	l.gate.mu.Unlock()
	next, _, err = l.pollOnce(t.Context(), l.idp(), again)
	if err == nil || len(next.Ack)+len(next.SetErrs) != 0 || x.erred[wrong.ID].Err != set.InvalidAudience || len(x.pending) != 1 {
		t.Errorf("while the gate takes nothing: %+v, %v, pending %v", next, err, x.pending)
	}
	l.gate.mu.Lock()
	l.gate.fail = nil
	l.gate.mu.Unlock()
	next, _, err = l.pollOnce(t.Context(), l.idp(), next)
	if err != nil || len(next.Ack) != 1 || next.Ack[0] != lateID {
		t.Errorf("afterwards: %+v, %v", next, err)
	}
	if next, _, err = l.pollOnce(t.Context(), l.idp(), next); err != nil || len(x.pending) != 0 || len(next.Ack) != 0 {
		t.Errorf("at the end: %+v, %v, pending %v", next, err, x.pending)
	}
	if last := x.polls[len(x.polls)-1]; !last.ReturnImmediately {
		t.Error("acknowledgements were held back by a long poll")
	}
}

func failing(ids ...string) map[quarantine.ID]error {
	out := map[quarantine.ID]error{}
	for _, id := range ids {
		out[quarantine.ID(id)] = fmt.Errorf("store down")
	}
	return out
}

// TestPolledUnderAnotherName: the jti in the answer must be the token's.
func TestPolledUnderAnotherName(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, nil)
	tok := l.token(set.DeviceComplianceChange, device("d1"), bad())
	tok.Issuer = x.URL
	x.pending["other"] = l.sign(tok)
	x.pending["junk"] = "x"
	next, _, err := l.pollOnce(t.Context(), l.idp(), pollRequest{})
	if err != nil || next.SetErrs["other"].Err != set.InvalidRequest || next.SetErrs["junk"].Err != set.InvalidRequest || l.gate.told() != "" {
		t.Errorf("next is %+v, %v", next, err)
	}
}

// TestPollsByItself: a stream that is polled is, from its settings alone, with an access
// token of client credentials.
func TestPollsByItself(t *testing.T) {
	x := newTransmitter(t)
	l := newLab(t, func(s *Settings) {
		s.Issuer, s.Delivery, s.PollURL, s.MaxEvents = x.URL, Poll, x.URL+"/poll", 2
		s.TokenURL, s.ClientID, s.Scope = x.URL+"/token", "gw", "ssf.read"
		x.reach(s)
	})
	l.stop()
	l.store.secrets["idp/client_secret"] = "s+e cret"
	for range 7 {
		x.hold(l, l.token(set.DeviceComplianceChange, device("d1"), bad()))
	}
	if err := l.reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-x.emptied:
	case <-time.After(30 * time.Second):
		t.Fatalf("tokens are left, health %+v", l.ledger.List())
	}
	x.mu.Lock()
	if len(x.polls) < 4 || x.tokens != 1 {
		t.Errorf("%d polls, %d access tokens", len(x.polls), x.tokens)
	}
	x.mu.Unlock()
	l.stop() // waits for the poll
}

// TestPollsOnAfterTelling: a poll that tells what became of tokens asks to be answered at once
// (RFC 8936 section 2.4), so that its empty answer says nothing: the next one, which may be held
// back, follows without a wait.
func TestPollsOnAfterTelling(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, func(s *Settings) { s.PollEvery = "1h" })
	x.hold(l, l.token(set.DeviceComplianceChange, device("d1"), bad()))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.poll(ctx, l.idp())
	}()
	defer func() { stop(); <-ended }()
	for range 2 {
		select {
		case <-x.emptied:
		case <-time.After(30 * time.Second):
			t.Fatal("waits after telling what became of a token")
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.polls) != 3 || !x.polls[1].ReturnImmediately || len(x.polls[1].Ack) != 1 || x.polls[2].ReturnImmediately || x.polls[2].tells() {
		t.Errorf("polled with %+v", x.polls)
	}
}

// TestRetryWait: longer after every failure, with jitter, bounded, and as told.
func TestRetryWait(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 9: 256 * time.Second, 10: lastRetry, 1000: lastRetry} {
		for range 100 {
			if got := retryWait(failures, context.DeadlineExceeded); got < want*3/4 || got > want*5/4 {
				t.Errorf("after %d failures %s, want about %s", failures, got, want)
			}
		}
	}
	if got := retryWait(1, fmt.Errorf("polling: %w", &failure{status: 503, after: retryLimit})); got != retryLimit {
		t.Errorf("told an hour, waits %s", got)
	}
}

// TestSleepEndsWithItsContext.
func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if sleep(ctx, time.Hour) || time.Since(began) != time.Second {
			t.Errorf("slept %s", time.Since(began))
		}
		if !sleep(t.Context(), time.Hour) {
			t.Error("did not sleep")
		}
	})
}

// TestVerification: the event must come back with the state that was sent.
func TestVerification(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, nil)
	come := func(state string) {
		tok := l.token(set.Verification, on(set.Opaque("s1")), map[string]any{"state": state})
		tok.Issuer = x.URL
		if err := l.send(tok); err != nil {
			t.Error(err)
		}
	}
	x.verify = func(state string) { come("another"); come(state) }
	back, err := l.Verify(t.Context(), "idp")
	if err != nil || !back || len(x.states) != 1 || !strings.HasPrefix(x.states[0], "s1 ") {
		t.Fatalf("%v, %v, asked %q", back, err, x.states)
	}
	st, err := l.Status(t.Context(), "idp")
	if err != nil || !st.VerifiedAt.Equal(then) || st.StreamID != "s1" {
		t.Errorf("status is %+v, %v", st, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	x.verify = func(string) { come("another"); cancel() }
	if back, err := l.Verify(ctx, "idp"); back || err == nil {
		t.Errorf("another state: %v, %v", back, err)
	}
}

// TestStreamStatus: a stream that is paused is a problem until it is enabled, however the
// gateway hears of it.
func TestStreamStatus(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, nil)
	problem := func() string {
		for _, h := range l.ledger.List() {
			return h.Problem
		}
		return ""
	}
	l.pass(time.Minute)
	tok := l.token(set.StreamUpdated, on(set.Opaque("s1")), map[string]any{"status": "paused", "reason": "maintenance"})
	tok.Issuer = x.URL
	if err := l.send(tok); err != nil || problem() != "the transmitter has the stream paused: maintenance" {
		t.Errorf("%v, problem %q", err, problem())
	}
	if _, _, err := l.pollOnce(t.Context(), l.idp(), pollRequest{}); err != nil || problem() == "" {
		t.Errorf("an empty poll made it good: %v", err)
	}
	l.pass(time.Minute)
	if err := l.askStatus(t.Context(), l.idp()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.pollOnce(t.Context(), l.idp(), pollRequest{}); err != nil || problem() != "" {
		t.Errorf("enabled again: %v, problem %q", err, problem())
	}
	l.pass(time.Minute)
	if err := l.SetStatus(t.Context(), "idp", "disabled", "moving"); err != nil || x.status.Status != "disabled" || x.status.StreamID != "s1" || x.status.Reason != "moving" {
		t.Errorf("%v, the transmitter has %+v", err, x.status)
	}
	if st, _ := l.Status(t.Context(), "idp"); st.Stream != "disabled" {
		t.Errorf("status is %+v", st)
	}
	if err := l.SetStatus(t.Context(), "idp", "off", ""); err == nil {
		t.Error("an unknown status is sent")
	}
}

// TestDiscoveryIsOfTheIssuer: a configuration of another issuer is none.
func TestDiscoveryIsOfTheIssuer(t *testing.T) {
	x := newTransmitter(t)
	l := x.polled(t, func(s *Settings) { s.Issuer = x.URL + "/" })
	if _, err := l.idp().discover(t.Context()); err == nil || !strings.Contains(err.Error(), "issuer") {
		t.Errorf("taken: %v", err)
	}
}
