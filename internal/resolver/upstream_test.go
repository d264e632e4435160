package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"

	"lazaret/quarantine"
)

// upstream is a server in this process, reached without a network, so that time can be
// made to pass.
type upstream struct {
	mu     sync.Mutex
	answer func(network string, q *dns.Msg) []*dns.Msg // what is sent, one datagram each; none: silence
	asked  []string                                    // "udp mdm.example.com. A", in lower case
}

func (u *upstream) set(answer func(network string, q *dns.Msg) []*dns.Msg) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// questions returns what was asked since it was last called.
func (u *upstream) questions() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := u.asked
	u.asked = nil
	return list
}

// about are the questions for one name.
func about(name string, questions []string) []string {
	return slices.DeleteFunc(questions, func(q string) bool { return !strings.Contains(q, " "+name+". ") })
}

func (u *upstream) dial(_ context.Context, network, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go u.serve(network, theirs) // ends when the other end is closed
	return ours, nil
}

func (u *upstream) serve(network string, c net.Conn) {
	defer c.Close()
	buf := make([]byte, 2048)
	if network == "tcp" {
		if _, err := io.ReadFull(c, buf[:2]); err != nil {
			return
		}
		buf = buf[:binary.BigEndian.Uint16(buf)]
	}
	n, err := c.Read(buf)
	q := new(dns.Msg)
	if err != nil || q.Unpack(buf[:n]) != nil {
		return
	}
	u.mu.Lock()
	u.asked = append(u.asked, network+" "+strings.ToLower(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype])
	answer := u.answer
	u.mu.Unlock()
	for _, m := range answer(network, q) {
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		if network == "tcp" {
			b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
	_, _ = c.Read(buf) // until the other end is closed
}

// reply answers q with records in the form of a zone file; only those of the type asked for
// and aliases are taken.
func reply(q *dns.Msg, records ...string) []*dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if t := rr.Header().Rrtype; t == q.Question[0].Qtype || t == dns.TypeCNAME {
			m.Answer = append(m.Answer, rr)
		}
	}
	return []*dns.Msg{m}
}

func records(all ...string) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, q *dns.Msg) []*dns.Msg { return reply(q, all...) }
}

func code(rcode int) func(string, *dns.Msg) []*dns.Msg {
	return func(_ string, q *dns.Msg) []*dns.Msg {
		m := new(dns.Msg)
		m.SetRcode(q, rcode)
		return []*dns.Msg{m}
	}
}

func silence(string, *dns.Msg) []*dns.Msg { return nil }

// gate takes names in, and opens what the pools let it.
type gate struct {
	mu      sync.Mutex
	pools   map[string]quarantine.Pool
	changed chan struct{}
	names   quarantine.Names
	placed  map[netip.Addr]quarantine.Placement
	shut    bool // nothing is enforced
}

const mdm = "mdm.example.com"

func newGate() *gate {
	web := []quarantine.NamedReach{{Name: mdm, Protocol: "tcp", From: 443, Up: 443}}
	return &gate{changed: make(chan struct{}), pools: map[string]quarantine.Pool{
		"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.66.0.0/16"), Named: web},
		"full":       {Name: "full", Mark: 1, IPv4: netip.MustParsePrefix("10.67.0.0/16"), Forward: true},
		"narrow":     {Name: "narrow", Mark: 2, IPv4: netip.MustParsePrefix("10.68.0.0/16"), Named: []quarantine.NamedReach{{Name: "app.example.com", Protocol: "tcp", From: 443, Up: 443}}},
	}, placed: map[netip.Addr]quarantine.Placement{
		netip.MustParseAddr("10.66.0.2"): {Stage: quarantine.Quarantined, Pool: "quarantine"},
		netip.MustParseAddr("10.66.0.3"): {Stage: quarantine.Routed, Pool: "full"},
		netip.MustParseAddr("10.66.0.4"): {Stage: quarantine.Routed, Pool: "narrow"},
	}}
}

func (g *gate) Pools() (map[string]quarantine.Pool, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pools, g.changed
}

func (g *gate) setPools(pools map[string]quarantine.Pool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pools = pools
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *gate) SetNames(n quarantine.Names) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names = n
}

func (g *gate) Standing(a netip.Addr) (quarantine.ID, quarantine.Placement, error) {
	p, ok := g.placed[a]
	if !ok {
		return "", quarantine.Placement{}, errors.New("nobody")
	}
	return quarantine.ID(a.String()), p, nil
}

func (g *gate) Opens(pool string, a netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.pools[pool].Named {
		pinned, _ := g.pools[pool].Pinned(n.Name, g.names, quarantine.InsideOf(g.pools))
		if slices.Contains(pinned, a) {
			return !g.shut
		}
	}
	return false
}

// open are the addresses that a pool opens now, as text.
func (g *gate) open(pool string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []string
	for _, n := range g.pools[pool].Named {
		pinned, _ := g.pools[pool].Pinned(n.Name, g.names, quarantine.InsideOf(g.pools))
		for _, a := range pinned {
			all = append(all, a.String())
		}
	}
	return strings.Join(all, " ")
}

// lab is a running resolver inside a synctest bubble.
type lab struct {
	*Resolver
	t    *testing.T
	up   *upstream
	gate *gate
	log  *bytes.Buffer
	stop func()
}

func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	l := &lab{t: t, up: &upstream{answer: silence}, gate: newGate(), log: &bytes.Buffer{}}
	c := Config{Gate: l.gate, Dial: l.up.dial, Servers: Servers([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, ""),
		Log: slog.New(slog.NewTextHandler(l.log, nil))}
	if change != nil {
		change(&c)
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l.Resolver = r
	return l
}

func (l *lab) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Run(ctx); err != nil {
			l.t.Errorf("running the resolver: %v", err)
		}
	}()
	l.stop = func() { cancel(); <-done }
	synctest.Wait()
}

func (l *lab) want(when, open string) {
	l.t.Helper()
	synctest.Wait()
	if got := l.gate.open("quarantine"); got != open {
		l.t.Errorf("%s: open is %q, want %q", when, got, open)
	}
}

// bubble runs a test with a resolver that asks at once.
func bubble(t *testing.T, first func(string, *dns.Msg) []*dns.Msg, test func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		l.up.set(first)
		l.run()
		defer func() { l.stop() }()
		test(l)
	})
}
