package stream

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/quarantine/source/webhook"
)

// mac is worked out apart from the code that signs.
func mac(s webhook.Secret, text string) string {
	key, _ := hex.DecodeString(s.Hex())
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// TestFailingReceiverIsTriedAgainInOrder: whatever a receiver answers but a success, it is
// told the same again, and nothing is lost or passed.
func TestFailingReceiverIsTriedAgainInOrder(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	var elsewhere atomic.Int64
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	r.answer = func(w http.ResponseWriter, q *http.Request, n int) bool {
		switch n % 7 {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			http.Redirect(w, q, other.URL, http.StatusTemporaryRedirect)
		case 4:
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, strings.Repeat("x", 1<<20))
		case 5:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	l.add(r, "siem", nil)
	for i := range 50 {
		l.moved(fmt.Sprintf("d%02d", i), "quarantined", "routed")
	}
	until(t, func() bool { return len(r.events()) >= 50 })
	for i, e := range r.events() {
		if want := fmt.Sprintf("d%02d", i); e.Data.Device.ID != want {
			t.Fatalf("event %d is about %s, want %s", i, e.Data.Device.ID, want)
		}
	}
	if elsewhere.Load() != 0 {
		t.Errorf("a redirect was followed %d times", elsewhere.Load())
	}
	until(t, func() bool { s := l.state("siem"); return s.Failures == 0 && s.Waiting == 0 })
	if s := l.state("siem"); s.Problem != "" || s.Parked || s.Delivered != 50 {
		t.Errorf("state %+v", s.Health)
	}
}

// TestDeadReceiverHoldsUpNobody: beside one that never answers and one that is not there,
// another has everything.
func TestDeadReceiverHoldsUpNobody(t *testing.T) {
	l, slow, live := newLab(t), newReceiver(t), newReceiver(t)
	hang := make(chan struct{})
	slow.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		select {
		case <-hang:
		case <-q.Context().Done():
		}
	})
	l.add(slow, "slow", nil)
	gone := httptest.NewTLSServer(nil)
	at := gone.URL
	gone.Close()
	l.add(live, "gone", func(r *Receiver) { r.URL = at })
	l.add(live, "live", nil)
	for i := range 200 {
		l.moved(fmt.Sprintf("d%03d", i), "quarantined", "routed")
	}
	until(t, func() bool { return len(live.events()) == 200 })
	until(t, func() bool { return l.state("gone").Failures > 3 })
	if s := l.state("gone"); s.Problem == "" || s.Waiting != 200 || s.Since.IsZero() || s.Parked {
		t.Errorf("the dead one is %+v", s.Health)
	}
	if s := l.state("slow"); s.Delivered != 0 || s.Waiting != 200 {
		t.Errorf("the slow one is %+v", s.Health)
	}
	close(hang)
}

// TestRestartLosesAndReordersNothing stops the manager again and again in the midst, also
// without the progress that it last noted, as a kill does.
func TestRestartLosesAndReordersNothing(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.add(r, "siem", nil)
	const n = 300
	go func() {
		for i := range n {
			l.moved(fmt.Sprintf("d%03d", i), "quarantined", "routed")
		}
	}()
	for life := range 12 {
		have := len(r.events())
		until(t, func() bool { return len(r.events()) > have+5 || len(r.events()) >= n })
		noted, _ := notesOf{l.memory}.List(t.Context(), "stream/siem")
		kept := slices.Clone(noted["stream/siem"])
		l.stop()
		r.quiet(t)
		if life%2 == 0 { // killed: what was noted at the end is not there
			l.memory.notes["stream/siem"] = kept
		}
		l.start()
	}
	until(t, func() bool { s := l.state("siem"); return s.Waiting == 0 })
	next, again := 0, 0
	seen := map[string]bool{}
	for _, e := range r.events() {
		var i int
		if _, err := fmt.Sscanf(e.Data.Device.ID, "d%d", &i); err != nil {
			t.Fatal(err)
		}
		switch {
		case i == next:
			next++
		case i < next && seen[e.ID]: // told again, with the id that it had
			again++
			next = i + 1
		default:
			t.Fatalf("device %d comes after %d", i, next-1)
		}
		seen[e.ID] = true
	}
	if len(seen) != n || next != n {
		t.Errorf("told %d events of %d, the last is %d", len(seen), n, next-1)
	}
	t.Logf("%d events in 13 lives, %d told again", n, again)
}

