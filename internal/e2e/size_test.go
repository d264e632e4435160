package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lazaret/internal/agent"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

const (
	tunnelMTU = 1420
	narrowMTU = 1300 // of a link behind the gateway
)

// far is a service behind the gateway, as a device in one stage reaches it.
type far struct {
	stage     string
	host      *testnet.Host
	link      string // the gateway's towards it, and its own
	server    *testnet.Server
	addresses []netip.AddrPort
}

// sizes: in quarantine and out of it, packets as large as the tunnel takes pass whole; a
// TCP connection announces no more than that although the server would; and where a link
// behind the gateway is narrower, the device hears of it and goes on.
func (s *site) sizes(t *testing.T, d *roamer) {
	lab := theLab(t)
	places := []far{
		{"quarantined", lab.Management, "mgmt", managementServer(t), []netip.AddrPort{netip.AddrPortFrom(lab.Plan.Management.V4, servicePort), netip.AddrPortFrom(lab.Plan.Management.V6, servicePort)}},
		{"routed", lab.Intranet, "intra", s.server, []netip.AddrPort{s.x, s.x6}},
	}
	for _, f := range places {
		t.Run(f.stage, func(t *testing.T) {
			s.reported(t, d.id, map[string]string{"quarantined": "noncompliant", "routed": "compliant"}[f.stage])
			d.ready(t, f.stage, map[string]string{"quarantined": "quarantine", "routed": "full"}[f.stage])
			s.segments(t, d, f)
			s.whole(t, d, f)
			s.tooBig(t, d, f)
		})
	}
}

// whole: packets of the tunnel's size pass, and not in pieces.
func (s *site) whole(t *testing.T, d *roamer, f far) {
	wire, err := f.host.Capture(soon(t), f.link)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range f.addresses {
		header := map[bool]int{true: 20, false: 40}[to.Addr().Is4()] + 8
		r, err := d.host.Probe(soon(t), testnet.ProbeSpec{Proto: testnet.ICMP, To: netip.AddrPortFrom(to.Addr(), 0), Size: tunnelMTU - header})
		if err != nil || !r.Passed() {
			t.Errorf("a packet of %d bytes to %s: %s %s %v", tunnelMTU, to.Addr(), r.Outcome, r.Detail, err)
			continue
		}
		rec, err := wire.Await(soon(t), func(p testnet.Record) bool { return r.Is(p) && !p.Out })
		if err != nil || rec.Len != tunnelMTU || rec.Fragment {
			t.Errorf("to %s arrived %d bytes, a fragment: %v, %v", to.Addr(), rec.Len, rec.Fragment, err)
		}
	}
	if _, err := wire.Stop(soon(t)); err != nil {
		t.Error(err)
	}
}

// segments: of one and the same answer to a SYN, the server announces what its link takes
// and the device reads what the tunnel takes.
func (s *site) segments(t *testing.T, d *roamer, f far) {
	for _, to := range f.addresses {
		headers := map[bool]int{true: 40, false: 60}[to.Addr().Is4()]
		sent := s.announced(t, f.host, f.link, to)
		heard := s.announced(t, d.host, agent.DefaultInterface, to)
		r, err := d.host.Probe(soon(t), testnet.ProbeSpec{Proto: testnet.TCP, To: to})
		if err != nil || !r.Passed() {
			t.Fatalf("%s is not reached: %s %v", to, r.Outcome, err)
		}
		for who, see := range map[string]struct {
			by  *testnet.Process
			mss int
		}{"sent": {sent, 1500 - headers}, "heard": {heard, tunnelMTU - headers}} {
			line, err := see.by.AwaitOutput(soon(t), "mss ")
			if want := fmt.Sprintf("mss %d,", see.mss); err != nil || !strings.Contains(line, want) {
				t.Errorf("%s by %s: %q, %v; want %s", who, to, line, err, want)
			}
			if err := see.by.Wait(soon(t)); err != nil {
				t.Error(err)
			}
		}
	}
}

// announced starts tcpdump for the first answer to a SYN that comes from there.
func (s *site) announced(t *testing.T, h *testnet.Host, link string, from netip.AddrPort) *testnet.Process {
	t.Helper()
	flags := "tcp[tcpflags] & (tcp-syn|tcp-ack) == (tcp-syn|tcp-ack)"
	if from.Addr().Is6() {
		flags = "ip6[53] & 18 == 18"
	}
	p, err := h.Command(soon(t), testneed.Program(t, "tcpdump"), "-n", "-l", "-c", "1", "-i", link,
		fmt.Sprintf("src host %s and tcp src port %d and %s", from.Addr(), from.Port(), flags))
	if err == nil {
		_, err = p.AwaitOutput(soon(t), "listening on")
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tooBig makes the link behind the gateway narrower under a connection that is open, since
// a new one would be told at once how much is too much. The device hears of it by an ICMP
// error (RFC 792, RFC 4443), which comes through the tunnel, and what it sends arrives.
func (s *site) tooBig(t *testing.T, d *roamer, f far) {
	width := func(mtu int) {
		if err := s.host.Configure(soon(t), testnet.NetConfig{Links: []testnet.LinkConfig{{Name: f.link, MTU: mtu}}}); err != nil {
			t.Fatal(err)
		}
	}
	defer width(1500)
	ear, err := d.host.Capture(soon(t), agent.DefaultInterface)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range f.addresses {
		width(1500)
		x, err := d.host.Stream(soon(t), f.server, testnet.StreamSpec{Proto: testnet.TCP, Direction: testnet.Upload, To: to, Every: 10 * time.Millisecond, Size: 4000})
		if err != nil {
			t.Fatal(err)
		}
		width(narrowMTU)
		if _, err := ear.Await(soon(t), func(p testnet.Record) bool {
			too := p.Proto == 1 && p.ICMPType == 3 && p.ICMPCode == 4
			if to.Addr().Is6() {
				too = p.Proto == 58 && p.ICMPType == 2
			}
			return too && !p.Out
		}); err != nil {
			t.Errorf("%s: no word that packets are too big: %v", to, err)
		}
		before, err := x.Server(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		until(t, "messages of 4,000 bytes arrive at "+to.String(), func() bool {
			st, err := x.Server(soon(t))
			return err == nil && st.Received > before.Received+10
		})
		if err := x.Close(soon(t)); err != nil {
			t.Error(err)
		}
	}
	if _, err := ear.Stop(soon(t)); err != nil {
		t.Error(err)
	}
}
