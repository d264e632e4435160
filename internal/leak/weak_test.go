package leak

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// weakRules are what many gateways do: "established" stands before the question whether
// the device may pass.
const weakRules = `
table inet weak {
	set open4 { type ipv4_addr; elements = { %s } }
	set open6 { type ipv6_addr; elements = { %s } }
	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state established,related accept
		ip saddr @open4 accept
		ip6 saddr @open6 accept
	}
}
`

// TestEstablishedFirstIsFound puts such rules on the control gateway and takes a device
// out of their sets in the moment in which the real gateway demotes one. The suite must
// see every flow go on there, and none here.
func TestEstablishedFirstIsFound(t *testing.T) {
	testneed.Namespaces(t)
	nft := testneed.Program(t, "nft")
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := openSite(ctx, Options{stages: []Stage{DemotedFixed}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	noHelper(ctx, t, s, nft)
	who := s.net.Plan.Dev1Control
	apply := func(rules string) {
		t.Helper()
		path := filepath.Join(s.net.Control.Dir(), "rules")
		if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := s.net.Control.Start(ctx, testnet.Spec{Path: nft, Args: []string{"-f", path}})
		if err == nil {
			err = p.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	apply(fmt.Sprintf(weakRules, who.V4, who.V6))
	for _, step := range []func(context.Context) error{
		s.release, s.openFlows,
		func(context.Context) error {
			apply(fmt.Sprintf("delete element inet weak open4 { %s }\ndelete element inet weak open6 { %s }\n", who.V4, who.V6))
			return nil
		},
		s.tighten, s.awaitFlows, s.closeFlows, s.settle,
	} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	s.judgeFlows()
	if len(s.flows) != 16 {
		t.Fatalf("%d flows, want 8 of the device and 8 through the weak gateway", len(s.flows))
	}
	for _, f := range s.flows {
		switch weak := f.device == nil; {
		case f.before == 0 || f.sent == 0:
			t.Errorf("%s, weak %v: %d packets passed before the cut, %d were sent after it", f.name, weak, f.before, f.sent)
		case weak && f.arrived == 0:
			t.Errorf("%s: goes on through the weak gateway, and the suite does not see it (%d sent)", f.name, f.sent)
		case !weak && f.arrived > 0:
			t.Errorf("%s: %d of %d packets went on after the demotion", f.name, f.arrived, f.sent)
		}
	}
}

// noHelper asks the gateway's kernel whether any connection tracking helper could be
// attached: one would open ports for what a device writes into an allowed connection.
func noHelper(ctx context.Context, t *testing.T, s *site, nft string) {
	t.Helper()
	p, err := s.net.Gateway.Command(ctx, nft, "list", "ruleset")
	if err == nil {
		err = p.Wait(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	out := p.Output()
	if !strings.Contains(out, "table inet lazaret") || strings.Contains(out, "helper") || strings.Contains(out, "expectation") {
		t.Errorf("the table is not there, or attaches helpers:\n%s", out)
	}
	// Kernels before 6.0 could attach them by themselves.
	const automatic = "/proc/sys/net/netfilter/nf_conntrack_helper"
	p, err = s.net.Gateway.Command(ctx, "/bin/sh", "-c", "test ! -e "+automatic+" || grep -qx 0 "+automatic)
	if err == nil {
		err = p.Wait(ctx)
	}
	if err != nil {
		t.Errorf("the kernel attaches helpers by itself: %v", err)
	}
}