// TestParkedUntilResumed: after so long nothing is tried; a person lets it go on.
func TestParkedUntilResumed(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.stop()
	var offset atomic.Int64
	l.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	l.start()
	var down atomic.Bool
	down.Store(true)
	r.answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return down.Load()
	}
	l.add(r, "siem", nil)
	l.moved("d1", "quarantined", "routed")
	until(t, func() bool { return l.state("siem").Failures > 2 })
	l.stop()
	offset.Store(int64(24*time.Hour + time.Minute)) // the day is counted across restarts
	l.start()
	until(t, func() bool { return l.state("siem").Parked })
	n := r.n
	l.moved("d2", "quarantined", "routed")
	l.stop()
	l.start()
	if s := l.state("siem"); !s.Parked || !strings.Contains(s.Problem, "24h") || s.Waiting != 2 || r.n != n {
		t.Errorf("parked: %+v, %d requests more", s.Health, r.n-n)
	}
	down.Store(false)
	offset.Store(0)
	if why, err := l.Test(t.Context(), "siem"); err != nil || why != "" {
		t.Errorf("a ping past the queue: %s, %v", why, err)
	}
	if err := l.Resume(t.Context(), boss, "siem"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return len(r.events()) == 3 })
	if s := l.state("siem"); s.Parked || s.Problem != "" {
		t.Errorf("resumed: %+v", s.Health)
	}
	r.answer = func(w http.ResponseWriter, _ *http.Request, _ int) bool { w.WriteHeader(http.StatusGone); return true }
	l.moved("d3", "quarantined", "routed")
	until(t, func() bool { return l.state("siem").Parked })
}

// TestKeysOfAReceiverRotate: messages bear both signatures while there are two keys.
func TestKeysOfAReceiverRotate(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	ctx := context.Background()
	l.add(r, "siem", nil)
	old := r.secrets[0]
	key, text, err := l.AddKey(ctx, boss, "siem")
	if err != nil {
		t.Fatal(err)
	}
	next, err := webhook.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.AddKey(ctx, boss, "siem"); err == nil {
		t.Error("a third key")
	}
	for i, secrets := range [][]webhook.Secret{{old}, {next}} {
		r.mu.Lock()
		r.secrets = secrets
		r.mu.Unlock()
		l.moved("d", "quarantined", "routed")
		until(t, func() bool { return len(r.events()) == i+1 })
	}
	if err := l.RemoveKey(ctx, boss, "siem", l.state("siem").Keys[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := l.RemoveKey(ctx, boss, "siem", key.ID); err == nil {
		t.Error("the last key was removed")
	}
	l.moved("d", "quarantined", "routed")
	until(t, func() bool { return len(r.events()) == 3 })
	if len(r.bad) != 0 || len(l.memory.secrets) != 2 { // the key, and the signer of tokens
		t.Errorf("not verified: %q; secrets %d", r.bad, len(l.memory.secrets))
	}
	if err := l.Remove(ctx, boss, "siem"); err != nil || len(l.memory.secrets) != 1 || len(l.memory.notes) != 0 || len(l.memory.settings) != 0 {
		t.Errorf("removed: %v, %d secrets, %d notes", err, len(l.memory.secrets), len(l.memory.notes))
	}
}

// TestUnverifiedServersAreToldNothing: neither another authority's certificate nor an address
// that is special.
func TestUnverifiedServersAreToldNothing(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.add(r, "stranger", func(v *Receiver) { v.CA = "" })
	l.moved("d", "quarantined", "routed")
	until(t, func() bool { return l.state("stranger").Failures > 0 })
	if s := l.state("stranger"); !strings.Contains(s.Problem, "certificate") || r.n != 0 {
		t.Errorf("%+v, %d requests", s.Health, r.n)
	}
	for text, refused := range map[string]bool{
		"127.0.0.1": true, "::1": true, "169.254.169.254": true, "fe80::1": true, "0.0.0.0": true, "0.1.2.3": true, "255.255.255.255": true, "224.0.0.1": true, "ff02::1": true, "::": true,
		"fd00:ec2::254": true, "100.100.100.200": true, "::ffff:169.254.169.254": true, "::ffff:100.100.100.200": true, "::ffff:0.1.2.3": true, "64:ff9b::a9fe:a9fe": true, "::ffff:127.0.0.1": true,
		"10.0.0.1": false, "192.168.1.1": false, "192.0.2.1": false, "2001:db8::1": false, "fd00::1": false, "64:ff9b::808:808": false,
	} {
		if err := checkAddr(netip.MustParseAddr(text), nil, false); (err != nil) != refused {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := checkAddr(netip.MustParseAddr("169.254.169.254"), []netip.Prefix{netip.MustParsePrefix("169.254.169.0/24")}, false); err != nil {
		t.Errorf("allowed: %v", err)
	}
	client := newClient(Receiver{URL: r.URL, CA: r.ca()}, false, nil)
	if _, err := client.Get(r.URL); err == nil || !strings.Contains(err.Error(), "this machine") || r.n != 0 {
		t.Errorf("connected to loopback: %v", err)
	}
}
