package firewall

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// remember has the kernel hold a generation, which takes a new tick.
func (g *gateway) remember() {
	g.t.Helper()
	for g.table.memory.number == 0 {
		must(g.t, g.table.Refresh(After(time.Minute), After(time.Hour)))
	}
}

// generation is what the kernel holds, as seen by a look into its sets; zero for nothing.
func (g *gateway) generation() Mark {
	g.t.Helper()
	var marks []Mark
	for _, name := range []string{"verified", "generation"} {
		list, err := g.table.conn.GetSetElements(&nftables.Set{Table: kernelTable("lazaret"), Name: name})
		must(g.t, err)
		for _, e := range list {
			b := e.Key
			if name == "generation" {
				b = slices.Clone(e.Val)
				slices.Reverse(b) // network order, on the machines that tests run on
			}
			marks = append(marks, Mark(uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16|uint32(b[3])<<24))
			if e.Expires <= 0 || e.Expires > leakRuleset().Freshness {
				g.t.Errorf("an element of %s ends in %s", name, e.Expires)
			}
		}
	}
	if len(marks) == 0 {
		return 0
	}
	if len(marks) != 3 || marks[0] != marks[1] || marks[0] != marks[2] {
		g.t.Fatalf("generations %v", marks)
	}
	return marks[0]
}

// behind takes an address out of its set without a word to the memory.
func (g *gateway) behind(set string, a netip.Addr) {
	g.t.Helper()
	g.table.destroy(leakRuleset(), batch{set: {addressed(a)}})
	must(g.t, g.table.commit())
}

// TestRemembered shows that flows really are remembered, and what is not: an element that is
// taken away behind the table's back is missed by what is looked up, and by nothing else.
func TestRemembered(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	for _, w := range worlds {
		must(t, g.table.Adopt(baseRuleset()))
		must(t, g.table.Fill(leakRuleset(), leakElements()))
		g.remember()
		if n := g.generation(); n == 0 || n != g.table.memory.number {
			t.Fatalf("the kernel has generation %d, the table %d", n, g.table.memory.number)
		}
		f, q, x := flow{w.routed, w.other, 31000, 9}, flow{w.quarantined, w.management, 31001, 5000}, flow{w.fixed, w.other, 31002, 9}
		heard, unheard := flow{w.routed, w.other, 31003, 9}, flow{w.routed, w.other, 31004, 9}
		guest := flow{w.guest, w.other, 31005, 9000}
		g.running(f)
		g.check("opened", both(f, true)...)
		g.running(x)
		g.check("opened", both(x, true)...)
		g.check("opening", up("up", unheard.udp(), true))
		for _, a := range []flow{q, heard, guest} {
			g.check("opening", up("up", a.udp(), true), down("down", a.back().udp(), true))
		}
		g.check("opening", up("up", q.udp(), true), up("up", guest.udp(), true))
		g.behind(routedSet(familyOf(w.routed)), w.routed)
		g.behind(routedSet(familyOf(w.guest)), w.guest)
		g.behind(quarantinedSet(familyOf(w.quarantined)), w.quarantined)
		g.behind(fixedMap(familyOf(w.fixed)), w.fixed)
		g.check(w.name+", remembered", both(f, true)...)
		g.check(w.name+", remembered", both(q, true)[:2]...)
		g.check(w.name+", remembered", both(guest, true)[:2]...)
		g.check(w.name+", by its mark", both(x, false)...)
		g.check(w.name+", no answer was seen since", both(unheard, false)[:1]...)
		g.check(w.name+", the device was not heard since the answer", both(heard, false)[:2]...)
		g.check(w.name+", new", up("new", flow{w.routed, w.other, 31006, 9}.udp(), false),
			segment("new", "lz0", "out0", flow{w.routed, w.other, 31007, 9}, syn, false),
			down("error about a remembered flow", flow{src: w.router, dst: w.routed}.tooBig(f.udp()), false),
			up("device's error about a remembered flow", flow{src: w.routed, dst: w.other}.refused(f.back().udp()), false))
		n := g.generation()
		must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.colleague}})) // of another device
		if now := g.generation(); now == n {
			t.Errorf("%s: still generation %d", w.name, n)
		}
		for _, a := range []flow{f, q, guest} {
			g.check(w.name+", the generation is over", both(a, false)...)
		}
	}
}

