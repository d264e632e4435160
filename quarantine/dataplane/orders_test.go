package dataplane

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

var errKernel = errors.New("the kernel says no")

func TestMoveThereAndBack(t *testing.T) {
	f := planned(t, in66(1, 5), in66(2, 5))
	want(t, f.move(in77(1, 11)), nil)
	f.agree(t)
	same(t, "allowed while routed", f.link.allowed(peerKey(1)), []string{"10.66.0.2", "10.77.0.2"})
	same(t, "calls", f.table.calls(), []string{"apply"})
	back := in66(1, 12)
	back.Tighten = 1
	want(t, f.move(back), nil)
	f.agree(t)
	same(t, "allowed in quarantine", f.link.allowed(peerKey(1)), []string{"10.66.0.2"})
	want(t, f.move(quarantine.Entry{Device: id(1), Revision: 13, Tighten: 2}), nil)
	f.agree(t)
	if f.link.allowed(peerKey(1)) != nil || f.link.allowed(peerKey(2)) == nil {
		t.Error("removing device 1 left its peer, or took another's")
	}
}

func TestMoveTouchesTheTableFirst(t *testing.T) {
	f := planned(t, in66(1, 5))
	var allowed []string
	f.link.before = func() {
		if !slices.Contains(f.table.calls(), "apply") {
			t.Error("the table was not first")
		}
		allowed = f.link.allowed(peerKey(1))
	}
	want(t, f.move(in77(1, 11)), nil)
	same(t, "allowed between the steps", allowed, []string{"10.66.0.2"})
}

// Nothing loosens that has not taken in the last tightening, or that is older than
// what is applied; whatever of it takes away still does.
func TestOutdated(t *testing.T) {
	tightened := in66(1, 20)
	tightened.Tighten = 3
	blocked := quarantine.Entry{Device: id(1), Revision: 20, Tighten: 3}
	withTighten := func(e quarantine.Entry, n uint64) quarantine.Entry { e.Tighten = n; return e }
	rekeyed := withTighten(in66(1, 21), 2)
	rekeyed.Key = peerKey(99)
	longer := withTighten(in77(1, 21), 2)
	longer.Until += 5 * second
	shorter := withTighten(in77(1, 15), 2)
	shorter.Until -= 5 * second
	for name, c := range map[string]struct {
		held, arrives quarantine.Entry
		err           error
		routed        bool
		peer          []string
	}{
		"lower tightening":         {tightened, withTighten(in77(1, 30), 2), quarantine.ErrOutdated, false, []string{"10.66.0.2"}},
		"same tightening":          {tightened, withTighten(in77(1, 30), 3), nil, true, []string{"10.66.0.2", "10.77.0.2"}},
		"older revision":           {tightened, withTighten(in77(1, 19), 3), quarantine.ErrOutdated, false, []string{"10.66.0.2"}},
		"unblocking, lower":        {blocked, withTighten(in66(1, 30), 2), quarantine.ErrOutdated, false, nil},
		"unblocking":               {blocked, withTighten(in66(1, 30), 3), nil, false, []string{"10.66.0.2"}},
		"another key, lower":       {tightened, rekeyed, quarantine.ErrOutdated, false, nil},
		"longer, lower":            {withTighten(in77(1, 20), 3), longer, quarantine.ErrOutdated, true, []string{"10.66.0.2", "10.77.0.2"}},
		"shorter, lower and older": {withTighten(in77(1, 20), 3), shorter, nil, true, []string{"10.66.0.2", "10.77.0.2"}},
		"demotion of any age":      {withTighten(in77(1, 20), 3), in66(1, 1), nil, false, []string{"10.66.0.2"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, way := range []string{"move", "plan", "plan of another control plane"} {
				f := planned(t)
				want(t, f.move(c.held), nil)
				var err error
				plan := somePlan(25, c.arrives)
				switch way {
				case "move":
					err = f.move(c.arrives)
				case "plan of another control plane":
					plan.Control = "control-2"
					fallthrough
				default:
					want(t, f.replace(plan), nil)
				}
				if way == "plan of another control plane" && c.arrives.Tighten >= c.held.Tighten {
					continue // its revisions may come from a restored store
				}
				if way == "move" {
					want(t, err, c.err)
				}
				f.agree(t)
				_, routed := f.table.routed[address(77, 1)]
				if routed != c.routed {
					t.Errorf("%s: routed is %v", way, routed)
				}
				if until := f.table.routed[address(77, 1)].Until; until > max(c.held.Until, 0) && c.err != nil {
					t.Errorf("%s: the lease was prolonged", way)
				}
				same(t, way, f.link.allowed(peerKey(1)), c.peer)
				if f.link.allowed(peerKey(99)) != nil {
					t.Errorf("%s: the new key got in", way)
				}
				if got := f.mirror.held[id(1)].Tighten; got != max(c.held.Tighten, c.arrives.Tighten) {
					t.Errorf("%s: counter %d", way, got)
				}
			}
		})
	}
}

