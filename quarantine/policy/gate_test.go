package policy_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy"
	"lazaret/quarantine/storetest"
	"lazaret/quarantine/tunnel"
)

// TestTryOverAllDevices tries a set over many devices through a gate: those that it would
// move are told, with the rule, and none moves. LONG=1 tries 100,000.
func TestTryOverAllDevices(t *testing.T) {
	n := 1000
	if os.Getenv("LONG") != "" {
		n = 100_000
	}
	now := time.Now()
	store := storetest.NewMemory()
	store.Save(storetest.Settings{
		Pools: map[string]quarantine.Pool{
			"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.64.0.0/13")},
			"full":       {Name: "full", IPv4: netip.MustParsePrefix("10.72.0.0/13")},
		},
		Profiles: map[string]quarantine.Profile{"staff": {Name: "staff", Pool: "full"}},
		Sources:  map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, Facts: []string{"*"}}},
	})
	for i := range n {
		id := quarantine.ID(fmt.Sprintf("device%06d", i))
		facts := map[string]string{"disk.encrypted": fmt.Sprint(i%10 != 0), "screen.lock": fmt.Sprint(i%20 != 1), "screen.lock_after": "5m0s"}
		store.Put(quarantine.Record{
			Device: quarantine.Device{ID: id, Name: string(id), Key: tunnel.Key{1, byte(i), byte(i >> 8), byte(i >> 16)}, Seat: quarantine.Seat(i + 1)}, Profile: "staff", Proven: true, Confirmed: true,
			Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%x", i+1), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour)},
			Reports:     map[string]quarantine.Report{"mdm": {Device: id, Source: "mdm", Verdict: quarantine.Compliant, At: now, Received: now, Validity: time.Hour, Facts: facts}},
		}.Settle(quarantine.Placement{Stage: quarantine.Routed, Pool: "full", Until: now.Add(time.Hour)}, now))
	}
	journal, err := quarantine.OpenJournal(filepath.Join(t.TempDir(), "tightenings"))
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	gate, err := quarantine.NewGate(quarantine.Config{Store: store, Enforcer: storetest.NewEnforcer(), Journal: journal, Policy: policy.New(policy.Config{}), Control: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- gate.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-gate.Ready()

	set := quarantine.PolicySet{Name: "set", Assigned: true, Rules: []quarantine.PolicyRule{
		{Name: "disk", Expression: `disk.encrypted`}, {Name: "screen", Expression: `screen.lock && screen.lock_after <= duration("15m")`, OnFailure: quarantine.FailBlock},
		{Name: "firewall", Expression: `firewall.enabled`, OnFailure: quarantine.FailReport},
	}}
	start := time.Now()
	moves := map[string]int{}
	for _, x := range gate.Try(map[string]quarantine.PolicySet{"set": set}, quarantine.Conduct{}) {
		if x.Now.Stage != x.Then.Stage || x.Now.Demand != x.Then.Demand {
			moves[fmt.Sprintf("%s %s %s", x.Then.Stage, x.Then.Demand, x.Then.Reasons[0].Rule)]++
		}
	}
	t.Logf("%d devices tried in %s", n, time.Since(start))
	want := map[string]int{"quarantined  disk": n / 10, "blocked block block": n / 20}
	for what, k := range want {
		if moves[what] != k {
			t.Errorf("%d would be %q, want %d: %v", moves[what], what, k, moves)
		}
	}
	if len(moves) != len(want) {
		t.Errorf("moves %v", moves)
	}
	if c := gate.Counts(); c[quarantine.Routed] != n {
		t.Errorf("after the trial %v", c)
	}
}