// TestGenerations asks the kernel which steps end a generation, and which leave it.
func TestGenerations(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, w := newGateway(t, true), worlds[0]
	r, e, hour := leakRuleset(), leakElements(), After(time.Hour)
	less := leakRuleset()
	less.Pools[1].Reach = []Reach{{To: pfx("198.51.100.0/24")}}
	next := w.routed.Next().Next()
	apply := func(c Change) func() error { return func() error { return g.table.Apply(c) } }
	for name, x := range map[string]struct {
		do   func() error
		ends bool
	}{
		"promotion":                    {apply(Change{AddRouted: []Routed{{next, 1, hour}}}), false},
		"enrollment":                   {apply(Change{AddQuarantined: addrs("10.99.0.88")}), false},
		"prolonged":                    {apply(Change{AddRouted: []Routed{{w.routed, 1, After(2 * time.Hour)}}}), false},
		"refreshed":                    {func() error { return g.table.Refresh(After(time.Hour), After(2*time.Hour)) }, false},
		"deletion of nobody":           {apply(Change{DelRouted: []netip.Addr{next}}), false},
		"nothing":                      {apply(Change{}), false},
		"demotion":                     {apply(Change{DelRouted: []netip.Addr{w.routed}}), true},
		"demotion by mapped address":   {apply(Change{DelRouted: []netip.Addr{netip.AddrFrom16(w.routed.As16())}}), true},
		"demotion of a fixed address":  {apply(Change{DelRouted: []netip.Addr{w.fixed}}), true},
		"promotion of a fixed address": {apply(Change{AddRouted: []Routed{{w.neighbour, 1, hour}}}), true},
		"shortened":                    {apply(Change{AddRouted: []Routed{{w.routed, 1, After(time.Minute)}}}), true},
		"without a deadline":           {apply(Change{AddRouted: []Routed{{w.routed, 1, 0}}}), true},
		"mark of no pool":              {func() error { _ = g.table.Apply(Change{AddRouted: []Routed{{w.routed, 2, hour}}}); return nil }, true},
		"another pool":                 {apply(Change{AddRouted: []Routed{{w.routed, 7, hour}}}), true},
		"blocked":                      {apply(Change{DelQuarantined: []netip.Addr{w.quarantined}}), true},
		"plan":                         {func() error { return g.table.Fill(r, e) }, true},
		"pool reaches less":            {func() error { return g.table.Fill(less, e) }, true},
		"freshness shortened":          {func() error { return g.table.Refresh(After(10*time.Second), hour) }, true},
		"not fresh":                    {func() error { return g.table.Refresh(0, hour) }, true},
		"not alive":                    {func() error { return g.table.Refresh(hour, 0) }, true},
		"adopted":                      {func() error { return g.table.Adopt(r) }, true},
	} {
		var was, now Mark
		for range 20 { // a transaction that took long is done again, with nothing remembered
			must(t, g.table.Fill(r, e))
			g.remember()
			was = g.generation()
			must(t, x.do())
			if now = g.generation(); now != 0 || x.ends {
				break
			}
		}
		if (now != was) != x.ends || now != g.table.memory.number {
			t.Errorf("%s: from generation %d to %d, the table says %d, want it to end: %v", name, was, now, g.table.memory.number, x.ends)
		}
	}
}

