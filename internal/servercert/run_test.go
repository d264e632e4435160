package servercert

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/acme"
)

const day = 24 * time.Hour

var settings = ACMESettings{Directory: "https://acme.example.test/directory", Contacts: []string{"hostmaster@example.test"}, Agreed: true}

// fakeServer stands in for obtain: it answers what it is told, and notes when it was asked.
type fakeServer struct {
	l    *lab
	t    *testing.T
	err  error
	life time.Duration
	at   []time.Time
}

func (f *fakeServer) ask(context.Context, account) (Bundle, string, error) {
	f.at = append(f.at, time.Now())
	if f.err != nil {
		return Bundle{}, "https://acme.example.test/account/1", f.err
	}
	key := newKey(f.t)
	c := server(name)
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(f.life-time.Hour)
	return Bundle{Chain: text2(f.l.leaf(f.t, key.Public(), c), f.l), Key: key}, "https://acme.example.test/account/1", nil
}

// runs starts the keeper anew, runs it for a time, and stops it.
func (f *fakeServer) runs(d time.Duration) {
	f.t.Helper()
	f.l.open(f.t)
	f.l.ask = f.ask
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan error, 1)
	go func() { done <- f.l.Run(ctx) }()
	time.Sleep(d)
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		f.t.Error(err)
	}
}

// within is the most attempts in any time of that length.
func (f *fakeServer) within(d time.Duration) int {
	most := 0
	for i := range f.at {
		n := 0
		for _, at := range f.at[i:] {
			if at.Sub(f.at[i]) < d {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

// TestFailuresAreFew: however often the gateway starts, a server that refuses is not asked
// more often than public ones bear; what is wrong is told, and a person may try again.
func TestFailuresAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		f := &fakeServer{l: l, t: t, err: errors.New("proving gw.example.test: connection refused \x1b[2J")}
		if err := l.SetACME(t.Context(), l.note, settings); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			f.runs(time.Minute)
		}
		f.runs(7 * day)
		if hour, all := f.within(time.Hour), len(f.at); hour > 4 || all < 8 || all > 15 {
			t.Errorf("%d attempts in an hour, %d in a week", hour, all)
		}
		if last := f.at[len(f.at)-1].Sub(f.at[len(f.at)-2]); last < day {
			t.Errorf("in the end it asks every %s", last)
		}
		s := l.State(t.Context())
		if s.ACME.Failures != len(f.at) || s.ACME.Problem != strings.ReplaceAll(f.err.Error(), "\x1b", " ") || s.Certificate != nil {
			t.Errorf("%+v", s.ACME)
		}
		was := len(f.at)
		if err := l.Renew(t.Context(), l.note); err != nil {
			t.Fatal(err)
		}
		f.runs(time.Minute / 2)
		if err := l.Renew(t.Context(), l.note); !errors.Is(err, ErrSoon) || len(f.at) != was+1 {
			t.Errorf("asked again at once: %v, %d attempts", err, len(f.at)-was)
		}
		f.err, f.life = nil, 90*day
		f.runs(3 * day)
		if s := l.State(t.Context()); s.ACME.Failures != 0 || s.ACME.Problem != "" || !s.Shown || s.Certificate.Source != ACME {
			t.Errorf("%+v", s.ACME)
		}
	})
}

// TestRenewsAtTwoThirds, also over restarts, and whatever is wrong with the life that the
// server gives, it is not asked in a loop.
func TestRenewsAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		f := &fakeServer{l: l, t: t, life: 90 * day}
		if err := l.SetACME(t.Context(), l.note, settings); err != nil {
			t.Fatal(err)
		}
		f.runs(59 * day)
		if len(f.at) != 1 {
			t.Fatalf("asked %d times before two thirds of the life are over", len(f.at))
		}
		first := l.shown.Load()
		f.runs(2 * day)
		if len(f.at) != 2 || f.at[1].Sub(f.at[0]) < 60*day-2*time.Hour || l.shown.Load() == first {
			t.Errorf("asked at %v", f.at)
		}
		if !slices.Equal(l.notes, []string{"certificate.acme.set", "certificate.obtain", "certificate.obtain"}) {
			t.Errorf("noted %v", l.notes)
		}
		l.config.Share = func() float64 { return 0.999 }
		f.runs(200 * day)
		if len(f.at) != 5 || f.at[4].Sub(f.at[3]) < 63*day { // 60 days, and a twenty-fourth of 90
			t.Errorf("asked at %v", f.at)
		}
		f.life = 2 * time.Hour
		if err := l.Renew(t.Context(), l.note); err != nil {
			t.Fatal(err)
		}
		f.at = nil
		f.runs(day)
		if n := f.within(time.Hour); n > 4 {
			t.Errorf("certificates of an hour are asked for %d times in one", n)
		}
	})
}

// TestServerSaysWhen: a server that was asked too often is left alone for as long as it says.
func TestServerSaysWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		f := &fakeServer{l: l, t: t, err: &acme.Error{StatusCode: 429, ProblemType: "urn:ietf:params:acme:error:rateLimited", Header: http.Header{"Retry-After": {"172800"}}}}
		if err := l.SetACME(t.Context(), l.note, settings); err != nil {
			t.Fatal(err)
		}
		f.runs(47 * time.Hour)
		if len(f.at) != 1 {
			t.Errorf("asked %d times within two days", len(f.at))
		}
		f.runs(2 * time.Hour)
		if len(f.at) != 2 {
			t.Errorf("asked %d times", len(f.at))
		}
	})
}

// TestWhatIsSetMeanwhileCounts: an attempt that was begun under other settings changes nothing;
// while there is ACME, nothing is brought; when it is unset, what is there stays.
func TestWhatIsSetMeanwhileCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		if err := l.SetACME(t.Context(), l.note, settings); err != nil {
			t.Fatal(err)
		}
		f := &fakeServer{l: l, t: t, life: 90 * day}
		l.ask = func(ctx context.Context, a account) (Bundle, string, error) {
			if err := l.UnsetACME(ctx, l.note); err != nil {
				t.Error(err)
			}
			return f.ask(ctx, a)
		}
		l.tick(t.Context())
		if s := l.State(t.Context()); s.ACME != nil || s.Certificate != nil || len(f.at) != 1 {
			t.Errorf("%+v", s)
		}
		l.bring(t, name)
		if err := l.SetACME(t.Context(), l.note, settings); err != nil {
			t.Fatal(err)
		}
		l.ask = f.ask
		l.tick(t.Context())
		if s := l.State(t.Context()); s.Certificate.Source != ACME {
			t.Errorf("%+v", s)
		}
		refused := []error{l.Unset(t.Context(), l.note), l.Set(t.Context(), l.note, Brought{Chain: text(l.issuer)})}
		_, _, err := l.Request(t.Context(), l.note, nil, "")
		for i, err := range append(refused, err) {
			if !errors.Is(err, ErrACME) {
				t.Errorf("%d, while there is ACME: %v", i, err)
			}
		}
		if err := l.UnsetACME(t.Context(), l.note); err != nil {
			t.Fatal(err)
		}
		if s := l.State(t.Context()); !s.Shown {
			t.Errorf("%+v", s)
		}
		if err := errors.Join(l.Unset(t.Context(), l.note)); err != nil || len(l.store.names()) != 0 {
			t.Errorf("%v, kept %v", err, l.store.names())
		}
	})
}
