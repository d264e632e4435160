package leak

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

func TestMain(m *testing.M) {
	testnet.Main(Roles())
	os.Exit(m.Run())
}

// patience bounds a whole run on a busy machine.
const patience = 5 * time.Minute

func runFor(t *testing.T, o Options) *Report {
	t.Helper()
	testneed.Namespaces(t)
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestNothingLeaks is the short form of the suite: every probe from a quarantined device
// and from one that was just demoted, and one probe of each group in every other stage.
func TestNothingLeaks(t *testing.T) {
	r := runFor(t, Options{Short: true})
	for _, c := range r.Cases {
		if c.Verdict != Held {
			t.Error(c)
		}
	}
	var sums strings.Builder
	r.Print(&sums)
	t.Log("\n" + sums.String())
	stages, full := make(map[Stage]int), 0
	for _, c := range r.Cases {
		if stages[c.Stage]++; c.Stage == Quarantined {
			full++
		}
	}
	if len(stages) != len(Stages()) || full < 500 || r.Controls != r.Tried || r.Packets < r.Tried {
		t.Errorf("%d stages, %d cases in quarantine, %d controls leaked of %d tried with %d packets", len(stages), full, r.Controls, r.Tried, r.Packets)
	}
	if r.Before == 0 {
		t.Error("nothing passed while the devices were routed, so that nothing was cut")
	}
}

// TestSeededDefectIsFound runs some probes against a gateway whose quarantine reaches the
// intranet as well, and wants every one of them reported that goes there, and no other.
func TestSeededDefectIsFound(t *testing.T) {
	var some []Probe
	for _, p := range Probes() {
		if p.Group == "udp" || p.Group == "icmp" || p.Group == "fragments" {
			some = append(some, p)
		}
	}
	r := runFor(t, Options{Short: true, Probes: some, stages: []Stage{Quarantined, Blocked, DemotedFixed}, wide: []firewall.Reach{
		{To: testPrefix("10.10.0.0/24"), Protocol: "udp", From: 1, Up: 65534},
		{To: testPrefix("fd10::/64"), Protocol: "udp", From: 1, Up: 65534},
	}})
	leaked := 0
	for _, c := range r.Cases {
		if !c.Stage.peer() && c.Verdict != Held {
			t.Errorf("a device without a peer: %s", c)
		}
		if c.Stage == Quarantined && c.Group == "udp" && c.Name == "intranet" {
			if c.Verdict != Leaked || len(c.Leaks) < 2 {
				t.Errorf("not found: %s", c)
			}
		}
		if c.Verdict == Leaked {
			leaked++
		}
		if strings.Contains(c.Name, "device") && c.Verdict != Held {
			t.Errorf("not opened by the defect: %s", c)
		}
	}
	if r.OK() || r.Leaked != leaked || leaked < 10 {
		t.Errorf("%d leaks reported, %d among the cases", r.Leaked, leaked)
	}
}

func testPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
