package daemon

import (
	"net/netip"
	"testing"
	"time"

	"lazaret/internal/alert"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// TestNamesOfPoolsAreLookedAt: what alerts see of a pool's names is what pool show tells.
func TestNamesOfPoolsAreLookedAt(t *testing.T) {
	address := func(refused string) []api.NameAddress {
		return []api.NameAddress{{Address: netip.MustParseAddr("9.9.9.9"), Refused: refused}}
	}
	pools := map[string]quarantine.Pool{"q": {Name: "q", Quarantine: true}}
	for what, c := range map[string]struct {
		name api.Name
		want alert.NameHealth
	}{
		"found":         {api.Name{Answered: time.Now(), Addresses: address("")}, alert.NameHealth{Asked: true, Usable: 1}},
		"no such name":  {api.Name{Answered: time.Now()}, alert.NameHealth{Asked: true}},
		"no answer":     {api.Name{Problem: "timeout"}, alert.NameHealth{Asked: true, Problem: "timeout"}},
		"not asked for": {api.Name{Problem: notAsked}, alert.NameHealth{Problem: notAsked}},
		"being asked":   {api.Name{}, alert.NameHealth{}},
		"refused":       {api.Name{Answered: time.Now(), Addresses: address("it is the gateway's own")}, alert.NameHealth{Asked: true, Problem: "it is the gateway's own"}},
	} {
		c.want.Pool, c.want.Quarantine = "q", true
		got := nameHealth(pools, func(quarantine.Pool) []api.Name { return []api.Name{c.name} })
		if len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: %+v, want %+v", what, got, c.want)
		}
	}
}
