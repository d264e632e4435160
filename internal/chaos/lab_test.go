package chaos

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"lazaret/internal/store"
	"lazaret/internal/store/enrolltest"
	"lazaret/internal/testneed"
	"lazaret/quarantine"
)

// lab is one gateway, both ends, and what the judge knows.
type lab struct {
	*ends
	dir, nft string
	plane    *process
	control  control
	rules    []string          // of the table once a plan was applied
	ahead    time.Duration     // what the gateway's wall clock is told
	history  []string          // what happened, for people
	acked    map[int]placement // where each device was last said to be
}

// placement is what was answered of a device; unknown is none at all, after an order
// whose answer was lost.
type placement int

const (
	unknown placement = iota
	isOut
	isQuarantined
	isRouted
)

var admin = quarantine.Actor{Kind: "administrator", Name: "chaos"}

func id(n int) quarantine.ID { return quarantine.ID(fmt.Sprintf("device-%05d", n)) }

// newLab makes the ends, shows that every probe gets through where there is no table, and
// starts the gateway with its devices.
func newLab(t *testing.T) *lab {
	dir := scratch(t)
	check(t, os.Mkdir(filepath.Join(dir, "state"), 0o700))
	return newLabIn(t, dir)
}

// newLabIn is newLab in dir, where the control plane keeps its store and journal in state.
func newLabIn(t *testing.T, dir string) *lab {
	t.Helper()
	l := &lab{dir: dir, nft: testneed.Program(t, "nft"), acked: map[int]placement{}}
	l.seed(t)
	l.ends = open(t, nobody)
	t.Cleanup(l.close)
	t.Logf("controls: %d sorts of packets sent without a table, %d met", len(allShots()), l.controls(t))
	l.startPlane(t, "")
	l.startControl(t, "")
	for n := 1; n <= movers; n++ {
		l.grant(n, rights{quarantined: true})
	}
	l.settled(t)
	check(t, l.control.change(quarantine.Change{Kind: quarantine.Revoke, Device: id(revoked)}))
	l.acked[revoked] = unknown
	l.settled(t)
	l.probe(t)
	return l
}

// seed enrolls the devices.
func (l *lab) seed(t *testing.T) {
	t.Helper()
	s, err := openStore(t.Context(), l.dir)
	check(t, err)
	for _, p := range pools() {
		check(t, s.PutPool(t.Context(), admin, p))
	}
	for _, p := range []quarantine.Profile{{Name: "staff", Pool: "full"}, {Name: "fixed", Pool: "full", Addressing: quarantine.Fixed},
		{Name: "asks", Pool: "full", NeedApproval: true}} {
		check(t, s.PutProfile(t.Context(), admin, p))
	}
	check(t, s.PutSource(t.Context(), admin, quarantine.Source{Name: "mdm", MayRelease: true, MaxValidity: 10 * time.Hour}))
	for n := 1; n < nobody; n++ {
		enrollDevice(t, s, n)
	}
	check(t, s.Close())
}

func enrollDevice(t *testing.T, s *store.Store, n int) {
	t.Helper()
	o, r := enrolltest.OTP(n), enrolltest.Record(n)
	switch {
	case n == pending:
		o.Profile, r.Stage = "asks", quarantine.Pending
		r.Pool = ""
	case fixed(n):
		o.Profile = "fixed"
	}
	r.Profile = o.Profile
	r.Certificate.NotAfter = time.Now().Add(1000 * time.Hour)
	got, err := s.Issue(t.Context(), enrolltest.Issuance(enrolltest.Create(t, s, o), r))
	check(t, err)
	if int(got.Seat) != n {
		t.Fatalf("device %d has seat %d", n, got.Seat)
	}
}

func (l *lab) startPlane(t *testing.T, die string) { l.plane = start(t, "plane", l.dir, die) }

func (l *lab) startControl(t *testing.T, die string) {
	l.control = control{start(t, "control", l.dir, die)}
}

// settled waits until the kernel holds what was decided and nothing is left to be
// recorded, and takes every right away that nothing decided gives.
func (l *lab) settled(t testing.TB) {
	t.Helper()
	var v *view
	settle(t, "the kernel to hold what was decided", func() string {
		var err error
		if v, err = l.control.look(l.ahead); err != nil {
			return err.Error()
		}
		have, err := readKernel(l.nft, l.dir)
		if err != nil {
			return err.Error()
		}
		want := decided(v, time.Now().Add(max(l.ahead, 0)))
		want.rules = l.rules
		if d := cmp.Or(have.differs(want), tunnelDiffers()); d != "" {
			return d
		}
		if len(v.Pending) > 0 || v.Status.Pending > 0 {
			return fmt.Sprintf("%d devices have tightenings that are not recorded", len(v.Pending))
		}
		if l.rules == nil {
			l.rules = have.rules
		}
		return ""
	})
	l.compare(t, v)
}

