package servercert

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestClockThatWasAhead: an attempt that a clock made that was ahead keeps the next one off for
// its pause, and not until that clock's time has come; over a start, and without one.
func TestClockThatWasAhead(t *testing.T) {
	for _, start := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			f := &fakeServer{l: l, t: t, err: errors.New("x509: certificate has expired")}
			l.ask = f.ask
			if err := l.SetACME(t.Context(), l.note, settings); err != nil {
				t.Fatal(err)
			}
			l.now = time.Now().AddDate(2, 0, 0)
			l.tick(t.Context())
			l.now = time.Time{}
			if start {
				l.open(t)
				l.ask = f.ask
			}
			f.err, f.life = nil, 90*day
			if wait := l.tick(t.Context()); len(f.at) != 1 || wait < firstWait-time.Minute || wait > firstWait {
				t.Errorf("after the clock went back: %d attempts, the next look in %s", len(f.at), wait)
			}
			time.Sleep(firstWait)
			if l.tick(t.Context()); len(f.at) != 2 || !l.State(t.Context()).Shown {
				t.Errorf("a pause later: %d attempts: %+v", len(f.at), l.State(t.Context()).ACME)
			}
		})
	}
}

// TestPausesGoByTheWallClock: a monotonic reading would stand still while the machine does.
func TestPausesGoByTheWallClock(t *testing.T) {
	l := newLab(t)
	f := &fakeServer{l: l, t: t, err: errors.New("refused")}
	l.ask = f.ask
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	l.tick(t.Context())
	a := l.acme.Load()
	for what, at := range map[string]time.Time{"tried": a.Tried, "next": a.Next} {
		if at != at.Round(0) || at.IsZero() {
			t.Errorf("%s holds a monotonic reading: %s", what, at)
		}
	}
}

// TestRenewWhileAsking: an attempt that runs is not begun again, and what it brings is shown,
// also where what does not concern the certificate is set otherwise meanwhile.
func TestRenewWhileAsking(t *testing.T) {
	l := newLab(t)
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{l: l, t: t, life: 90 * day}
	l.ask = func(ctx context.Context, a account) (Bundle, string, error) {
		l.now = time.Now().Add(61 * time.Second)
		if err := l.Renew(ctx, l.note); !errors.Is(err, ErrSoon) {
			t.Errorf("asked for while an attempt runs: %v", err)
		}
		if s := l.State(ctx); s.ACME.Problem != "" {
			t.Errorf("while the first attempt runs: %+v", s.ACME)
		}
		other := settings
		other.Contacts, other.For = []string{"other@example.test"}, []string{name}
		if err := l.SetACME(ctx, l.note, other); err != nil {
			t.Error(err)
		}
		return f.ask(ctx, a)
	}
	l.tick(t.Context())
	l.tick(t.Context())
	s := l.State(t.Context())
	if len(f.at) != 1 || !s.Shown || s.ACME.Failures != 0 || s.ACME.Problem != "" || s.ACME.Account == "" {
		t.Errorf("%d asked for: %+v %+v", len(f.at), s, s.ACME)
	}
	if !slices.Equal(s.ACME.Contacts, []string{"other@example.test"}) || s.Certificate == nil || !slices.Equal(s.Certificate.For, []string{name}) {
		t.Errorf("what was set meanwhile is lost: %+v %+v", s.ACME, s.Certificate)
	}
}

