package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

var (
	quarantined = netip.MustParseAddr("10.66.0.2")
	forwarded   = netip.MustParseAddr("10.66.0.3") // routed, in a pool that forwards
	narrow      = netip.MustParseAddr("10.66.0.4") // routed, in a pool that does not
	nobody      = netip.MustParseAddr("10.66.0.9")
	tunnelAt    = []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")}
)

func newService(t testing.TB, l *lab) *Service {
	t.Helper()
	s, err := NewService(ServiceConfig{Directory: l.gate, Resolver: l.Resolver, Portal: "Lazaret.Internal.", At: tunnelAt})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func query(name string, qtype uint16, change ...func(*dns.Msg)) []byte {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	for _, f := range change {
		f(q)
	}
	b, err := q.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// said is an answer in short: its code, its records, and what EDNS says.
func said(t *testing.T, message, answer []byte) string {
	t.Helper()
	if answer == nil {
		return "silence"
	}
	m := new(dns.Msg)
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("an answer that cannot be read: %v", err)
	}
	if m.Id != uint16(message[0])<<8|uint16(message[1]) || !m.Response || m.Authoritative {
		t.Errorf("an answer with the header %+v", m.MsgHdr)
	}
	text := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		text += " " + strings.Join(strings.Fields(rr.String())[3:], " ")
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			text += " (" + o.String() + ")"
		}
	}
	return text
}

// TestService is what devices are told: names of their pool, as far as they are open, and
// the gateway's own. Nothing that a device in quarantine asks leaves the gateway.
func TestService(t *testing.T) {
	edns := func(q *dns.Msg) { q.SetEdns0(4096, false) }
	zone := func(_ string, q *dns.Msg) []*dns.Msg {
		m := reply(q, a(300, "9.9.9.9"), a(300, "10.10.0.10"), aaaa(300, "2a01::9"), "app.example.com. 60 IN A 9.9.9.10", "www.example.org. 60 IN A 9.9.9.11")
		m[0].Answer = slices.DeleteFunc(m[0].Answer, func(rr dns.RR) bool { return !strings.EqualFold(rr.Header().Name, q.Question[0].Name) })
		return m
	}
	bubble(t, zone, func(l *lab) {
		s := newService(l.t, l)
		l.up.questions()
		for _, c := range []struct {
			from     netip.Addr
			name     string
			qtype    uint16
			change   func(*dns.Msg)
			want     string
			upstream int
		}{
			{quarantined, mdm + ".", dns.TypeA, nil, "NOERROR A 9.9.9.9", 0},
			{quarantined, "MDM.Example.com.", dns.TypeAAAA, nil, "NOERROR AAAA 2a01::9", 0},
			{quarantined, mdm + ".", dns.TypeHTTPS, nil, "NOERROR", 0},
			{quarantined, mdm + ".", dns.TypeTXT, nil, "NOERROR", 0},
			{quarantined, mdm + ".", dns.TypeANY, nil, "REFUSED", 0},
			{quarantined, mdm + ".", dns.TypeAXFR, nil, "REFUSED", 0},
			{quarantined, mdm + ".", dns.TypeNone, nil, "REFUSED", 0},
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, "REFUSED", 0},
			{quarantined, "secret." + mdm + ".", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, "example.com.", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, "app.example.com.", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, "x" + mdm + ".", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, mdm + ".evil.example.", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, "www.example.org.", dns.TypeTXT, nil, "REFUSED", 0},
			{quarantined, "1.0.66.10.in-addr.arpa.", dns.TypePTR, nil, "REFUSED", 0},
			{quarantined, ".", dns.TypeNS, nil, "REFUSED", 0},
			{quarantined, "www.example.org.", dns.TypeA, edns, "REFUSED (18 (Prohibited): (this device is in quarantine: see http://lazaret.internal/))", 0},
			{quarantined, "LAZARET.internal.", dns.TypeA, nil, "NOERROR A 10.66.0.1", 0},
			{quarantined, "lazaret.internal.", dns.TypeAAAA, edns, "NOERROR AAAA fd66::1", 0},
			{quarantined, "x.lazaret.internal.", dns.TypeA, nil, "REFUSED", 0},
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, "FORMERR", 0}, // miekg reads updates' sections otherwise; either way it is refused
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Opcode = dns.OpcodeStatus }, "NOTIMP", 0},
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) }, "BADSIG", 0}, // 16 is BADVERS here; the library knows it by TSIG's name
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, "FORMERR", 0},
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Question = nil }, "FORMERR", 0},
			{quarantined, mdm + ".", dns.TypeA, func(q *dns.Msg) { q.Response = true }, "silence", 0},
			{nobody, mdm + ".", dns.TypeA, nil, "REFUSED", 0},
			{nobody, "lazaret.internal.", dns.TypeA, nil, "REFUSED", 0},
			{netip.MustParseAddr("::ffff:10.66.0.2"), mdm + ".", dns.TypeA, nil, "NOERROR A 9.9.9.9", 0},
			{narrow, "app.example.com.", dns.TypeA, nil, "NOERROR A 9.9.9.10", 0},
			{narrow, mdm + ".", dns.TypeA, nil, "NOERROR A 9.9.9.9", 0}, // the management server stays reachable
			{narrow, "www.example.org.", dns.TypeA, nil, "REFUSED", 0},
			{forwarded, mdm + ".", dns.TypeA, nil, "NOERROR A 9.9.9.9", 0},
			{forwarded, "Www.Example.org.", dns.TypeA, nil, "NOERROR A 9.9.9.11", 1},
			{forwarded, "www.example.org.", dns.TypeANY, nil, "REFUSED", 0},
		} {
			var change []func(*dns.Msg)
			if c.change != nil {
				change = append(change, c.change)
			}
			q := query(c.name, c.qtype, change...)
			for _, udp := range []bool{true, false} {
				got := said(l.t, q, s.Answer(context.Background(), c.from, q, udp))
				if c.want == "FORMERR" && got == "NOTIMP" {
					got = c.want
				}
				if got != c.want {
					l.t.Errorf("%s asks %s %s: %s, want %s", c.from, c.name, dns.TypeToString[c.qtype], got, c.want)
				}
				if asked := l.up.questions(); len(asked) != c.upstream {
					l.t.Errorf("%s asks %s %s: upstream was asked %v", c.from, c.name, dns.TypeToString[c.qtype], asked)
				}
			}
		}
	})
}