// compare holds what was decided against what was answered before.
func (l *lab) compare(t testing.TB, v *view) {
	t.Helper()
	for n := 1; n < nobody; n++ {
		is := isOut
		switch v.Records[id(n)].Stage {
		case quarantine.Quarantined:
			is = isQuarantined
		case quarantine.Routed:
			is = isRouted
		}
		if was := l.acked[n]; was != unknown && was != is {
			t.Errorf("device %d: answered %d, and recorded is %d (%s)", n, was, is, v.Records[id(n)].Reason)
		}
		l.acked[n] = is
		l.deny(n, rights{quarantined: is == isOut, routed: is != isRouted})
	}
	l.note("settled: %v", l.acked)
	leaks := l.forbidden()
	for _, what := range leaks[:min(5, len(leaks))] {
		t.Errorf("FORBIDDEN (%d in all): %s", len(leaks), what)
	}
	if t.Failed() {
		t.Fatalf("what came before:\n%s", strings.Join(l.history[max(0, len(l.history)-60):], "\n"))
	}
}

// note adds to the history.
func (l *lab) note(format string, a ...any) {
	l.history = append(l.history[max(0, len(l.history)-1000):], time.Now().Format("05.000000 ")+fmt.Sprintf(format, a...))
}

// order is one order of the judge's, with what it may give and what it surely takes.
type order struct {
	change quarantine.Change
	gives  rights
	takes  rights
	then   placement
}

// draw is an order that changes something, by what was last known.
func (l *lab) draw(n int) order {
	report := func(v quarantine.Verdict) *quarantine.Report {
		return &quarantine.Report{Device: id(n), Source: "mdm", Verdict: v, At: time.Now(), Validity: 5 * time.Hour}
	}
	both := rights{true, true}
	out := []order{
		{quarantine.Change{Kind: quarantine.Reported, Report: report(quarantine.NonCompliant)}, rights{}, rights{routed: true}, isQuarantined},
		{quarantine.Change{Kind: quarantine.Block}, rights{}, both, isOut},
	}
	switch l.acked[n] {
	case isQuarantined:
		out = []order{{quarantine.Change{Kind: quarantine.Reported, Report: report(quarantine.Compliant)}, rights{routed: true}, rights{}, isRouted}}
	case isOut:
		out = []order{{quarantine.Change{Kind: quarantine.Unblock}, both, rights{}, unknown}}
	case unknown:
		out = append(out, order{quarantine.Change{Kind: quarantine.Unblock}, both, rights{}, unknown},
			order{quarantine.Change{Kind: quarantine.Reported, Report: report(quarantine.Compliant)}, rights{routed: true}, rights{}, unknown})
	}
	o := out[dice.IntN(len(out))]
	o.change.Device = id(n)
	return o
}

// move gives one order about a device, and notes what its answer means. It reports
// whether it was answered with a yes.
func (l *lab) move(n int) bool {
	o, was := l.draw(n), l.acked[n]
	l.grant(n, o.gives)
	l.acked[n] = unknown
	err := l.control.change(o.change)
	l.note("%s of device %d: %v", o.change.Kind, n, err)
	if err != nil {
		return false
	}
	l.deny(n, o.takes) // also when it repeated an order whose answer was lost
	if was != unknown || o.then == isOut {
		l.acked[n] = o.then
	}
	return true
}

// tunnelDiffers says what of the tunnel's interface, and of forwarding, is not as decided.
func tunnelDiffers() string {
	link, err := netlink.LinkByName(host.Tunnel)
	if err != nil {
		return err.Error()
	}
	all, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err.Error()
	}
	var own []string
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			own = append(own, a.IPNet.String())
		}
	}
	slices.Sort(own)
	if want := []string{"10.66.0.1/16", "10.77.0.1/16", "fd66::1/64", "fd77::1/64"}; !slices.Equal(own, want) {
		return fmt.Sprintf("the tunnel has addresses %v, decided %v", own, want)
	}
	for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if b, err := os.ReadFile(file); err != nil || string(b) != "1\n" {
			return fmt.Sprintf("%s is %q (%v)", file, b, err)
		}
	}
	return ""
}
