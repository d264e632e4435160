package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/appliance"
)

// script is an asker that notes when it was asked, and answers as it is told.
type script struct {
	mu     sync.Mutex
	begun  time.Time
	said   []string
	answer func(what string) (lease, error)
}

func (s *script) note(what string) (lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said = append(s.said, fmt.Sprintf("%s %v", what, time.Since(s.begun).Round(time.Second)))
	return s.answer(what)
}

func (s *script) acquire(context.Context) (lease, error) { return s.note("acquire") }
func (s *script) extend(_ context.Context, _ lease, rebind bool) (lease, error) {
	if rebind {
		return s.note("rebind")
	}
	return s.note("renew")
}

func lasting(address string) lease {
	return lease{Address: netip.MustParsePrefix(address), T1: 30 * time.Minute, T2: 50 * time.Minute, Life: time.Hour}
}

// TestLeaseLife: T1, T2 and the end come when RFC 2131 says, and after the end there is no
// address until there is a new one.
func TestLeaseLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := &script{begun: time.Now()}
		first := true
		s.answer = func(what string) (lease, error) {
			if what == "acquire" && first {
				first = false
				return lasting("192.0.2.10/24"), nil
			}
			return lease{}, errSilent
		}
		var held []string
		c := newClient(s, func(l *lease, problem string) {
			text := problem
			if l != nil {
				text = l.Address.String()
			}
			held = append(held, fmt.Sprintf("%s %v", text, time.Since(s.begun).Round(time.Minute)))
		})
		done := make(chan struct{})
		go func() { defer close(done); c.run(ctx) }()
		time.Sleep(61 * time.Minute)
		synctest.Wait()
		s.mu.Lock()
		if want := []string{"acquire 0s", "renew 30m0s", "renew 40m0s", "renew 45m0s", "renew 47m30s", "renew 48m45s", "renew 49m45s", "rebind 50m0s", "rebind 55m0s", "rebind 57m30s", "rebind 58m45s", "rebind 59m45s"}; len(s.said) < len(want) || !reflect.DeepEqual(s.said[:len(want)], want) {
			t.Errorf("asked %v", s.said)
		}
		s.mu.Unlock()
		if want := []string{"192.0.2.10/24 0s", "the DHCP lease ended 1h0m0s"}; len(held) < 2 || !reflect.DeepEqual(held[:2], want) {
			t.Errorf("held %v, want first %v", held, want)
		}
		stop()
		<-done
	})
}

func TestLeaseRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		s := &script{begun: time.Now()}
		n := 0
		s.answer = func(what string) (lease, error) {
			if what == "acquire" {
				n++
				return lasting(fmt.Sprintf("192.0.2.%d/24", 9+n)), nil
			}
			return lease{}, fmt.Errorf("asking: %w", errRefused)
		}
		var held []string
		c := newClient(s, func(l *lease, _ string) {
			if l == nil {
				held = append(held, "none")
			} else {
				held = append(held, l.Address.String())
			}
		})
		done := make(chan struct{})
		go func() { defer close(done); c.run(ctx) }()
		time.Sleep(31 * time.Minute)
		synctest.Wait()
		if want := []string{"192.0.2.10/24", "none", "192.0.2.11/24"}; !reflect.DeepEqual(held, want) {
			t.Errorf("held %v, want %v", held, want)
		}
		// A link that comes back to a network that says nothing keeps its address; one that offers another takes that.
		s.mu.Lock()
		s.answer = func(what string) (lease, error) {
			if what == "acquire" {
				return lasting("198.51.100.7/24"), nil
			}
			return lease{}, errSilent
		}
		s.mu.Unlock()
		c.wake()
		synctest.Wait()
		if held[len(held)-1] != "198.51.100.7/24" {
			t.Errorf("held %v after the link came back elsewhere", held)
		}
		s.mu.Lock()
		s.answer = func(string) (lease, error) { return lease{}, errors.New("nobody") }
		s.mu.Unlock()
		n = len(held)
		c.wake()
		synctest.Wait()
		if len(held) != n {
			t.Errorf("held %v after the link came back to silence", held)
		}
		stop()
		<-done
	})
}

func TestChoose(t *testing.T) {
	facts := []fact{
		{Index: 1, Name: "lo"}, {Index: 5, Name: "eth3", MAC: "52:54:00:00:00:03", Card: true}, {Index: 2, Name: "eth0", MAC: "52:54:00:00:00:00", Card: true},
		{Index: 3, Name: "eth1", MAC: "52:54:00:00:00:01", Card: true}, {Index: 4, Name: "eth2", MAC: "52:54:00:00:00:02", Card: true},
		{Index: 9, Name: "lz0"}, {Index: 10, Name: "ens5", MAC: "52:54:00:00:00:05", Card: true},
	}
	n := appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{
		"any":  {Match: appliance.Match{Name: "eth*"}, Link: appliance.Link{DHCP4: true}},
		"wan":  {Match: appliance.Match{MAC: "52:54:00:00:00:02"}},
		"eth0": {},
		"one":  {Match: appliance.Match{Name: "en*"}, Link: appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}},
		"gone": {Match: appliance.Match{Name: "eth7"}},
	}}
	got := make(map[int]string)
	for index, c := range choose(n, facts) {
		got[index] = c.Entry
	}
	if want := map[int]string{2: "eth0", 3: "any", 4: "wan", 5: "any", 10: "one"}; !reflect.DeepEqual(got, want) {
		t.Errorf("chose %v, want %v", got, want)
	}
}

func TestDifference(t *testing.T) {
	p := netip.MustParsePrefix
	have := layer{Addresses: []netip.Prefix{p("192.0.2.1/24"), p("192.0.2.2/24")}, Routes: []route{{To: p("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.9"), Leased: true, Metric: 102}}}
	to := layer{Addresses: []netip.Prefix{p("192.0.2.2/24"), p("192.0.2.3/24")}, Routes: have.Routes}
	want := change{AddAddresses: []netip.Prefix{p("192.0.2.3/24")}, RemoveAddresses: []netip.Prefix{p("192.0.2.1/24")}}
	if got := difference(have, to); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if !difference(to, to).empty() {
		t.Error("a difference to itself")
	}
}