// TestServiceTellsWhatIsOpen: an address is told once the firewall lets it through, while it
// stands in the latest answer, and with no more time than it has left.
func TestServiceTellsWhatIsOpen(t *testing.T) {
	bubble(t, silence, func(l *lab) {
		s := newService(l.t, l)
		q := query(mdm+".", dns.TypeA)
		want := func(when, want string, ttl uint32) {
			l.t.Helper()
			synctest.Wait()
			out := s.Answer(context.Background(), quarantined, q, true)
			if got := said(l.t, q, out); got != want {
				l.t.Errorf("%s: %s, want %s", when, got, want)
			}
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil || len(m.Answer) > 0 && m.Answer[0].Header().Ttl != ttl {
				l.t.Errorf("%s: TTL %d, want %d", when, m.Answer[0].Header().Ttl, ttl)
			}
		}
		want("not resolved yet", "SERVFAIL", 0)
		l.gate.shut = true
		l.up.set(records(a(100, "9.9.9.9")))
		time.Sleep(2 * time.Minute)
		want("resolved, not enforced yet", "SERVFAIL", 0)
		l.gate.shut = false
		time.Sleep(40 * time.Second)
		k, _ := l.Look(mdm)
		want("enforced", "NOERROR A 9.9.9.9", uint32(time.Until(k.Pins[0].Good)/time.Second))
		l.up.set(silence)
		time.Sleep(time.Hour)
		want("in an outage", "NOERROR A 9.9.9.9", 30)
		l.up.set(records(a(86400, "9.9.9.8")))
		time.Sleep(2 * time.Minute)
		want("rotated: the old one is open, and not told", "NOERROR A 9.9.9.8", 300)
		l.up.set(records(a(60, "10.10.0.10")))
		time.Sleep(24 * time.Hour)
		want("rebound: the old one is open for the grace, and better than none", "NOERROR A 9.9.9.8", 30)
		time.Sleep(time.Hour)
		want("rebound, after the grace", "SERVFAIL", 0)
		l.up.set(code(dns.RcodeNameError))
		time.Sleep(2 * time.Minute)
		want("gone", "NOERROR", 0)
	})
}

// TestAnswersAreSmall: what comes back is no weapon, and what is too large says so.
func TestAnswersAreSmall(t *testing.T) {
	var many []string
	for i := range 40 {
		many = append(many, a(60, fmt.Sprintf("9.9.9.%d", i)))
	}
	many = append(many, "big.example. 60 IN TXT "+strings.Repeat(`"`+strings.Repeat("x", 250)+`" `, 8))
	bubble(t, func(network string, q *dns.Msg) []*dns.Msg {
		m := reply(q, many...)
		if len(m[0].Answer) > 0 && network == "udp" {
			m[0].Answer, m[0].Truncated = nil, true
		}
		return m
	}, func(l *lab) {
		s := newService(l.t, l)
		q := query(mdm+".", dns.TypeA)
		out := s.Answer(context.Background(), quarantined, q, true)
		if got := said(l.t, q, out); strings.Count(got, " A ") != maxAnswers || len(out) > dns.MinMsgSize {
			l.t.Errorf("%d bytes for %d: %s", len(out), len(q), got)
		}
		for _, c := range []struct {
			udp  bool
			edns uint16
			size int
			cut  bool
		}{{true, 0, 512, true}, {true, 100, 512, true}, {true, 65535, maxUDP, true}, {false, 0, 65535, false}} {
			q := query("big.example.", dns.TypeTXT, func(m *dns.Msg) {
				if c.edns > 0 {
					m.SetEdns0(c.edns, false)
				}
			})
			out := s.Answer(context.Background(), forwarded, q, c.udp)
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil || len(out) > c.size || m.Truncated != c.cut || !c.cut && len(m.Answer) != 1 {
				l.t.Errorf("%+v: %d bytes, cut off: %v, %v", c, len(out), m.Truncated, err)
			}
		}
	})
}

