package testnet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// Packets written out by hand from RFC 791, 8200, 768, 9293, 792 and 4443.
const (
	ip4UDP  = "45000020 00010000 40110000 0a000001 c0000207" + "1f90 0035 000c 0000 61626364"
	ip4Frag = "45000020 00010003 40110000 0a000001 c0000207" + "1f90 0035 000c 0000 61626364"
	ip4More = "45000020 00012000 40110000 0a000001 c0000207" + "1f90 0035 000c 0000 61626364"
	ip4Opts = "46000024 00010000 40110000 0a000001 c0000207 01010100" + "1f90 0035 000c 0000 61626364"
	ip4TCP  = "4500003a 00004000 40060000 0a000001 c0000207" + "d431 01bb 01020304 05060708 8018 0200 0000 0000 0101080a 0a0b0c0d 01020304" + "616263646566"
	ip4ICMP = "4500001c 00010000 40010000 0a000001 c0000207" + "0301 0000 00000000"
	ip6Head = "60000000 %s 40 20010db8000000000000000000000001 20010db8000000000000000000000002"
	udp     = "1f90 0035 000c 0000 61626364"
)

func raw(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ip6(length int, next byte, rest string) string {
	return fmt.Sprintf(ip6Head, fmt.Sprintf("%04x %02x", length, next)) + rest
}

// firstBytes returns the first n bytes of a packet.
func firstBytes(s string, n int) string { return strings.ReplaceAll(s, " ", "")[:2*n] }

var (
	ip6UDP      = ip6(12, 17, udp)
	ip6Options  = ip6(28, 0, "3c00 010400000000"+"1100 010400000000"+udp)
	ip6Fragment = ip6(20, 44, "1100 0009 00000001"+udp) // offset 8, more to come
	ip6First    = ip6(20, 44, "1100 0001 00000001"+udp) // offset 0, more to come
	ip6Error    = ip6(8, 58, "0104 0000 00000000")
)

func TestParsePacket(t *testing.T) {
	ap := netip.MustParseAddrPort
	from4, to4 := ap("10.0.0.1:8080"), ap("192.0.2.7:53")
	from6, to6 := ap("[2001:db8::1]:8080"), ap("[2001:db8::2]:53")
	portless := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
	for name, c := range map[string]struct {
		in   string
		want Record
	}{
		"udp":               {ip4UDP, Record{Proto: 17, From: from4, To: to4}},
		"udp with options":  {ip4Opts, Record{Proto: 17, From: from4, To: to4}},
		"first fragment":    {ip4More, Record{Proto: 17, From: from4, To: to4, Fragment: true}},
		"later fragment":    {ip4Frag, Record{Proto: 17, From: portless(from4), To: portless(to4), Fragment: true}},
		"tcp":               {ip4TCP, Record{Proto: 6, From: ap("10.0.0.1:54321"), To: ap("192.0.2.7:443"), TCPSeq: 0x01020304, TCPAck: 0x05060708, TCPFlags: 0x18, TCPLen: 6, TCPTime: 0x0a0b0c0d}},
		"icmp":              {ip4ICMP, Record{Proto: 1, From: portless(from4), To: portless(to4), ICMPType: 3, ICMPCode: 1}},
		"udp over ipv6":     {ip6UDP, Record{Proto: 17, From: from6, To: to6}},
		"extension headers": {ip6Options, Record{Proto: 17, From: from6, To: to6}},
		"ipv6 first":        {ip6First, Record{Proto: 17, From: from6, To: to6, Fragment: true}},
		"ipv6 later":        {ip6Fragment, Record{Proto: 17, From: portless(from6), To: portless(to6), Fragment: true}},
		"icmpv6":            {ip6Error, Record{Proto: 58, From: portless(from6), To: portless(to6), ICMPType: 1, ICMPCode: 4}},
		"short ipv4":        {firstBytes(ip4UDP, 15), Record{Bad: "short IPv4 header"}},
		"short udp":         {firstBytes(ip4UDP, 27), Record{Proto: 17, From: portless(from4), To: portless(to4), Bad: "short UDP header"}},
		"lying length":      {"45000010" + ip4UDP[8:], Record{Proto: 17, From: portless(from4), To: portless(to4), Bad: "total length shorter than the header"}},
		"lying header":      {"4f000020" + ip4UDP[8:], Record{Proto: 17, From: portless(from4), To: portless(to4), Bad: "short IPv4 header"}},
		"lying extension":   {ip6(12, 0, "11ff 010400000000"), Record{Proto: 0, From: portless(from6), To: portless(to6), Bad: "short IPv6 extension header"}},
		"endless":           {ip6(80, 0, strings.Repeat("0000010400000000", 10)), Record{Proto: 0, From: portless(from6), To: portless(to6), Bad: "too many IPv6 extension headers"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parsePacket(raw(t, c.in))
			if d := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.AddrPort{})); !ok || d != "" {
				t.Errorf("%v %s", ok, d)
			}
		})
	}
	for name, in := range map[string]string{"empty": "", "arp": "0001 0800 0604 0001"} {
		if r, ok := parsePacket(raw(t, in)); ok {
			t.Errorf("%s is an IP packet: %+v", name, r)
		}
	}
}

