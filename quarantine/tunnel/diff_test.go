package tunnel

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func peer(key byte, addresses ...string) Peer {
	p := Peer{Key: Key{0: key, 1: 1}}
	for _, a := range addresses {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(a))
	}
	return p
}

func TestDiff(t *testing.T) {
	seen := peer(1, "10.0.0.1/32", "10.0.0.2/32")
	seen.Endpoint = netip.MustParseAddrPort("192.0.2.1:5000")
	alive := peer(1, "10.0.0.1/32")
	alive.KeepAlive = 25 * time.Second
	fixed := peer(1, "10.0.0.1/32")
	fixed.Endpoint = netip.MustParseAddrPort("192.0.2.9:51820")
	for name, c := range map[string]struct {
		have, want []Peer
		steps      []PeerChange
	}{
		"nothing":                   {nil, nil, nil},
		"new":                       {nil, []Peer{peer(1, "10.0.0.1/32")}, []PeerChange{{Peer: peer(1, "10.0.0.1/32")}}},
		"gone":                      {[]Peer{seen}, nil, []PeerChange{{Peer: peer(1), Remove: true}}},
		"order and endpoint aside":  {[]Peer{seen}, []Peer{peer(1, "10.0.0.2/32", "10.0.0.1/32")}, nil},
		"keepalive":                 {[]Peer{peer(1, "10.0.0.1/32")}, []Peer{alive}, []PeerChange{{Peer: alive}}},
		"endpoint given":            {[]Peer{peer(1, "10.0.0.1/32")}, []Peer{fixed}, []PeerChange{{Peer: fixed}}},
		"no addresses stays a peer": {[]Peer{peer(1, "10.0.0.1/32")}, []Peer{peer(1)}, []PeerChange{{Peer: peer(1)}}},
		"removals, losers, winners": {
			[]Peer{peer(1, "10.0.0.1/32"), peer(3, "10.0.0.3/32"), peer(9, "10.0.0.9/32")},
			[]Peer{peer(1, "10.0.0.1/32", "10.0.0.3/32"), peer(2, "10.0.0.9/32"), peer(3)},
			[]PeerChange{
				{Peer: peer(9), Remove: true},
				{Peer: peer(3)},
				{Peer: peer(1, "10.0.0.1/32", "10.0.0.3/32")},
				{Peer: peer(2, "10.0.0.9/32")},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.steps, Diff(c.have, c.want), compare); d != "" {
				t.Error(d)
			}
		})
	}
}

// model is WireGuard's bookkeeping: an address has one peer, the last it was given to.
type model map[Key]map[netip.Prefix]bool

func (m model) apply(changes []PeerChange) {
	for _, c := range changes {
		delete(m, c.Peer.Key)
		if c.Remove {
			continue
		}
		m[c.Peer.Key] = map[netip.Prefix]bool{}
		for _, a := range c.Peer.AllowedIPs {
			for _, other := range m {
				delete(other, a)
			}
			m[c.Peer.Key][a] = true
		}
	}
}

func drawPeers(t *rapid.T, label string) []Peer {
	owner := rapid.SliceOfN(rapid.IntRange(0, 5), 8, 8).Draw(t, label)
	there := rapid.SliceOfN(rapid.Bool(), 6, 6).Draw(t, label+" there")
	var out []Peer
	for i := 1; i <= 5; i++ {
		p := Peer{Key: Key{0: byte(i), 1: 1}}
		for address, o := range owner {
			if o == i {
				p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(address)}), 32))
			}
		}
		if there[i] {
			out = append(out, p)
		}
	}
	return out
}

// Whatever is there, the steps lead to what is wanted, never take an address from a
// peer that keeps it, and touch no peer that is right.
func TestDiffLeadsThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := drawPeers(t, "have"), drawPeers(t, "want")
		is, goal := model{}, model{}
		for _, p := range have {
			is.apply([]PeerChange{{Peer: p}})
		}
		for _, p := range want {
			goal.apply([]PeerChange{{Peer: p}})
		}
		steps := Diff(have, want)
		is.apply(steps)
		if d := cmp.Diff(goal, is, compare); d != "" {
			t.Fatal(d)
		}
		for _, s := range steps {
			i := slices.IndexFunc(have, func(p Peer) bool { return p.Key == s.Peer.Key })
			if i >= 0 && !s.Remove && cmp.Equal(have[i].AllowedIPs, s.Peer.AllowedIPs, compare) {
				t.Fatalf("touched %s, which was right", s.Peer.Key)
			}
		}
	})
}

// The text of many failures stays readable, and their reasons are found.
func TestFailuresAreTold(t *testing.T) {
	var f Failures
	for i := range told + 3 {
		f = append(f, Failure{PeerChange{Peer: Peer{Key: Key{byte(i)}}, Remove: i == 0}, ErrPeer})
	}
	text := f.Error()
	if strings.Count(text, "setting peer") != told-1 || strings.Count(text, "removing peer") != 1 || !strings.Contains(text, "and 3 peers more") {
		t.Errorf("told %s", text)
	}
	if !errors.Is(f, ErrPeer) || errors.Is(f, ErrNoPeer) {
		t.Error("the reason is not found, or another is")
	}
}