// TestPace: a source that asks too much is not heard; others are.
func TestPace(t *testing.T) {
	p, now := newPace(), time.Now()
	count := func(a netip.Addr, n int) (heard int) {
		for range n {
			if p.allow(a, now) {
				heard++
			}
		}
		return heard
	}
	if got := count(quarantined, 1000); got != burst {
		t.Errorf("of a thousand at once %d are heard", got)
	}
	if got := count(narrow, 1); got != 1 {
		t.Error("another is not heard")
	}
	now = now.Add(time.Second)
	if got := count(quarantined, 1000); got != perSecond {
		t.Errorf("a second later %d are heard", got)
	}
	now = now.Add(-time.Hour) // a clock set back gains nothing
	if got := count(quarantined, 10); got != 0 {
		t.Errorf("%d are heard after the clock was set back", got)
	}
	a := netip.MustParseAddr("10.0.0.0")
	for range maxPaced {
		p.allow(a, now)
		a = a.Next()
	}
	if len(p.known) > maxPaced || p.allow(netip.MustParseAddr("fd00::1"), now) {
		t.Errorf("%d are remembered", len(p.known))
	}
	now = now.Add(time.Hour + time.Minute)
	if !p.allow(netip.MustParseAddr("fd00::1"), now) || len(p.known) > 2 {
		t.Errorf("%d are remembered for ever", len(p.known))
	}
}

// TestSockets asks through real sockets on the loopback, by UDP and TCP, and finds sessions
// bounded.
func TestSockets(t *testing.T) {
	l := newLab(t, nil)
	l.gate.placed[netip.MustParseAddr("127.0.0.1")] = l.gate.placed[quarantined]
	s := newService(t, l)
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, []*net.UDPConn{u}, []net.Listener{tcp}) }()
	for network, at := range map[string]string{"udp": u.LocalAddr().String(), "tcp": tcp.Addr().String()} {
		q := new(dns.Msg)
		q.SetQuestion("lazaret.internal.", dns.TypeA)
		c := &dns.Client{Net: network, Timeout: 10 * time.Second}
		m, _, err := c.Exchange(q, at)
		if err != nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			t.Errorf("by %s: %v, %v", network, m, err)
		}
	}
	var open []net.Conn
	for range sessionsEach + 1 { // accepted in this order
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}} // not the client above, whose session may last a moment
		c, err := d.Dial("tcp4", tcp.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	ended := make(chan int, len(open))
	for i, c := range open {
		go func() { _, _ = c.Read(make([]byte, 1)); ended <- i }()
	}
	if i := <-ended; i != sessionsEach { // the last was one too many; the others live a little longer
		t.Errorf("session %d ended first", i)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	if _, err := net.Dial("tcp4", tcp.Addr().String()); err == nil {
		t.Error("still listening")
	}
}

// FuzzAnswer: whatever a device sends, it costs no more than an answer of bounded size, and
// nothing is asked upstream on behalf of one in quarantine.
func FuzzAnswer(f *testing.F) {
	for _, seed := range [][]byte{
		query(mdm+".", dns.TypeA), query("lazaret.internal.", dns.TypeAAAA, func(q *dns.Msg) { q.SetEdns0(4096, true) }),
		query("data.leaks.by.name.example.", dns.TypeTXT), query(".", dns.TypeANY), query(mdm+".", dns.TypeA)[:20], {}, make([]byte, 12),
		append(query(mdm+".", dns.TypeA)[:12], 0xc0, 0x0c, 0, 1, 0, 1), // a name that points at itself
	} {
		f.Add(seed)
	}
	l := &lab{up: &upstream{answer: silence}, gate: newGate()}
	r, err := New(Config{Gate: l.gate, Dial: l.up.dial, Servers: Servers([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, "")})
	if err != nil {
		f.Fatal(err)
	}
	l.Resolver = r
	s := newService(f, l)
	f.Fuzz(func(t *testing.T, message []byte) {
		for _, udp := range []bool{true, false} {
			out := s.Answer(t.Context(), quarantined, message, udp)
			if out == nil {
				continue
			}
			m := new(dns.Msg)
			if err := m.Unpack(out); err != nil || !m.Response || len(out) > maxUDP || out[0] != message[0] || out[1] != message[1] {
				t.Fatalf("answered %x with %x: %v", message, out, err)
			}
		}
		if asked := l.up.questions(); len(asked) > 0 {
			t.Fatalf("%x made the gateway ask %v", message, asked)
		}
	})
}