func TestStampedMessageInPacket(t *testing.T) {
	m := stamped{kind: kindEcho, stream: 0xdeadbeef, seq: 1 << 40, sent: 1234567890123, size: 100, every: 5}
	if got, ok := getStamped(m.bytes()); !ok || got != m {
		t.Errorf("got %+v, want %+v", got, m)
	}
	head := raw(t, ip4UDP)[:28]
	head[2], head[3] = 0, 0 // to be cut by the kernel
	for name, c := range map[string]struct {
		payload []byte
		want    uint32
	}{
		"at the start":         {m.bytes(), m.stream},
		"within":               {append([]byte("the rest of another"), m.bytes()...), m.stream},
		"after a false start":  {append(append([]byte{}, stampedMagic...), m.bytes()...), m.stream},
		"cut off":              {m.bytes()[:stampedLen-1], 0},
		"other bytes":          {make([]byte, 100), 0},
		"no stream":            {stamped{kind: kindEcho, size: 100}.bytes(), 0},
		"kind that is none":    {stamped{kind: kindEcho + 1, stream: 1, size: 100}.bytes(), 0},
		"shorter than it says": {m.bytes()[:60], m.stream}, // captures hold only beginnings
	} {
		r, ok := parsePacket(append(append([]byte{}, head...), c.payload...))
		if !ok || r.Stream != c.want {
			t.Errorf("%s: stream %#x, want %#x", name, r.Stream, c.want)
		}
	}
}