// A device that a plan leaves out keeps its counter.
func TestCountersOutliveTheDevice(t *testing.T) {
	f := planned(t)
	e := in66(1, 20)
	e.Tighten = 3
	want(t, f.move(e), nil)
	want(t, f.replace(somePlan(21)), nil)
	want(t, f.move(in77(1, 30)), quarantine.ErrOutdated)
	f.agree(t)
	if f.link.allowed(peerKey(1)) != nil {
		t.Error("an outdated entry brought the device back")
	}
}

// Whatever fails while access is taken away, it is gone when the order is answered.
func TestTighteningSurvivesFailures(t *testing.T) {
	for name, c := range map[string]struct {
		table map[string][]error
		link  int
		err   error
		calls []string
		shut  bool
	}{
		"table in doubt":    {map[string][]error{"apply": {firewall.ErrDoubt}}, 0, nil, []string{"apply", "fill"}, false},
		"table refuses":     {map[string][]error{"apply": {errKernel}}, 0, nil, []string{"apply", "fill"}, false},
		"peer fails once":   {nil, 1, nil, []string{"apply"}, false},
		"both fail once":    {map[string][]error{"apply": {firewall.ErrDoubt}}, 1, nil, []string{"apply", "fill"}, false},
		"filling fails too": {map[string][]error{"apply": {firewall.ErrDoubt}, "fill": {errKernel}}, 0, errKernel, []string{"apply", "fill", "fill empty"}, true},
		"so does emptying": {map[string][]error{"apply": {firewall.ErrDoubt}, "fill": {errKernel}, "fill empty": {errKernel}}, 0, errKernel,
			[]string{"apply", "fill", "fill empty", "adopt"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5), in77(2, 5))
			f.table.fail, f.link.fail = c.table, c.link
			if f.table.fail == nil {
				f.table.fail = map[string][]error{}
			}
			want(t, f.move(in66(1, 11)), c.err)
			same(t, "calls", f.table.calls(), c.calls)
			if _, routed := f.table.routed[address(77, 1)]; routed {
				t.Error("still routed")
			}
			same(t, "allowed", f.link.allowed(peerKey(1)), []string{"10.66.0.2"})
			if c.shut {
				if f.table.fresh != 0 || f.table.alive != 0 || len(f.table.quarantined)+len(f.table.routed) != 0 {
					t.Error("not shut")
				}
				want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
				want(t, f.move(in66(2, 12)), quarantine.ErrNotEnforced)
				f.table.fail = map[string][]error{}
				want(t, f.replace(somePlan(12, in66(1, 11), in77(2, 5))), nil)
			}
			f.agree(t)
			if _, routed := f.table.routed[address(77, 2)]; !routed {
				t.Error("the other device lost its route")
			}
		})
	}
}

// A peer that stays in spite of everything is told of, and has no place in the table.
func TestPeerThatStays(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.link.fail = 1000
	if err := f.move(quarantine.Entry{Device: id(1), Revision: 11, Tighten: 1}); err == nil {
		t.Error("answered as done")
	}
	if len(f.table.quarantined)+len(f.table.routed) != 0 {
		t.Error("the table still lets it pass")
	}
	want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
	f.link.fail = 0
	want(t, f.move(quarantine.Entry{Device: id(1), Revision: 11, Tighten: 1}), nil)
	f.agree(t)
}

// A loosening that fails leaves what was, and ends freshness until it is mended.
func TestLooseningFails(t *testing.T) {
	for name, fault := range map[string]error{"refused": errKernel, "in doubt": firewall.ErrDoubt} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in66(1, 5), in77(2, 5))
			f.table.fail["apply"] = []error{fault}
			want(t, f.move(in77(1, 11)), fault)
			f.agree(t)
			if _, routed := f.table.routed[address(77, 1)]; routed {
				t.Error("routed all the same")
			}
			same(t, "allowed", f.link.allowed(peerKey(1)), []string{"10.66.0.2"})
			want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
			delete(f.table.fail, "apply")
			want(t, f.move(in77(1, 11)), nil)
			want(t, f.prolong(fresh(11)), nil)
			f.agree(t)
		})
	}
}