// TestGenerationEnds: it ends with the first lease, also one that came later and is shorter.
func TestGenerationEnds(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, w := newGateway(t, true), worlds[0]
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	g.remember()
	ends := After(20 * time.Second)
	must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed.Next().Next(), 1, ends}}}))
	for _, name := range []string{"verified", "generation"} {
		left := time.Duration(ends - Now()) // before the kernel is asked: its answer may be read late
		list, err := g.table.conn.GetSetElements(&nftables.Set{Table: kernelTable("lazaret"), Name: name})
		must(t, err)
		if len(list) == 0 {
			t.Errorf("%s is empty", name)
		}
		for _, e := range list {
			if e.Timeout > 20*time.Second || e.Expires > left+50*time.Millisecond {
				t.Errorf("%s lasts %s of %s, the lease %s", name, e.Expires, e.Timeout, left)
			}
		}
	}
}

// TestDoubtRemembersNothing: after a transaction of which nothing is certain, and after one that was
// too long to be sent, nothing is remembered until the table is filled.
func TestDoubtRemembersNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t, true)
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	g.remember()
	var many []netip.Addr
	for i := range 300_000 {
		many = append(many, netip.AddrFrom4([4]byte{10, 99 + byte(i>>16), byte(i >> 8), byte(i)}))
	}
	if err := g.table.Apply(Change{DelRouted: many, DelQuarantined: many}); err == nil {
		t.Log("the socket takes any transaction here")
	} else if !errors.Is(err, ErrDoubt) {
		t.Fatal(err)
	}
	if g.table.memory.number != 0 && g.table.held != nil && g.table.memory.lost {
		t.Error("a table in doubt has a generation")
	}
	if g.table.held != nil {
		must(t, g.table.Apply(Change{}))
		if n := g.generation(); n != 0 {
			t.Errorf("generation %d while in doubt", n)
		}
		must(t, g.table.Refresh(After(time.Minute), After(time.Minute)))
		if n := g.generation(); n != 0 {
			t.Errorf("generation %d after a refresh while in doubt", n)
		}
	}
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	g.remember()
	if g.generation() == 0 {
		t.Error("nothing is remembered after a fill")
	}
}

// forgetful is a gateway whose table never has a generation.
func forgetful(t testing.TB) *gateway {
	g := newGateway(t, true)
	g.table.numbers = numbers{last: math.MaxUint32}
	return g
}

