package tunnel

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// An address that was taken by another peer is given anew when it comes back, though
// the peer had it once; and only differences are written.
func TestUserspaceWritesDifferences(t *testing.T) {
	b := &inProcess{config: Config{shardSize: 9}, shards: []*shard{{}},
		dir: &directory{member: map[Key]member{}, owner: map[netip.Prefix]Key{}}}
	write := func(p Peer) []string {
		w := writer{b: b}
		if err := w.change(PeerChange{Peer: p}); err != nil {
			t.Error(err)
		}
		var out []string
		for line := range strings.Lines(w.text.String()) {
			if strings.Contains(line, "allowed_ip") {
				out = append(out, strings.TrimSpace(line))
			}
		}
		return out
	}
	for i, c := range []struct {
		peer  Peer
		lines []string
	}{
		{peer(1, "10.0.0.1/32"), []string{"replace_allowed_ips=true", "allowed_ip=10.0.0.1/32"}},
		{peer(1, "10.0.0.1/32", "10.0.0.2/32"), []string{"allowed_ip=10.0.0.2/32"}},
		{peer(2, "10.0.0.2/32"), []string{"replace_allowed_ips=true", "allowed_ip=10.0.0.2/32"}},
		{peer(1, "10.0.0.1/32", "10.0.0.2/32"), []string{"allowed_ip=10.0.0.2/32"}},
		{peer(1, "10.0.0.2/32"), []string{"allowed_ip=-10.0.0.1/32"}},
		{peer(2), nil},
		{peer(1), []string{"allowed_ip=-10.0.0.2/32"}},
	} {
		if got := write(c.peer); !slices.Equal(got, c.lines) {
			t.Errorf("step %d wrote %q, want %q", i, got, c.lines)
		}
	}
}
