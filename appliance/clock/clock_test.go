package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a clock that is off by something, and notes what was done to it.
type fake struct {
	mu     sync.Mutex
	off    time.Duration
	steps  int
	slewed time.Duration
	saved  int
}

func (f *fake) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Round(0).Add(f.off)
}

func (f *fake) Step(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off, f.steps = t.Sub(time.Now().Round(0)), f.steps+1
	return nil
}

func (f *fake) Slew(d, _ time.Duration) error { f.slewed += d; return nil }
func (f *fake) Save(time.Time) error          { f.saved++; return nil }

func keeper(t *testing.T, c Config) *Keeper {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAgree(t *testing.T) {
	ms := time.Millisecond
	s := func(name string, offset, distance time.Duration) sample { return sample{name, offset, distance} }
	for name, c := range map[string]struct {
		samples    []sample
		configured int
		want       time.Duration
		from       string // "": they must not agree
	}{
		"one":                 {[]sample{s("a", 10*ms, 5*ms)}, 1, 10 * ms, "a"},
		"none":                {nil, 1, 0, ""},
		"two that differ":     {[]sample{s("a", 0, 5*ms), s("b", time.Hour, 5*ms)}, 2, 0, ""},
		"one of two is dead":  {[]sample{s("b", 20*ms, 5*ms)}, 2, 20 * ms, "b"},
		"one of three lies":   {[]sample{s("a", 10*ms, 20*ms), s("b", 12*ms, 4*ms), s("c", time.Hour, ms)}, 3, 12 * ms, "b"},
		"two of three lie":    {[]sample{s("a", 10*ms, 20*ms), s("b", 2*time.Hour, 4*ms), s("c", time.Hour, ms)}, 3, 0, ""},
		"one of three speaks": {[]sample{s("a", 10*ms, 20*ms)}, 3, 0, ""},
		"half of four":        {[]sample{s("a", 0, ms), s("b", 0, ms), s("c", time.Hour, ms), s("d", time.Hour, ms)}, 4, 0, ""},
	} {
		got, from, err := agree(c.samples, c.configured)
		if from != c.from || (err == nil) != (c.from != "") || (got-c.want).Abs() > 9*ms {
			t.Errorf("%s: %v from %q, %v; want %v from %q", name, got, from, err, c.want, c.from)
		}
	}
}

// TestBounds: what a claimed machine follows, what waits for a person, and what is never done.
func TestBounds(t *testing.T) {
	built := time.Now().Add(-1000 * time.Hour)
	for name, c := range map[string]struct {
		off     time.Duration // how far the clock is ahead
		claimed bool
		mark    time.Duration // age of the mark; 0: none
		person  bool
		stepped bool
		problem string
	}{
		"small":                        {off: 50 * time.Millisecond, claimed: true},
		"a step":                       {off: time.Minute, claimed: true, stepped: true},
		"far, unclaimed":               {off: 100 * time.Hour, stepped: true},
		"far, claimed":                 {off: 2 * time.Hour, claimed: true, problem: "without a person"},
		"far, claimed, behind":         {off: -2 * time.Hour, claimed: true, problem: "without a person"},
		"far, claimed, person":         {off: 2 * time.Hour, claimed: true, person: true, stepped: true},
		"behind the mark":              {off: 30 * time.Minute, claimed: true, mark: -10 * time.Minute, problem: "passed already"},
		"behind the mark, unclaimed":   {off: 30 * time.Minute, mark: -10 * time.Minute, problem: "passed already"},
		"behind the mark, person":      {off: 30 * time.Minute, mark: -10 * time.Minute, person: true, stepped: true},
		"before it was built, person":  {off: 2000 * time.Hour, person: true, problem: "passed already"},
		"after the mark, a small step": {off: 30 * time.Minute, claimed: true, mark: time.Hour, stepped: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{off: c.off}
			mark := filepath.Join(t.TempDir(), "mark")
			if c.mark != 0 {
				if err := touch(mark, time.Now().Add(-c.mark)); err != nil {
					t.Fatal(err)
				}
			}
			truth := time.Now()
			b := built
			if strings.HasPrefix(name, "before it was built") {
				b = truth.Add(time.Hour)
			}
			k := keeper(t, Config{System: f, Servers: func() []string { return []string{"a"} }, Built: b, Mark: mark, Claimed: func() bool { return c.claimed },
				ask: func(_ context.Context, s string, now func() time.Time) (sample, error) {
					return sample{s, time.Since(now()), time.Millisecond}, nil
				}})
			var err error
			if c.person {
				err = k.Accept(t.Context())
			} else {
				err = k.compare(t.Context(), false)
			}
			if (f.steps == 1) != c.stepped || f.steps != f.saved {
				t.Errorf("steps %d, saved %d: %v", f.steps, f.saved, err)
			}
			if (err != nil) != (c.problem != "") || err != nil && !strings.Contains(k.Status().Problem, c.problem) {
				t.Errorf("%v; problem %q, want %q", err, k.Status().Problem, c.problem)
			}
			if info, statErr := os.Stat(mark); err == nil && (statErr != nil || time.Until(info.ModTime()).Abs() > time.Minute) {
				t.Errorf("the mark: %v %v", info, statErr)
			}
			if k.Status().Synchronized != (err == nil) {
				t.Errorf("synchronized: %+v", k.Status())
			}
		})
	}
}