// TestRememberedAsLookedUp takes two gateways through the same random steps and packets, one
// that remembers and one that does not, and sees no packet pass the one and not the other.
func TestRememberedAsLookedUp(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	steps := 1200
	if os.Getenv("LONG") != "" {
		steps = 40_000
	}
	g, plain := newGateway(t, true), forgetful(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := rand.New(rand.NewPCG(seed, 1))
	pick := func(n int) int { return d.IntN(n) }
	fill := func() { // of the same deadlines
		e, r := leakElements(), leakRuleset()
		if pick(3) == 0 {
			r.Pools[1].Reach = []Reach{{To: pfx("198.51.99.0/24"), Protocol: "udp", From: 9}, {To: pfx("2001:db8:99::/48")}}
		}
		r.Pools[1].Masquerade = false
		e.Routed = slices.DeleteFunc(e.Routed, func(Routed) bool { return pick(4) == 0 })
		for _, x := range []*gateway{g, plain} {
			must(t, x.table.Fill(r, e))
		}
	}
	fill()
	g.remember()
	remembered, passed := 0, 0
	for i := range steps {
		w := worlds[pick(2)]
		devices := []netip.Addr{w.routed, w.colleague, w.guest, w.fixed, w.quarantined, w.neighbour}
		a := devices[pick(len(devices))]
		var c Change
		switch pick(100) {
		case 0:
			c.DelRouted = []netip.Addr{a}
		case 1, 2:
			c.AddRouted = []Routed{{a, []Mark{1, 7}[pick(2)], After(time.Duration(pick(3)+1) * time.Hour)}}
		case 3:
			c.DelQuarantined = []netip.Addr{w.quarantined}
		case 4:
			c.AddQuarantined = []netip.Addr{w.quarantined}
		case 5:
			fresh, alive := After(time.Minute*time.Duration(pick(4))), After(time.Hour*time.Duration(pick(8)))
			for _, x := range []*gateway{g, plain} {
				must(t, x.table.Refresh(fresh, alive))
			}
		case 6:
			fill()
		case 7: // another process
			for _, x := range []*gateway{g, plain} {
				old := x.table
				must(t, old.Close())
				x.table = openAt(t, x.fd)
				must(t, x.table.Adopt(leakRuleset()))
			}
			plain.table.numbers = numbers{last: math.MaxUint32}
			fill()
		default:
			f := flow{a, w.other, 32000, []uint16{9, 9000}[pick(2)]}
			switch pick(3) {
			case 0:
				f.dst, f.dport = w.management, []uint16{443, 5000}[pick(2)]
			case 1:
				f.dst, f.dport = w.listed, 80
			}
			s := packetOf(f, w, pick(12))
			got, want := g.passes(s), plain.passes(s)
			if got != want {
				t.Fatalf("step %d of seed %d: %s of %v: passes %v, %v when looked up", i, seed, s.name, f, got, want)
			}
			if got {
				passed++
			}
			if g.table.memory.number != 0 {
				remembered++
			}
			continue
		}
		for _, x := range []*gateway{g, plain} {
			must(t, x.table.Apply(c))
		}
	}
	t.Logf("%d steps, %d packets passed, %d of all with a generation", steps, passed, remembered)
	if passed < steps/20 || remembered < steps/10 {
		t.Errorf("too little to tell anything: %d passed, %d with a generation", passed, remembered)
	}
}

// packetOf is a packet that has to do with flow f.
func packetOf(f flow, w world, kind int) step {
	switch kind {
	case 0, 1:
		return up("upload", f.udp(), true)
	case 2, 3:
		return down("download", f.back().udp(), true)
	case 4:
		return segment("syn", "lz0", "out0", f, syn, true)
	case 5:
		return segment("syn ack", "out0", "lz0", f.back(), syn|ack, true)
	case 6:
		return segment("segment", "lz0", "out0", f, ack, true)
	case 7:
		return segment("answer", "out0", "lz0", f.back(), ack, true)
	case 8:
		return down("error", flow{src: w.router, dst: f.src}.tooBig(f.udp()), true)
	case 9:
		return up("device's error", flow{src: f.src, dst: f.dst}.refused(f.back().udp()), true)
	case 10:
		return up("echo", f.ping(), true)
	}
	return down("echo's answer", f.back().pong(), true)
}

// TestCutWhileSending demotes a device while it sends without a pause, from another thread. A
// packet that was placed before the change must not have its flow remembered after it.
func TestCutWhileSending(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g, w := newGateway(t, true), worlds[0]
	must(t, g.table.Fill(leakRuleset(), leakElements()))
	f := flow{w.routed, w.other, 33000, 9}
	var paused, sending atomic.Bool
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if sending.Store(true); !paused.Load() {
				writeOnly(g, "lz0", f.udp())
				writeOnly(g, "out0", f.back().udp())
			}
			sending.Store(false)
		}
	}()
	times := 300
	if testing.Short() {
		times = 50
	}
	for i := range times {
		must(t, g.table.Apply(Change{AddRouted: []Routed{{w.routed, 1, After(time.Hour)}}}))
		for range i % 7 {
			must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.colleague}, AddQuarantined: []netip.Addr{w.neighbour}}))
			must(t, g.table.Apply(Change{AddRouted: []Routed{{w.colleague, 1, After(time.Hour)}}}))
		}
		must(t, g.table.Apply(Change{DelRouted: []netip.Addr{w.routed}}))
		paused.Store(true)
		for sending.Load() {
		}
		g.check(fmt.Sprint("demoted, round ", i), both(f, false)[:2]...)
		paused.Store(false)
	}
	close(stop)
	<-done
}

// writeOnly puts a packet into a port and reads nothing.
func writeOnly(g *gateway, in string, packet []byte) {
	_, _ = unix.Write(g.port[in], packet) // a full queue loses it
}
