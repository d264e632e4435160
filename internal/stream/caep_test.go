package stream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/sourcetest"
	"lazaret/quarantine/source/ssf"
)

// transmitter serves a lab's handlers over TLS, as the enrollment listener does.
func (l *lab) transmitter() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { // the manager is another after a restart
		inner := http.NewServeMux()
		for pattern, h := range l.Handlers() {
			inner.Handle(pattern, h)
		}
		inner.ServeHTTP(w, r)
	})
	s := httptest.NewTLSServer(mux)
	l.t.Cleanup(s.Close)
	l.stop()
	l.cfg.Issuer = s.URL
	l.start()
	return s
}

// call makes a request of a receiver, and decodes the answer into v.
func call(t *testing.T, s *httptest.Server, method, path, token, body string, v any) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := s.Client().Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if v != nil {
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, raw)
		}
	}
	return resp.StatusCode
}

// claims reads a token with another implementation of JOSE, and the published keys.
func claims(t *testing.T, s *httptest.Server, text string) map[string]any {
	t.Helper()
	var published struct {
		Keys []struct{ Kid, Kty, Crv, Alg, Use, X, Y string }
	}
	call(t, s, "GET", "/.well-known/jwks.json", "", "", &published)
	token, err := jwt.Parse(text, func(k *jwt.Token) (any, error) {
		if k.Header["typ"] != "secevent+jwt" {
			t.Errorf("typ is %v", k.Header["typ"])
		}
		for _, p := range published.Keys {
			if p.Kid == k.Header["kid"] && p.Kty == "EC" && p.Crv == "P-256" && p.Use == "sig" {
				x, _ := base64.RawURLEncoding.DecodeString(p.X)
				y, _ := base64.RawURLEncoding.DecodeString(p.Y)
				return &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}, nil
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(s.URL))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return token.Claims.(jwt.MapClaims)
}

// pushes is a receiver of tokens that are pushed.
type pushes struct {
	*httptest.Server
	mu   sync.Mutex
	got  []string
	head []http.Header
}

func newPushes(t *testing.T) *pushes {
	p := &pushes{}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.got, p.head = append(p.got, string(body)), append(p.head, r.Header)
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *pushes) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *pushes) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// TestPushedTokens verifies every token with golang-jwt and the published keys.
func TestPushedTokens(t *testing.T) {
	l := newLab(t)
	s, p := l.transmitter(), newPushes(t)
	if _, _, err := l.Add(t.Context(), boss, Receiver{Name: "idp", Kind: SSF, URL: p.URL + "/push", CA: p.ca(), Audience: "https://idp.example.com"}, "Bearer pushing"); err != nil {
		t.Fatal(err)
	}
	l.book.write(audit.Entry{Action: "device.enroll", Device: "d1", Detail: map[string]string{"to": "quarantined"}})
	l.moved("d1", "quarantined", "routed")
	l.moved("d1", "routed", "quarantined")
	l.moved("d1", "quarantined", "pending")
	l.moved("d1", "quarantined", "routed")
	if err := l.RotateSigner(t.Context(), boss); err != nil {
		t.Fatal(err)
	}
	l.book.write(audit.Entry{Action: "device.block", Device: "d1", Actor: audit.Actor{Kind: "administrator", Name: "ada"}, Detail: map[string]string{"from": "routed", "to": "blocked", "reason": "blocked by ada"}})
	l.book.write(audit.Entry{Action: "device.revoke", Device: "d1", Detail: map[string]string{"from": "blocked", "to": "revoked"}})
	const caep = "https://schemas.openid.net/secevent/caep/event-type/"
	want := []struct{ event, was, is, who string }{
		{caep + "device-compliance-change", "not-compliant", "compliant", "policy"},
		{caep + "device-compliance-change", "compliant", "not-compliant", "policy"},
		{caep + "device-compliance-change", "not-compliant", "compliant", "policy"},
		{caep + "device-compliance-change", "compliant", "not-compliant", "admin"},
		{caep + "session-revoked", "", "", "admin"},
	}
	until(t, func() bool { return len(p.all()) >= len(want) && l.state("idp").Waiting == 0 })
	if n := len(p.all()); n != len(want) {
		t.Fatalf("%d tokens, want %d", n, len(want))
	}
	ids, kids := map[any]bool{}, map[any]bool{}
	for i, text := range p.all() {
		c := claims(t, s, text)
		ids[c["jti"]] = true
		header, _ := base64.RawURLEncoding.DecodeString(text[:strings.IndexByte(text, '.')])
		kids[string(header)] = true
		event, _ := c["events"].(map[string]any)[want[i].event].(map[string]any)
		subject := c["sub_id"].(map[string]any)
		device := subject["device"].(map[string]any)
		if event == nil || event["initiating_entity"] != want[i].who || event["event_timestamp"] == nil || c["aud"] != "https://idp.example.com" ||
			subject["format"] != "complex" || device["format"] != "opaque" || device["id"] != "d1" || c["exp"] != nil || c["sub"] != nil {
			t.Errorf("token %d: %v", i, c)
		}
		if want[i].is != "" && (event["current_status"] != want[i].is || event["previous_status"] != want[i].was) {
			t.Errorf("token %d: %v", i, event)
		}
		h := p.head[i]
		if h.Get("Content-Type") != "application/secevent+jwt" || h.Get("Accept") != "application/json" || h.Get("Authorization") != "Bearer pushing" {
			t.Errorf("token %d has the headers %v", i, h)
		}
	}
	if len(ids) != len(want) || len(kids) < 1 {
		t.Errorf("%d jti of %d tokens", len(ids), len(want))
	}
}

// TestTokensToldAgainAreTheSame: a receiver that has had one knows it by its payload.
func TestTokensToldAgainAreTheSame(t *testing.T) {
	l := newLab(t)
	n := audit.Numbered{Sequence: 3, Entry: audit.Entry{ID: "abc", Time: noon, Action: "device.report", Device: "d1", Detail: map[string]string{"from": "routed", "to": "quarantined"}}}
	payload := func() string {
		tokens, err := l.tokens(Receiver{Name: "a", Kind: SSF, StreamID: "st_1"}, events("gw", n)[0])
		if err != nil || len(tokens) != 1 {
			t.Fatalf("%v, %v", tokens, err)
		}
		return strings.Split(tokens[0].text, ".")[1]
	}
	first := payload()
	l.stop()
	l.start()
	if second := payload(); second != first {
		t.Errorf("%s, then %s", first, second)
	}
}

// TestPolledTokens asks as RFC 8936 has it: what is not acknowledged comes again, also after a
// restart, and what is acknowledged does not.
func TestPolledTokens(t *testing.T) {
	l := newLab(t)
	s := l.transmitter()
	r, token, err := l.Add(t.Context(), boss, Receiver{Name: "idp", Kind: SSF}, "")
	if err != nil {
		t.Fatal(err)
	}
	path := "/streams/v1/poll/" + r.StreamID
	poll := func(body string) (ids []string, more bool) {
		t.Helper()
		var a pollAnswer
		if status := call(t, s, "POST", path, token, body, &a); status != 200 {
			t.Fatalf("status %d", status)
		}
		for id, text := range a.Sets {
			if claims(t, s, text)["jti"] != id {
				t.Errorf("%s is not what is in it", id)
			}
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids, a.MoreAvailable
	}
	for _, d := range []string{"d1", "d2", "d3"} {
		l.book.write(audit.Entry{Action: "otp.create"})
		l.moved(d, "quarantined", "routed")
	}
	first, more := poll(`{"maxEvents":2,"returnImmediately":true}`)
	if len(first) != 2 || !more {
		t.Fatalf("first %v, more %v", first, more)
	}
	if again, _ := poll(`{"maxEvents":2,"returnImmediately":true}`); !slices.Equal(again, first) {
		t.Errorf("not acknowledged, then %v instead of %v", again, first)
	}
	l.stop()
	l.start()
	ack, _ := json.Marshal(map[string]any{"ack": first[1:], "returnImmediately": true})
	rest, more := poll(string(ack)) // the second of them: the first holds the cursor
	if len(rest) != 3 || more {
		t.Fatalf("after a restart %v, more %v", rest, more)
	}
	ack, _ = json.Marshal(map[string]any{"ack": first[1:], "returnImmediately": true})
	rest, _ = poll(string(ack))
	if len(rest) != 2 || slices.Contains(rest, first[1]) {
		t.Fatalf("acknowledged out of order, then %v", rest)
	}
	ack, _ = json.Marshal(map[string]any{"ack": rest[:1], "setErrs": map[string]any{rest[1]: map[string]string{"err": "invalid_key"}}, "maxEvents": 0})
	if none, more := poll(string(ack)); len(none) != 0 || more {
		t.Errorf("acknowledged all, then %v", none)
	}
	if st := l.state("idp"); st.Waiting != 0 || !strings.Contains(st.Problem, "invalid_key") {
		t.Errorf("state %+v", st.Health)
	}
	done := make(chan []string)
	go func() { ids, _ := poll(`{}`); done <- ids }()
	until(t, func() bool {
		l.mu.Lock()
		p := l.polls["idp"]
		l.mu.Unlock()
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.cancel != nil
	})
	l.moved("d4", "routed", "blocked")
	ids := <-done
	if len(ids) != 2 { // its compliance, and its session
		t.Errorf("waited for %v", ids)
	}
	for _, bad := range []struct {
		path, token, body string
		status            int
	}{
		{path, "", `{}`, 401}, {path, "lzs_guess", `{}`, 401}, {"/streams/v1/poll/st_other", token, `{}`, 404}, {path, token, `{`, 400}, {path, token, `{}{}`, 400},
		{path, token, `{"ack":"x"}`, 400}, {path, token, `{"ack":["` + strings.Repeat(`x","`, 1001) + `"]}`, 400},
	} {
		if got := call(t, s, "POST", bad.path, bad.token, bad.body, nil); got != bad.status {
			t.Errorf("%s with %.60s: %d, want %d", bad.path, bad.body, got, bad.status)
		}
	}
}

// TestStreamIsTheReceiversToPauseAndVerify (SSF 1.0 section 8.1).
func TestStreamIsTheReceiversToPauseAndVerify(t *testing.T) {
	l := newLab(t)
	s := l.transmitter()
	r, token, err := l.Add(t.Context(), boss, Receiver{Name: "idp", Kind: SSF}, "")
	if err != nil {
		t.Fatal(err)
	}
	_, otherToken, err := l.Add(t.Context(), boss, Receiver{Name: "other", Kind: SSF}, "")
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if call(t, s, "GET", "/.well-known/ssf-configuration", "", "", &conf); conf["issuer"] != s.URL || conf["spec_version"] != "1_0" || conf["jwks_uri"] != s.URL+"/.well-known/jwks.json" {
		t.Errorf("configuration %v", conf)
	}
	var all []map[string]any
	if call(t, s, "GET", "/streams/v1/stream", token, "", &all); len(all) != 1 || all[0]["stream_id"] != r.StreamID || all[0]["delivery"].(map[string]any)["method"] != "urn:ietf:rfc:8936" {
		t.Errorf("streams %v", all)
	}
	if got := call(t, s, "GET", "/streams/v1/stream?stream_id="+r.StreamID, otherToken, "", nil); got != 404 {
		t.Errorf("another's stream: %d", got)
	}
	status := func(want string) {
		t.Helper()
		var v map[string]any
		if call(t, s, "GET", "/streams/v1/status?stream_id="+r.StreamID, token, "", &v); v["status"] != want {
			t.Errorf("status %v, want %s", v, want)
		}
	}
	poll := func() []string {
		t.Helper()
		var a pollAnswer
		call(t, s, "POST", "/streams/v1/poll/"+r.StreamID, token, `{"returnImmediately":true}`, &a)
		var subjects []string
		for _, text := range a.Sets {
			c := claims(t, s, text)
			id, _ := c["sub_id"].(map[string]any)
			if d, ok := id["device"].(map[string]any); ok {
				id = d
			}
			subjects = append(subjects, id["id"].(string))
			call(t, s, "POST", "/streams/v1/poll/"+r.StreamID, token, `{"maxEvents":0,"ack":["`+c["jti"].(string)+`"]}`, nil)
		}
		return subjects
	}
	set := func(v string, want int) {
		t.Helper()
		if got := call(t, s, "POST", "/streams/v1/status", token, `{"stream_id":"`+r.StreamID+`","status":"`+v+`"}`, nil); got != want {
			t.Errorf("setting %s: %d", v, got)
		}
	}
	status("enabled")
	set("asleep", 400)
	set("paused", 200)
	l.moved("kept", "quarantined", "routed")
	if got := poll(); len(got) != 0 {
		t.Errorf("paused, yet %v", got)
	}
	status("paused")
	set("enabled", 200)
	if got := poll(); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("after the pause %v", got)
	}
	set("disabled", 200)
	l.moved("lost", "quarantined", "routed")
	set("enabled", 200)
	l.moved("new", "quarantined", "routed")
	if got := poll(); !slices.Equal(got, []string{"new"}) {
		t.Errorf("after it was disabled %v", got)
	}
	if got := call(t, s, "POST", "/streams/v1/verify", token, `{"stream_id":"`+r.StreamID+`","state":"abc"}`, nil); got != 204 {
		t.Errorf("verification: %d", got)
	}
	if got := poll(); !slices.Equal(got, []string{r.StreamID}) {
		t.Errorf("verified %v", got)
	}
	for range mostExtra {
		call(t, s, "POST", "/streams/v1/verify", token, `{"state":"x"}`, nil)
	}
	if got := call(t, s, "POST", "/streams/v1/verify", token, `{}`, nil); got != 429 {
		t.Errorf("too many verifications: %d", got)
	}
	next, err := l.NewToken(t.Context(), boss, "idp")
	if err != nil {
		t.Fatal(err)
	}
	if call(t, s, "GET", "/streams/v1/status", token, "", nil) != 401 || call(t, s, "GET", "/streams/v1/status", next, "", nil) != 200 {
		t.Error("the old token is still good, or the new one is not")
	}
}

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
			st := ssf.Settings{Issuer: s.URL, Audience: []string{"https://other.example.com"}, Delivery: how, StreamID: made.StreamID, PollEvery: "1s",
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
