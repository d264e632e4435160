package chaos

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

// books is what the kernel holds, as nft(8) tells it, and the peers of the link.
type books struct {
	routed      map[netip.Addr]element
	quarantined map[netip.Addr]bool
	fresh       time.Duration // zero: not there
	alive       time.Duration
	rules       []string // chains and rules, without counters and handles
	peers       map[string][]netip.Prefix
}

type element struct {
	mark uint32 // zero: the address's own prefix tells the pool
	left time.Duration
}

func (e element) String() string { return fmt.Sprintf("mark %d for %s", e.mark, e.left) }

// readKernel asks nft(8).
func readKernel(nft, dir string) (books, error) {
	b := books{routed: map[netip.Addr]element{}, quarantined: map[netip.Addr]bool{}}
	out, err := exec.Command(nft, "-j", "list", "table", "inet", host.Table).Output()
	if err != nil {
		return b, fmt.Errorf("nft: %w", err)
	}
	var all struct {
		Nftables []map[string]json.RawMessage
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return b, err
	}
	for _, item := range all.Nftables {
		for kind, raw := range item {
			switch kind {
			case "set", "map":
				err = b.take(raw)
			case "chain", "rule":
				b.rules = append(b.rules, plain(raw))
			}
			if err != nil {
				return b, err
			}
		}
	}
	b.peers, err = (&standIn{filepath.Join(dir, "peers")}).load()
	return b, err
}

// take reads one set. An element is {"elem": {"val": ..., "expires": seconds}}, or its bare
// value; one of a map is a pair of that and its data.
func (b *books) take(raw json.RawMessage) error {
	var s struct {
		Name string
		Elem []json.RawMessage
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	for _, e := range s.Elem {
		var pair []json.RawMessage
		var mark uint32
		if json.Unmarshal(e, &pair) == nil && len(pair) == 2 {
			e = pair[0]
			_ = json.Unmarshal(pair[1], &mark) // a verdict is none
		}
		var timed struct {
			Elem struct {
				Val     json.RawMessage
				Expires float64
			}
		}
		value := e
		if json.Unmarshal(e, &timed) == nil && len(timed.Elem.Val) > 0 {
			value = timed.Elem.Val
		}
		left := time.Duration(timed.Elem.Expires * float64(time.Second))
		var text string
		if json.Unmarshal(value, &text) != nil {
			continue // a prefix: constant
		}
		a, err := netip.ParseAddr(text)
		switch {
		case (strings.HasPrefix(s.Name, "routed") || strings.HasPrefix(s.Name, "fixed")) && err == nil:
			b.routed[a] = element{mark, left}
		case strings.HasPrefix(s.Name, "quarantined") && err == nil:
			b.quarantined[a] = true
		case s.Name == "fresh":
			b.fresh = max(left, 1)
		case s.Name == "alive":
			b.alive = max(left, 1)
		}
	}
	return nil
}

// plain is a chain or rule without what changes by itself.
func plain(raw json.RawMessage) string {
	var v map[string]any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	delete(v, "handle")
	if list, ok := v["expr"].([]any); ok {
		v["expr"] = slices.DeleteFunc(list, func(x any) bool {
			m, ok := x.(map[string]any)
			_, counter := m["counter"]
			return ok && counter
		})
	}
	out, _ := json.Marshal(v)
	return string(out)
}

// decided is what the kernel must hold by what is recorded: worked out from the records
// and the pools alone.
func decided(v *view, now time.Time) books {
	b := books{routed: map[netip.Addr]element{}, quarantined: map[netip.Addr]bool{}, peers: map[string][]netip.Prefix{}}
	for _, r := range v.Records {
		n := int(r.Seat)
		if r.Stage != quarantine.Quarantined && r.Stage != quarantine.Routed {
			continue
		}
		q, full := addresses(n)
		allowed := slices.Clone(q)
		for _, a := range q {
			b.quarantined[a] = true
		}
		if r.Stage == quarantine.Routed {
			mark := uint32(0)
			if fixed(n) {
				mark = uint32(v.Pools[r.Pool].Mark)
			}
			for _, a := range full {
				b.routed[a] = element{mark, r.Until.Sub(now)}
				if !slices.Contains(allowed, a) {
					allowed = append(allowed, a)
				}
			}
		}
		slices.SortFunc(allowed, netip.Addr.Compare)
		b.peers[r.Key.String()] = []netip.Prefix{}
		for _, a := range allowed {
			b.peers[r.Key.String()] = append(b.peers[r.Key.String()], netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return b
}

// differs says how the kernel differs from what was decided; empty: not at all.
func (b books) differs(want books) string {
	if !maps.Equal(b.quarantined, want.quarantined) {
		return fmt.Sprintf("quarantined: %v, decided %v", keys(b.quarantined), keys(want.quarantined))
	}
	if !slices.EqualFunc(keys(b.routed), keys(want.routed), func(x, y netip.Addr) bool { return x == y }) {
		return fmt.Sprintf("routed: %v, decided %v", keys(b.routed), keys(want.routed))
	}
	for a, e := range b.routed {
		if w := want.routed[a]; e.mark != w.mark || e.left <= 0 || e.left > w.left+time.Second {
			return fmt.Sprintf("%s is routed as %v, decided %v", a, e, w)
		}
	}
	for k, allowed := range want.peers {
		have := slices.Clone(b.peers[k])
		slices.SortFunc(have, func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
		if !slices.Equal(have, allowed) {
			return fmt.Sprintf("peer %s has %v, decided %v", k, have, allowed)
		}
	}
	switch {
	case len(b.peers) != len(want.peers):
		return fmt.Sprintf("%d peers, decided %d", len(b.peers), len(want.peers))
	case b.fresh <= 0 || b.fresh > freshFor() || b.alive <= 0 || b.alive > time.Hour:
		return fmt.Sprintf("fresh for %s and alive for %s", b.fresh, b.alive)
	case len(want.rules) > 0 && !slices.Equal(b.rules, want.rules):
		return "chains or rules are others than in the beginning"
	}
	return ""
}

func keys[T any](m map[netip.Addr]T) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

// settle waits until what says nothing is amiss.
func settle(t testing.TB, what string, amiss func() string) {
	t.Helper()
	end := time.After(patience)
	pause := time.NewTicker(3 * time.Millisecond)
	defer pause.Stop()
	for last := ""; ; {
		if last = amiss(); last == "" {
			return
		}
		select {
		case <-end:
			t.Fatalf("waiting for %s: %s", what, last)
		case <-pause.C:
		}
	}
}

// scratch is a directory in memory where there is one: what a killed process wrote is safe
// in any.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lazaret-chaos-")
	if err != nil {
		dir, err = os.MkdirTemp("", "lazaret-chaos-")
	}
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