func TestRefused(t *testing.T) {
	change := func(with func(*quarantine.Entry)) quarantine.Entry {
		e := in77(1, 11)
		with(&e)
		return e
	}
	far := netip.MustParseAddr("192.0.2.1")
	for name, c := range map[string]struct {
		entry quarantine.Entry
		err   error
	}{
		"no name":          {change(func(e *quarantine.Entry) { e.Device = "" }), ErrRefused},
		"long name":        {change(func(e *quarantine.Entry) { e.Device = quarantine.ID(make([]byte, 129)) }), ErrRefused},
		"weak key":         {change(func(e *quarantine.Entry) { e.Key = tunnel.Key{0: 1} }), ErrRefused},
		"weak next key":    {change(func(e *quarantine.Entry) { e.Next = tunnel.Key{0: 1} }), ErrRefused},
		"next is current":  {change(func(e *quarantine.Entry) { e.Next = e.Key }), ErrRefused},
		"outside all":      {change(func(e *quarantine.Entry) { e.Routed = []netip.Addr{far} }), ErrRefused},
		"no address":       {change(func(e *quarantine.Entry) { e.Quarantined = []netip.Addr{{}} }), ErrRefused},
		"mapped address":   {change(func(e *quarantine.Entry) { e.Quarantined = []netip.Addr{netip.MustParseAddr("::ffff:10.66.0.2")} }), ErrRefused},
		"the gateway's":    {change(func(e *quarantine.Entry) { e.Quarantined = []netip.Addr{netip.MustParseAddr("10.66.0.1")} }), ErrRefused},
		"no mark":          {change(func(e *quarantine.Entry) { e.Mark = 0 }), ErrRefused},
		"unknown mark":     {change(func(e *quarantine.Entry) { e.Mark = 8 }), ErrRefused},
		"no end":           {change(func(e *quarantine.Entry) { e.Until = 0 }), ErrRefused},
		"another's key":    {change(func(e *quarantine.Entry) { e.Key = peerKey(2) }), quarantine.ErrConflict},
		"another's next":   {change(func(e *quarantine.Entry) { e.Next = peerKey(2) }), quarantine.ErrConflict},
		"another's place":  {change(func(e *quarantine.Entry) { e.Routed = []netip.Addr{address(77, 2)} }), quarantine.ErrConflict},
		"too many of them": {change(func(e *quarantine.Entry) { e.Routed = make([]netip.Addr, 5) }), ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in66(1, 5), in77(2, 5))
			want(t, f.move(c.entry), c.err)
			want(t, f.replace(somePlan(12, in77(2, 5), c.entry)), c.err)
			if calls := f.table.calls(); len(calls) != 0 {
				t.Errorf("the table was called: %v", calls)
			}
			f.agree(t)
			want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
		})
	}
}

func TestPlanRefused(t *testing.T) {
	for name, spoil := range map[string]func(*quarantine.Plan){
		"no control plane":   func(p *quarantine.Plan) { p.Control = "" },
		"no pools":           func(p *quarantine.Plan) { p.Pools = nil },
		"two of one name":    func(p *quarantine.Plan) { p.Pools[1].Name = p.Pools[0].Name },
		"foreign gateway":    func(p *quarantine.Plan) { p.Gateway[0] = netip.MustParsePrefix("192.0.2.1/24") },
		"everything gateway": func(p *quarantine.Plan) { p.Gateway[0] = netip.MustParsePrefix("10.66.0.1/1") },
		"zero gateway":       func(p *quarantine.Plan) { p.Gateway[0] = netip.Prefix{} },
		"a device twice":     func(p *quarantine.Plan) { p.Entries = append(p.Entries, p.Entries[0]) },
		"older than applied": func(p *quarantine.Plan) { p.Revision = 9 },
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5))
			p := somePlan(12, in66(2, 12))
			spoil(&p)
			if err := f.replace(p); err == nil {
				t.Error("taken")
			}
			if calls := f.table.calls(); len(calls) != 0 {
				t.Errorf("the table was called: %v", calls)
			}
			f.agree(t)
		})
	}
}

