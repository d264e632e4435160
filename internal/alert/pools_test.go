package alert

import (
	"net/netip"
	"strings"
	"testing"

	"lazaret/quarantine"
)

// TestPoolAlerts asks on both sides of where each begins to hold.
func TestPoolAlerts(t *testing.T) {
	pool := func(v4 string) quarantine.Pool { return quarantine.Pool{IPv4: netip.MustParsePrefix(v4)} }
	two := map[string]quarantine.Pool{"large": pool("10.66.0.0/16"), "small": pool("10.67.0.0/30")} // the gateway's address, and one
	seat := func(n quarantine.Seat, stage quarantine.Stage) quarantine.Record {
		return quarantine.Record{Device: quarantine.Device{ID: "d", Seat: n, Stage: stage}}
	}
	name := func(n NameHealth) []NameHealth {
		n.Pool, n.Name = "q", "mdm.example.com"
		return []NameHealth{n}
	}
	for what, c := range map[string]struct {
		view View
		want string
	}{
		"nobody":                      {View{Pools: two, Devices: []quarantine.Record{}}, ""},
		"the only seat":               {View{Pools: two, Devices: []quarantine.Record{seat(1, quarantine.Blocked)}}, "pool-full/small warning"},
		"freed":                       {View{Pools: two, Devices: []quarantine.Record{seat(1, quarantine.Revoked)}}, ""},
		"one above, from before":      {View{Pools: two, Devices: []quarantine.Record{seat(2, quarantine.Routed)}}, ""},
		"room for more":               {View{Pools: map[string]quarantine.Pool{"p": pool("10.67.0.0/29")}, Devices: []quarantine.Record{seat(1, quarantine.Routed)}}, ""},
		"a name that is found":        {View{Names: name(NameHealth{Asked: true, Usable: 1, Problem: "timeout"})}, ""},
		"a name nobody asked for yet": {View{Names: name(NameHealth{Quarantine: true})}, ""},
		"a name that leads nowhere":   {View{Names: name(NameHealth{Asked: true})}, "name-unresolved/q/mdm.example.com warning"},
		"in quarantine":               {View{Names: name(NameHealth{Asked: true, Quarantine: true})}, "name-unresolved/q/mdm.example.com critical"},
	} {
		_, found := Look(c.view)
		var got []string
		for _, f := range found {
			got = append(got, f.ID()+" "+string(f.Severity))
			if f.Text == "" || f.Remedy == "" {
				t.Errorf("%s: %+v says nothing", what, f)
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: found %v, want %s", what, got, c.want)
		}
	}
}
