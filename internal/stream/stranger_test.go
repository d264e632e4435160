package stream

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// counted counts how often settings are read.
type counted struct {
	settingsOf
	reads *atomic.Int64
}

func (c counted) List(ctx context.Context, prefix string) (map[string]json.RawMessage, error) {
	c.reads.Add(1)
	return c.settingsOf.List(ctx, prefix)
}

func (c counted) Get(ctx context.Context, name string) (json.RawMessage, int64, error) {
	c.reads.Add(1)
	return c.settingsOf.Get(ctx, name)
}

// A stranger with whatever bearer costs no look at the store; a token that was replaced, and
// that of a receiver that is gone, are a stranger's.
func TestStrangersCostNoRead(t *testing.T) {
	l := newLab(t)
	l.stop()
	c := counted{settingsOf{l.memory}, new(atomic.Int64)}
	l.cfg.Settings = c
	l.start()
	ask := func(token string) int {
		r := httptest.NewRequest("GET", statusPath, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		l.Handlers()["GET "+statusPath].ServeHTTP(w, r)
		return w.Code
	}
	_, token, err := l.Add(context.Background(), boss, Receiver{Name: "siem", Kind: SSF}, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(token); got != http.StatusOK {
		t.Fatalf("the receiver itself: %d", got)
	}
	next, err := l.NewToken(context.Background(), boss, "siem")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(next); got != http.StatusOK {
		t.Errorf("the next token: %d", got)
	}
	c.reads.Store(0)
	for range 100 {
		for _, stranger := range []string{"x", "", token, tokenPrefix + strings.Repeat("a", 26), next + "a"} {
			if got := ask(stranger); got != http.StatusUnauthorized {
				t.Fatalf("%q: %d", stranger, got)
			}
		}
	}
	if n := c.reads.Load(); n != 0 {
		t.Errorf("strangers had settings read %d times", n)
	}
	if err := l.Remove(context.Background(), boss, "siem"); err != nil {
		t.Fatal(err)
	}
	if got := ask(next); got != http.StatusUnauthorized {
		t.Errorf("the token of a receiver that is gone: %d", got)
	}
}

// A receiver's token changes its stream's status a few times a minute: each change is kept and
// audited, and no loop fills the log.
func TestReceiverFillsNoLog(t *testing.T) {
	l := newLab(t)
	_, token, err := l.Add(context.Background(), boss, Receiver{Name: "siem", Kind: SSF}, "")
	if err != nil {
		t.Fatal(err)
	}
	revision := func() int64 {
		l.memory.mu.Lock()
		defer l.memory.mu.Unlock()
		return l.memory.revision[settingName("siem")]
	}
	before, answers := revision(), map[int]int{}
	for i := range 100 {
		r := httptest.NewRequest("POST", statusPath, strings.NewReader(`{"status":"`+[]string{"paused", "enabled"}[i%2]+`"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		l.Handlers()["POST "+statusPath].ServeHTTP(w, r)
		answers[w.Code]++
	}
	if n := revision() - before; n < mostToggles || n > 2*mostToggles { // a minute may end meanwhile
		t.Errorf("100 requests made %d changes: %v", n, answers)
	}
	if answers[http.StatusTooManyRequests] == 0 {
		t.Errorf("answers %v", answers)
	}
}