func TestRefresh(t *testing.T) {
	f := newFixture(t)
	want(t, f.prolong(fresh(1)), quarantine.ErrNotEnforced)
	want(t, f.replace(somePlan(10, in66(1, 5))), nil)
	if f.table.fresh != 0 || f.table.alive != 0 {
		t.Error("a plan alone made the table fresh")
	}
	change := func(with func(*quarantine.Freshness)) quarantine.Freshness {
		x := fresh(10)
		with(&x)
		return x
	}
	for name, c := range map[string]struct {
		f   quarantine.Freshness
		err error
	}{
		"later than applied":     {fresh(11), quarantine.ErrNotEnforced},
		"another control plane":  {change(func(x *quarantine.Freshness) { x.Control = "control-2" }), quarantine.ErrNotEnforced},
		"over a day":             {change(func(x *quarantine.Freshness) { x.Fresh = epoch + day + second }), ErrRefused},
		"alive over two days":    {change(func(x *quarantine.Freshness) { x.Alive = epoch + 2*day + second }), ErrRefused},
		"negative":               {change(func(x *quarantine.Freshness) { x.Fresh = -1 }), ErrRefused},
		"up to what was applied": {fresh(10), nil},
		"up to less":             {fresh(3), nil},
		"shorter":                {change(func(x *quarantine.Freshness) { x.Fresh = epoch + second }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := [2]firewall.Deadline{f.table.fresh, f.table.alive}
			want(t, f.prolong(c.f), c.err)
			after := [2]firewall.Deadline{f.table.fresh, f.table.alive}
			if c.err != nil && after != before || c.err == nil && after != [2]firewall.Deadline{c.f.Fresh, c.f.Alive} {
				t.Errorf("deadlines %v, were %v", after, before)
			}
		})
	}
	want(t, f.move(in77(1, 11)), nil)
	want(t, f.prolong(fresh(11)), nil)
	second := somePlan(11, in77(1, 11))
	second.Control = "control-2"
	want(t, f.replace(second), nil)
	if f.table.fresh != fresh(11).Fresh {
		t.Error("a new control plane's plan took freshness away, or gave some")
	}
	want(t, f.prolong(fresh(11)), quarantine.ErrNotEnforced)
}

func TestRefreshInDoubt(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.table.fail["refresh"] = []error{firewall.ErrDoubt}
	later := fresh(10)
	later.Fresh += 30 * second
	want(t, f.prolong(later), firewall.ErrDoubt)
	if f.table.fresh != fresh(10).Fresh {
		t.Errorf("fresh until %d, want what was before", f.table.fresh)
	}
	f.agree(t)
}

// What has ended is not brought back, by a refill or by an entry.
func TestLapse(t *testing.T) {
	f := planned(t, in77(1, 5))
	f.times.Boot += 59*second + second/2
	want(t, f.refill(), nil)
	if len(f.table.routed) != 0 || !f.table.quarantined[address(66, 1)] {
		t.Error("a refill brought back what has ended")
	}
	want(t, f.move(in77(1, 11)), nil)
	if len(f.table.routed) != 0 {
		t.Error("an entry that has ended was routed")
	}
}

func TestForwardingComesWithTheFirstPlan(t *testing.T) {
	f := newFixture(t)
	broken := somePlan(10)
	broken.Control = ""
	if f.replace(broken) == nil || f.forwarded != 0 {
		t.Fatal("forwarding before a complete plan")
	}
	f.table.fail["fill empty"] = []error{errKernel, nil}
	if f.replace(somePlan(10)) == nil || f.forwarded != 0 {
		t.Fatal("forwarding without a table")
	}
	want(t, f.replace(somePlan(10)), nil)
	want(t, f.replace(somePlan(11)), nil)
	if f.forwarded != 1 || len(f.link.addresses) != 4 {
		t.Errorf("forwarded %d times, addresses %v", f.forwarded, f.link.addresses)
	}
}

