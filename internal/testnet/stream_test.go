package testnet

import "testing"

func TestStreamsAreNumberedApart(t *testing.T) {
	seen := make(map[uint32]bool)
	for range 2_000_000 {
		id := NewStream()
		if seen[id] || id&1 == 0 {
			t.Fatalf("number %d came twice, or is even, after %d", id, len(seen))
		}
		seen[id] = true
	}
}
