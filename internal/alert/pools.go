package alert

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lazaret/quarantine"
)

// NameHealth is a name that a pool reaches.
type NameHealth struct {
	Pool, Name string
	Quarantine bool   // it is the quarantine pool's
	Asked      bool   // a server was asked for it
	Usable     int    // its addresses that may be opened
	Problem    string // why there are none; empty: the servers say so
}

// fullPools finds that no device more can enroll: a seat is the same number in every pool, so
// that the smallest bounds them all.
func fullPools(v View) []Condition {
	smallest := ""
	for name, p := range v.Pools {
		if smallest == "" || cmp.Or(cmp.Compare(p.LastSeat(), v.Pools[smallest].LastSeat()), strings.Compare(name, smallest)) < 0 {
			smallest = name
		}
	}
	if smallest == "" {
		return nil
	}
	last, taken := v.Pools[smallest].LastSeat(), 0
	for _, r := range v.Devices {
		if r.Seat > 0 && r.Seat <= last && r.Stage != quarantine.Revoked {
			taken++
		}
	}
	if quarantine.Seat(taken) < last {
		return nil
	}
	return []Condition{{PoolFull, smallest, Warning,
		fmt.Sprintf("no device can be enrolled any more: pool %s has room for %s, and all is taken", smallest, plural(int(last), "device")),
		"make the pool larger: lazaretctl pool set " + smallest + "; or revoke devices that nobody uses"}}
}

// lostNames finds names by which a pool's devices reach nothing.
func lostNames(v View) []Condition {
	var out []Condition
	for _, n := range v.Names {
		if !n.Asked || n.Usable > 0 {
			continue
		}
		severity := Warning
		if n.Quarantine {
			severity = Critical // its devices do not get out any more
		}
		out = append(out, Condition{NameUnresolved, n.Pool + "/" + n.Name, severity,
			fmt.Sprintf("devices in pool %s do not reach %s: %s", n.Pool, n.Name, orElse(n.Problem, "the name servers know no address of it")),
			"see lazaretctl pool show " + n.Pool + "; correct the name, or what the name servers say"})
	}
	return atMost(slices.Clip(sorted(out)), "names that pools reach lead to no address", "see lazaretctl pool show")
}