// TestSetAgain: what is set again as it was, as programs do that keep settings, shortens no
// pause and forgets no failure; something else is asked for a minute after the last attempt.
func TestSetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		f := &fakeServer{l: l, t: t, err: errors.New("refused")}
		l.ask = f.ask
		set := func(s ACMESettings) {
			t.Helper()
			if err := l.SetACME(t.Context(), l.note, s); err != nil {
				t.Fatal(err)
			}
			l.tick(t.Context())
		}
		other := settings
		other.Contacts = nil
		for range 12 * 24 { // each five minutes for a day
			set(settings)
			set(other)
			time.Sleep(5 * time.Minute)
		}
		if s := l.State(t.Context()); len(f.at) < 5 || len(f.at) > 8 || s.ACME.Failures != len(f.at) || s.ACME.Problem == "" {
			t.Errorf("asked %d times in a day: %+v", len(f.at), s.ACME)
		}
		was, key := len(f.at), l.acme.Load().Key
		other.Key = "p384"
		time.Sleep(2 * time.Minute)
		set(other)
		if len(f.at) != was+1 || !bytes.Equal(l.acme.Load().Key, key) {
			t.Errorf("another kind of key: asked %d times, the account is the same: %v", len(f.at)-was, bytes.Equal(l.acme.Load().Key, key))
		}
		other.Directory += "/other"
		set(other)
		if len(f.at) != was+1 {
			t.Error("another server is asked at once after the last attempt")
		}
		time.Sleep(sooner)
		if l.tick(t.Context()); len(f.at) != was+2 {
			t.Error("another server is not asked a minute later")
		}
	})
}

// TestBrokenRequests: keys that cannot be read keep nothing else from being told, and the next
// request takes their place.
func TestBrokenRequests(t *testing.T) {
	for _, blob := range []string{"{", `{"v":2}`} {
		l := newLab(t)
		l.bring(t, name)
		l.store.kept[blobRequests] = []byte(blob)
		if s := l.State(t.Context()); !s.Shown || !strings.Contains(s.Problem, "certificate csr") {
			t.Errorf("%s: %+v", blob, s)
		}
		l.bring(t, name)
		if _, _, err := l.Request(t.Context(), l.note, nil, ""); err != nil {
			t.Errorf("%s: %v", blob, err)
		}
		if s := l.State(t.Context()); s.Problem != "" || len(s.Waiting) != 1 {
			t.Errorf("%s: %+v", blob, s)
		}
	}
}

// TestBrokenACME: it is told until it is unset or set, whatever else is done.
func TestBrokenACME(t *testing.T) {
	l := newLab(t)
	l.bring(t, name)
	for _, blob := range []string{"{", `{"v":2}`} {
		l.store.kept[blobACME] = []byte(blob)
		l.open(t)
		if s := l.State(t.Context()); !s.Shown || !strings.Contains(s.Problem, "acme unset") {
			t.Errorf("%s: %+v", blob, s)
		}
		if err := l.Unset(t.Context(), l.note); !errors.Is(err, ErrACME) {
			t.Errorf("%s: unset: %v", blob, err)
		}
		if err := l.Set(t.Context(), l.note, Brought{Chain: text(l.issuer), Key: keyText(t, l.issuerKey)}); !errors.Is(err, ErrACME) {
			t.Errorf("%s: set: %v", blob, err)
		}
		if err := l.UnsetACME(t.Context(), l.note); err != nil {
			t.Errorf("%s: %v", blob, err)
		}
		l.open(t)
		if s := l.State(t.Context()); !s.Shown || s.Problem != "" {
			t.Errorf("%s, after unset and a start: %+v", blob, s)
		}
	}
	l.store.kept[blobACME] = []byte("{")
	l.open(t)
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	if s := l.State(t.Context()); s.Problem != "" || s.ACME == nil {
		t.Errorf("set anew: %+v", s)
	}
}

// failing is a store that gives nothing for a while.
type failing struct {
	*blobs
	fails bool
}

func (f *failing) Get(ctx context.Context, name string) ([]byte, error) {
	if f.fails {
		return nil, context.DeadlineExceeded
	}
	return f.blobs.Get(ctx, name)
}

