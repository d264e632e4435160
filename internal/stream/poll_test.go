package stream

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/audit"
)

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