func TestClocks(t *testing.T) {
	for name, c := range map[string]struct {
		boot, monotonic, wall time.Duration
		refills               int
		left                  firewall.Deadline
	}{
		"a quiet second":       {time.Second, time.Second, time.Second, 0, 59 * second},
		"a slow machine":       {9 * time.Second, 9 * time.Second, 9 * time.Second, 0, 51 * second},
		"slewing":              {time.Second, time.Second, time.Second + 900*time.Millisecond, 0, 59 * second},
		"suspended":            {31 * time.Second, time.Second, 31 * time.Second, 1, 29 * second},
		"suspended for long":   {time.Hour, time.Second, time.Hour, 1, 0},
		"paused, then set":     {time.Second, time.Second, 31 * time.Second, 1, 29 * second},
		"paused for long":      {time.Second, time.Second, time.Hour, 1, 0},
		"wall clock set back":  {time.Second, time.Second, -time.Hour, 1, 59 * second},
		"set back and stopped": {31 * time.Second, time.Second, -time.Hour, 1, 29 * second},
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5))
			f.times.Boot += firewall.Deadline(c.boot)
			f.times.Monotonic += int64(c.monotonic)
			f.times.Wall = f.times.Wall.Add(c.wall)
			f.watchClocks()
			if calls := f.table.calls(); len(calls) != c.refills {
				t.Errorf("calls %v, want %d refills", calls, c.refills)
			}
			left := f.table.routed[address(77, 1)].Until - f.times.Boot
			if c.left == 0 && len(f.table.routed) != 0 || c.left != 0 && left != c.left {
				t.Errorf("%d ns left, want %d", left, c.left)
			}
			if max(f.table.fresh-f.times.Boot, 0) > c.left && c.left != 0 {
				t.Errorf("fresh for %d ns more, want %d", f.table.fresh-f.times.Boot, c.left)
			}
			f.table.calls()
			f.watchClocks()
			if calls := f.table.calls(); len(calls) != 0 {
				t.Errorf("one jump was seen twice: %v", calls)
			}
		})
	}
}

func TestRotation(t *testing.T) {
	e := in77(1, 5)
	e.Next = peerKey(50)
	f := planned(t, e, in77(2, 5))
	all, none := []string{"10.66.0.2", "10.77.0.2"}, []string{}
	at := func(when string, current, next []string) {
		t.Helper()
		f.agree(t)
		same(t, when+": current", f.link.allowed(peerKey(1)), current)
		same(t, when+": next", f.link.allowed(peerKey(50)), next)
	}
	at("before", all, none)
	f.link.shaken[peerKey(1)], f.link.shaken[peerKey(2)] = time.Now(), time.Now()
	f.watchHandshakes()
	at("handshakes of others", all, none)
	f.link.shaken[peerKey(50)] = time.Now()
	f.nextLook = time.Time{}
	f.watchHandshakes()
	at("first handshake", none, all)
	demoted := in66(1, 12)
	demoted.Next = peerKey(50)
	want(t, f.move(demoted), nil)
	at("demoted meanwhile", none, []string{"10.66.0.2"})
	again := somePlan(13, e, in77(2, 5))
	again.Control = "control-2"
	want(t, f.replace(again), nil)
	at("a plan that has not heard", none, all)
	heard := in77(1, 14)
	heard.Key = peerKey(50)
	want(t, f.move(heard), nil)
	at("the control plane followed", nil, all)
	if len(f.mirror.rotating) != 0 {
		t.Error("still looking for handshakes")
	}
	if _, still := f.link.shaken[peerKey(50)]; !still {
		t.Error("the new key's session was lost")
	}
}

// A rotation that is called off gives the addresses back.
func TestRotationCalledOff(t *testing.T) {
	e := in66(1, 5)
	e.Next = peerKey(50)
	f := planned(t, e)
	f.link.shaken[peerKey(50)] = time.Now()
	f.watchHandshakes()
	want(t, f.move(in66(1, 11)), nil)
	f.agree(t)
	same(t, "current", f.link.allowed(peerKey(1)), []string{"10.66.0.2"})
	if f.link.allowed(peerKey(50)) != nil {
		t.Error("the next key is still a peer")
	}
}

// What a device gives up, another may have.
func TestFreedAddressesAndKeys(t *testing.T) {
	f := planned(t, in77(1, 5))
	heir := in77(1, 12)
	heir.Device = id(2)
	want(t, f.move(heir), quarantine.ErrConflict)
	want(t, f.move(quarantine.Entry{Device: id(1), Revision: 11, Tighten: 1}), nil)
	want(t, f.move(heir), nil)
	f.agree(t)
	want(t, f.prolong(fresh(12)), nil)
}

func TestNewRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no table":       func(c *Config) { c.Table = nil },
		"no link":        func(c *Config) { c.OpenLink = nil },
		"no names":       func(c *Config) { c.Host.Tunnel = "" },
		"pools already":  func(c *Config) { c.Host.Pools = somePlan(1).Pools },
		"nobody to hear": func(c *Config) { c.Conn = nil },
		"two sockets": func(c *Config) {
			c.Listener, c.Listen = new(net.UnixListener), func() (*net.UnixListener, error) { return nil, nil }
		},
	} {
		c := newFixture(t).config
		spoil(&c)
		if p, err := New(c); err == nil {
			t.Errorf("%s: made %v", name, p)
		}
	}
}
