package enroll

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	here  = netip.MustParsePrefix("192.0.2.7/32")
	there = netip.MustParsePrefix("2001:db8:1:2::/64")
)

func TestFifthFailureSlowsFiftiethAlerts(t *testing.T) {
	start := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name      string
		reference func(i int) []byte
		from      func(i int) netip.Prefix
	}{
		{"one reference from everywhere",
			func(int) []byte { return []byte("7K2M9QXA") },
			func(i int) netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32) }},
		{"one address with every reference",
			func(i int) []byte { return fmt.Appendf(nil, "%08d", i) },
			func(int) netip.Prefix { return there }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newLimiter(Limits{})
			for i := 1; i <= 60; i++ {
				slow, alert := m.fail(start.Add(time.Duration(i)*time.Second), c.reference(i), c.from(i))
				if slow != (i >= 5) || alert != (i == 50) {
					t.Fatalf("failure %d: slow %v, alert %v; want slow from the 5th, alert at the 50th", i, slow, alert)
				}
			}
			if slow, _ := m.fail(start.Add(10*time.Minute+2*time.Second), c.reference(1), c.from(1)); slow {
				t.Error("still slow ten minutes after the first failure")
			}
		})
	}
}

func TestLimiterForgetsTheLightest(t *testing.T) {
	m := newLimiter(Limits{Keys: 100})
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	for range 20 {
		m.fail(now, []byte("HEAVY000"), here)
	}
	for i := range 10_000 {
		m.fail(now, fmt.Appendf(nil, "%08d", i), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
	}
	if len(m.references) > 100 || len(m.addresses) > 100 {
		t.Fatalf("remembers %d references and %d addresses, want at most 100 each", len(m.references), len(m.addresses))
	}
	if slow, _ := m.fail(now, []byte("HEAVY000"), there); !slow {
		t.Error("a flood of other references made the limiter forget the one that failed most")
	}
}

func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newLimiter(Limits{Slowed: 3, Delay: 2 * time.Second})
		start := time.Now()
		var held, turned atomic.Int32
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if !m.hold(t.Context()) {
					turned.Add(1)
					return
				}
				held.Add(1)
				if d := time.Since(start); d != 2*time.Second {
					t.Errorf("held back for %v, want 2s", d)
				}
			})
		}
		wg.Wait()
		if held.Load() != 3 || turned.Load() != 7 {
			t.Errorf("held %d and turned away %d, want 3 and 7", held.Load(), turned.Load())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		before := time.Now()
		if !m.hold(ctx) || time.Since(before) != 0 {
			t.Error("a client that went away was held on")
		}
	})
}

func TestCeilingQueuesThenRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newLimiter(Limits{InFlight: 4, Queue: 2, Patience: 5 * time.Second})
		var leaves []func()
		for range 4 {
			leaves = append(leaves, m.enter(t.Context(), time.Now(), here))
		}
		var served, refused atomic.Int32
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if leave := m.enter(t.Context(), time.Now(), here); leave != nil {
					served.Add(1)
					leave()
				} else {
					refused.Add(1)
				}
			})
			synctest.Wait()
		}
		if refused.Load() != 1 {
			t.Errorf("%d refused at once, want the one beyond the queue of 2", refused.Load())
		}
		leaves[0]()
		wg.Wait()
		if served.Load() != 2 {
			t.Errorf("%d of the waiting were served when a place became free, want 2", served.Load())
		}
		m.ordinary.work <- struct{}{} // full again
		before := time.Now()
		if m.enter(t.Context(), time.Now(), here) != nil || time.Since(before) != 5*time.Second {
			t.Errorf("waited %v, want to be refused after 5s", time.Since(before))
		}
	})
}

func TestSuspectsWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newLimiter(Limits{InFlight: 4, Patience: time.Second})
		for range 5 {
			m.fail(time.Now(), nil, there)
		}
		if m.enter(t.Context(), time.Now(), there) == nil {
			t.Fatal("a slowed address was locked out")
		}
		if m.enter(t.Context(), time.Now(), there) != nil {
			t.Error("a slowed address got a second place of four")
		}
		for i := range 4 {
			if m.enter(t.Context(), time.Now(), here) == nil {
				t.Errorf("place %d was taken from the others by a slowed address", i)
			}
		}
	})
}