// TestWalk: servers that lead a claimed machine away step by step come no further than by one.
func TestWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		k := keeper(t, Config{System: f, Servers: func() []string { return []string{"a"} }, Claimed: func() bool { return true },
			ask: func(_ context.Context, s string, _ func() time.Time) (sample, error) {
				return sample{s, 25 * time.Minute, time.Millisecond}, nil // always ahead
			}})
		for range 50 {
			_ = k.compare(t.Context(), false) // refused from the third on
		}
		if f.steps != 2 || k.Status().Problem == "" {
			t.Errorf("%d steps, %+v", f.steps, k.Status())
		}
		time.Sleep(25 * time.Hour)
		if err := k.compare(t.Context(), false); err != nil {
			t.Errorf("a day later: %v", err)
		}
	})
}

// TestFloor: a clock behind what has passed is set, one ahead is not.
func TestFloor(t *testing.T) {
	f := &fake{off: -50 * 365 * 24 * time.Hour}
	mark := filepath.Join(t.TempDir(), "mark")
	k := keeper(t, Config{System: f, Built: time.Now().Add(-time.Hour), Mark: mark})
	if err := k.Floor(); err != nil || f.off.Round(time.Minute) != -time.Hour {
		t.Errorf("%v %v", err, f.off)
	}
	if err := touch(mark, time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := k.Floor(); err != nil || f.off.Round(time.Minute) != -time.Minute {
		t.Errorf("with the mark: %v %v", err, f.off)
	}
	f.off = time.Hour
	if err := k.Floor(); err != nil || f.steps != 2 {
		t.Errorf("ahead: %v, %d steps", err, f.steps)
	}
}

// TestRhythm: after failures it asks again soon and then ever less, a kick asks at once, and
// a server that says no is left alone.
func TestRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		var asked []time.Duration
		works := false
		k := keeper(t, Config{System: &fake{}, Servers: func() []string { return []string{"a", "b"} },
			ask: func(_ context.Context, s string, _ func() time.Time) (sample, error) {
				mu.Lock()
				defer mu.Unlock()
				if s == "b" {
					asked = append(asked, -1)
					return sample{}, errKiss{"DENY"}
				}
				asked = append(asked, time.Since(begun))
				if !works {
					return sample{}, errors.New("no network")
				}
				return sample{s, 0, time.Millisecond}, nil
			}})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		time.Sleep(36 * time.Second) // 0, 5, 15, 35
		mu.Lock()
		works = true
		mu.Unlock()
		k.Kick()
		select {
		case <-k.Synchronized():
		case <-time.After(time.Second):
			t.Error("not synchronized after a kick")
		}
		time.Sleep(4*64*time.Second + 1024*time.Second + time.Minute)
		mu.Lock()
		var a []int
		denied := 0
		for _, d := range asked {
			if d < 0 {
				denied++
			} else {
				a = append(a, int(d.Seconds()))
			}
		}
		mu.Unlock()
		want := []int{0, 5, 15, 35, 36, 100, 164, 228, 292, 1316}
		if len(a) != len(want) {
			t.Fatalf("asked at %v, want %v", a, want)
		}
		for i := range want {
			if a[i] != want[i] {
				t.Errorf("asked at %v, want %v", a, want)
			}
		}
		if denied != 1 {
			t.Errorf("asked one that denies %d times", denied)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// answer is a server's, as RFC 5905 section 7.3 lays it out.
type answer struct {
	leap, stratum  byte
	reference      string
	delay, spread  time.Duration
	ahead          time.Duration
	wrongOrigin    bool
	length         int
	referenceStale time.Duration
}

func stamp(t time.Time) uint64 {
	d := t.Sub(time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC))
	return uint64(d/time.Second)<<32 | uint64(d%time.Second)<<32/uint64(time.Second)
}

func short(d time.Duration) uint32 { return uint32(d * 65536 / time.Second) }

// serve is an NTP server on the loopback.
func serve(t *testing.T, a answer) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 || b[0]&7 != 3 {
				continue
			}
			now := time.Now().Add(a.ahead)
			out := make([]byte, 48)
			out[0], out[1], out[2], out[3] = a.leap<<6|4<<3|4, a.stratum, 6, 0xec
			binary.BigEndian.PutUint32(out[4:], short(a.delay))
			binary.BigEndian.PutUint32(out[8:], short(a.spread))
			copy(out[12:16], a.reference)
			binary.BigEndian.PutUint64(out[16:], stamp(now.Add(-a.referenceStale-time.Minute)))
			copy(out[24:32], b[40:48])
			if a.wrongOrigin {
				out[24] ^= 0xff
			}
			binary.BigEndian.PutUint64(out[32:], stamp(now))
			binary.BigEndian.PutUint64(out[40:], stamp(now))
			if a.length != 0 {
				out = out[:a.length]
			}
			_, _ = c.WriteTo(out, from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String()
}

// TestServers asks real servers, sound and unsound.
func TestServers(t *testing.T) {
	const unit = time.Second / 64 // which the protocol, that counts in 1/65536 s, tells exactly
	good := answer{stratum: 2, delay: unit, spread: unit, ahead: 10 * time.Minute}
	server := serve(t, good)
	got, err := ask(t.Context(), server, time.Now)
	if err != nil || (got.Offset-10*time.Minute).Abs() > 500*time.Millisecond || got.Distance < unit/2+unit {
		t.Errorf("%+v %v", got, err)
	}
	for name, change := range map[string]func(*answer){
		"not synchronized":    func(a *answer) { a.leap = 3 },
		"stratum 16":          func(a *answer) { a.stratum = 16 },
		"far from its root":   func(a *answer) { a.spread = 2 * time.Second },
		"a stale reference":   func(a *answer) { a.referenceStale = 50 * time.Hour },
		"cut short":           func(a *answer) { a.length = 40 },
		"a kiss":              func(a *answer) { a.stratum, a.reference = 0, "RATE" },
		"before its own root": func(a *answer) { a.referenceStale = -time.Hour },
	} {
		a := good
		change(&a)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		got, err := ask(ctx, serve(t, a), time.Now)
		stop()
		if err == nil {
			t.Errorf("%s: %+v", name, got)
		}
		var kiss errKiss
		if errors.As(err, &kiss) != (name == "a kiss") || errors.As(err, &kiss) && kiss.pause() != slowed {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Three servers, one of which lies: the clock follows the two.
	f := &fake{off: -10 * time.Minute}
	list := []string{serve(t, answer{stratum: 1, reference: "GPS\x00"}), serve(t, answer{stratum: 2}), serve(t, answer{stratum: 1, ahead: 24 * time.Hour})}
	k := keeper(t, Config{System: f, Servers: func() []string { return list }, Claimed: func() bool { return true }})
	if err := k.compare(t.Context(), false); err != nil || f.off.Abs() > time.Second || f.steps != 1 {
		t.Errorf("%v; off by %v after %d steps", err, f.off, f.steps)
	}
	if s := k.Status(); s.Server == list[2] || !s.Synchronized || s.Offset < 599 {
		t.Errorf("%+v", s)
	}
}

func TestAnswersToOthersAreNotTaken(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if got, err := ask(ctx, serve(t, answer{stratum: 1, wrongOrigin: true}), time.Now); err == nil {
		t.Errorf("%+v", got)
	}
}