func TestArrived(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	seg := func(seq uint32, length int, time uint32) Record {
		return Record{Proto: protoTCP, From: a, To: b, TCPSeq: seq, TCPLen: length, TCPTime: time}
	}
	msg := func(seq uint64, sent Stamp) Record {
		return Record{Proto: protoUDP, From: a, To: b, Stream: 5, Seq: seq, Sent: sent}
	}
	back := msg(1, 1)
	back.From, back.To = b, a
	for name, c := range map[string]struct {
		sent, further Record
		want          bool
	}{
		"same message":           {msg(1, 1), msg(1, 1), true},
		"other message":          {msg(1, 1), msg(2, 1), false},
		"sent again":             {msg(1, 2), msg(1, 1), false},
		"other direction":        {msg(1, 1), back, false},
		"same segment":           {seg(100, 10, 7), seg(100, 10, 7), true},
		"retransmitted later":    {seg(100, 10, 8), seg(100, 10, 7), false},
		"cut from a longer one":  {seg(100, 1000, 7), seg(500, 100, 7), true},
		"merged into a longer":   {seg(500, 100, 7), seg(100, 1000, 7), true},
		"just before":            {seg(100, 10, 7), seg(110, 10, 7), false},
		"just after":             {seg(110, 10, 7), seg(100, 10, 7), false},
		"around the wrap":        {seg(0xfffffff0, 100, 7), seg(4, 10, 7), true},
		"half the range away":    {seg(0, 10, 7), seg(1<<31, 10, 7), false},
		"acknowledgement":        {seg(100, 0, 7), seg(100, 0, 7), true},
		"acknowledgement or not": {seg(100, 0, 7), seg(100, 10, 7), false},
	} {
		if got := len(Arrived([]Record{c.sent}, []Record{c.further})) == 1; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	for _, s := range []string{ip4UDP, ip4Frag, ip4More, ip4Opts, ip4TCP, ip4ICMP, ip6UDP, ip6Options, ip6Fragment, ip6First, ip6Error} {
		f.Add(raw(f, s))
	}
	m := stamped{kind: kindEcho, stream: 1, seq: 2, sent: 3, size: 64}
	f.Add(append(raw(f, ip4UDP)[:28], m.bytes()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ok := parsePacket(b)
		if !ok {
			return
		}
		if r.From.Port() != 0 && r.Proto != protoTCP && r.Proto != protoUDP {
			t.Errorf("ports of protocol %d: %+v", r.Proto, r)
		}
		if r.TCPLen < 0 || r.Bad != "" && r.Stream != 0 {
			t.Errorf("%+v", r)
		}
		if r.From.Addr().IsValid() && r.From.Addr().Is4() != (b[0]>>4 == 4) {
			t.Errorf("addresses of the wrong family: %+v", r)
		}
		// A capture holds only the beginning of a long packet, which must never tell
		// another story about who sent it.
		if short, ok := parsePacket(b[:len(b)/2]); ok && short.From.Addr().IsValid() && short.From.Addr() != r.From.Addr() {
			t.Errorf("half of it is from %s, all of it from %s", short.From, r.From)
		}
	})
}

// overflow fills a ring that nobody reads, and reports what the kernel counted
// and what is in the ring.
func overflow() error {
	c, err := openRing("lo")
	if err != nil {
		return err
	}
	defer c.release()
	conn, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		return err
	}
	defer conn.Close()
	frames := len(c.ring) / frameSize
	for range frames {
		_, _ = conn.Write(make([]byte, 10)) // each is seen leaving and arriving; nobody listens
	}
	c.count()
	kept := 0
	for i := range frames {
		if c.ring[i*frameSize]&1 != 0 {
			kept++
		}
	}
	if c.stat.Seen < uint64(2*frames) {
		return errors.New("not all packets were counted")
	}
	return Report([]uint64{c.stat.Seen, c.stat.Dropped, uint64(kept), uint64(frames)})
}

// What does not fit into the ring is counted, so that the absence of a record is
// never taken for the absence of a packet.
func TestCaptureCountsDrops(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	p, err := h.Run(soon(t), "overflow")
	if err != nil {
		t.Fatal(err)
	}
	var got []uint64
	if err := p.Next(soon(t), &got); err != nil {
		t.Fatal(err)
	}
	seen, dropped, kept, frames := got[0], got[1], got[2], got[3]
	if kept != frames || dropped == 0 || seen != kept+dropped {
		t.Errorf("%d seen, %d dropped, %d kept in %d frames", seen, dropped, kept, frames)
	}
}

func TestCaptureRefusesNonsense(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	if _, err := h.Capture(soon(t), "nothere"); err == nil {
		t.Error("captured an interface that is not there")
	}
	c, err := h.Capture(soon(t), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stop(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stop(soon(t)); err == nil {
		t.Error("stopped twice")
	}
	if _, err := c.Await(soon(t), func(Record) bool { return true }); !errors.Is(err, errGone) {
		t.Errorf("awaiting a packet of a capture that has ended: %v", err)
	}
}