// TestStoreFailsAtTheStart: what the store could not give then is there once it can, and is
// not changed blindly meanwhile.
func TestStoreFailsAtTheStart(t *testing.T) {
	l := newLab(t)
	c := l.bring(t, name)
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	account := bytes.Clone(l.store.kept[blobACME])
	store := &failing{blobs: l.store, fails: true}
	l.config.Store = store
	l.open(t)
	if s := l.State(t.Context()); s.Shown || s.Problem == "" {
		t.Errorf("%+v", s)
	}
	if got := l.shows(t, &tls.Config{ServerName: name, NextProtos: []string{"h2"}}); got != "own" {
		t.Errorf("shown: %s", got)
	}
	key := newKey(t)
	brought := Brought{Chain: text(l.leaf(t, key.Public(), server(name)), l.issuer), Key: keyText(t, key)}
	for what, err := range map[string]error{
		"set": l.Set(t.Context(), l.note, brought), "unset": l.Unset(t.Context(), l.note), "acme set": l.SetACME(t.Context(), l.note, settings),
	} {
		if err == nil || !bytes.Equal(l.store.kept[blobACME], account) {
			t.Errorf("%s while the store gives nothing: %v", what, err)
		}
	}
	f := &fakeServer{l: l, t: t, err: errors.New("refused")}
	l.ask = f.ask
	if wait := l.tick(t.Context()); wait > time.Minute {
		t.Errorf("the next look is in %s", wait)
	}
	store.fails = false
	l.tick(t.Context())
	if s := l.State(t.Context()); !s.Shown || s.Problem != "" || s.ACME == nil || len(f.at) != 1 || !l.shown.Load().leaf().Equal(c) {
		t.Errorf("%+v, %d asked", s, len(f.at))
	}
}

// TestIssuerEnds: no client takes a certificate whose issuer's is over.
func TestIssuerEnds(t *testing.T) {
	l := newLab(t)
	key := newKey(t)
	template := authority("Short Issuer")
	template.NotAfter = time.Now().Add(day)
	short := issue(t, template, l.root, l.issuerKey.Public(), l.rootKey)
	c := issue(t, server(name), short, key.Public(), l.issuerKey)
	if err := l.Set(t.Context(), l.note, Brought{Chain: text(c, short), Key: keyText(t, key)}); err != nil {
		t.Fatal(err)
	}
	if s := l.State(t.Context()); !s.Shown || !s.Certificate.NotAfter.Equal(short.NotAfter) {
		t.Errorf("it ends on %s, its issuer on %s", s.Certificate.NotAfter, short.NotAfter)
	}
	l.open(t)
	l.now = time.Now().Add(2 * day)
	if got := l.shows(t, &tls.Config{ServerName: name, NextProtos: []string{"h2"}, InsecureSkipVerify: true}); got != "own" || l.State(t.Context()).Shown {
		t.Errorf("after its issuer's end: %s", got)
	}
}

// TestAccountIsKept: an attempt that does not come as far as the account does not forget it.
func TestAccountIsKept(t *testing.T) {
	l := newLab(t)
	f := &fakeServer{l: l, t: t, err: errors.New("refused")}
	if err := l.SetACME(t.Context(), l.note, settings); err != nil {
		t.Fatal(err)
	}
	l.ask = f.ask
	l.tick(t.Context())
	l.now = time.Now().Add(day)
	l.ask = func(context.Context, account) (Bundle, string, error) { return Bundle{}, "", errors.New("unreachable") }
	l.tick(t.Context())
	if a := l.State(t.Context()).ACME; a.Account == "" || a.Problem != "unreachable" {
		t.Errorf("%+v", a)
	}
}

// TestShownForWhatIsSet: a change of the names that it is shown for holds at once, and after a
// start.
func TestShownForWhatIsSet(t *testing.T) {
	l := newLab(t)
	f := &fakeServer{l: l, t: t, life: 90 * day}
	l.ask = f.ask
	set := settings
	for _, names := range [][]string{nil, {name}, nil} {
		set.For = names
		if err := l.SetACME(t.Context(), l.note, set); err != nil {
			t.Fatal(err)
		}
		l.tick(t.Context())
		for range 2 {
			if s := l.State(t.Context()); s.Certificate == nil || !slices.Equal(s.Certificate.For, names) || len(f.at) != 1 {
				t.Errorf("set %v: %+v, asked %d times", names, s.Certificate, len(f.at))
			}
			l.open(t)
			l.ask = f.ask
		}
	}
}
