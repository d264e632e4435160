package testnet

import (
	"bytes"
	"net/netip"
	"testing"
)

// An ear hears what the host takes in, in both families, and what no port is open for;
// neither what the host forwards nor what bears no message.
func TestHear(t *testing.T) {
	n := newStandard(t)
	ctx := soon(t)
	heard, err := n.Gateway.Hear(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mac, err := n.Gateway.LinkAddress(ctx, "outer")
	if err != nil || len(mac) != 6 {
		t.Fatalf("link address %v, %v", mac, err)
	}
	plain, err := n.Gateway.Capture(ctx, "outer")
	if err != nil {
		t.Fatal(err)
	}
	without, err := n.Gateway.Capture(ctx, "outer", 9)
	if err != nil {
		t.Fatal(err)
	}
	to4, to6, away := NewStream(), NewStream(), NewStream()
	send := func(to netip.Addr, stream uint32) {
		t.Helper()
		payload := []byte("nothing that is known by a number, but as long as that")
		if stream != 0 {
			payload = Message(stream, 7)
		}
		from := n.Plan.Dev1.V4
		if to.Is6() {
			from = n.Plan.Dev1.V6
		}
		if err := n.Dev1.InjectTo(ctx, "outer", mac, udpPacket(from, to, payload)); err != nil {
			t.Fatal(err)
		}
	}
	send(n.Plan.GatewayOuter.V4, 0)
	send(n.Plan.Intranet.V4, away)
	send(n.Plan.GatewayOuter.V4, to4)
	send(n.Plan.GatewayOuter.V6, to6)
	for _, stream := range []uint32{to4, to6} {
		r, err := heard.Await(ctx, func(r Record) bool { return r.Stream == stream })
		if err != nil || r.Device != "input" || r.Seq != 7 || r.Proto != protoUDP {
			t.Errorf("heard %+v, %v", r, err)
		}
	}
	if _, err := heard.Stat(ctx); err != nil {
		t.Fatal(err)
	}
	if all := heard.Records(nil); len(all) != 2 {
		t.Errorf("heard %d packets, want the two that were for the host and bear a message: %+v", len(all), all)
	}
	heard.Forget()
	if st, err := heard.Stop(ctx); err != nil || st.Written != 2 || len(heard.Records(nil)) != 0 {
		t.Errorf("after forgetting: %+v, %v, still %d", st, err, len(heard.Records(nil)))
	}
	for c, want := range map[*Capture]int{plain: 4, without: 3} {
		if _, err := c.Stat(ctx); err != nil {
			t.Fatal(err)
		}
		got := c.Records(func(r Record) bool { return !r.Out && r.Proto == protoUDP && r.To.Port() == 9 })
		if len(got) != want {
			t.Errorf("%d packets recorded, want %d: what bears a message is never left out", len(got), want)
		}
	}
}

// udpPacket goes from port 9 to port 9, without a checksum in IPv4.
func udpPacket(from, to netip.Addr, payload []byte) []byte {
	length := 8 + len(payload)
	udp := append([]byte{0, 9, 0, 9, byte(length >> 8), byte(length), 0, 0}, payload...)
	if from.Is4() {
		total := 20 + length
		h := []byte{0x45, 0, byte(total >> 8), byte(total), 0, 1, 0, 0, 64, protoUDP, 0, 0}
		h = bytes.Join([][]byte{h, from.AsSlice(), to.AsSlice()}, nil)
		sum := checksum(h)
		h[10], h[11] = byte(sum>>8), byte(sum)
		return append(h, udp...)
	}
	pseudo := bytes.Join([][]byte{from.AsSlice(), to.AsSlice(), {0, 0, byte(length >> 8), byte(length), 0, 0, 0, protoUDP}, udp}, nil)
	sum := checksum(pseudo)
	udp[6], udp[7] = byte(sum>>8), byte(sum)
	h := []byte{0x60, 0, 0, 0, byte(length >> 8), byte(length), protoUDP, 64}
	return bytes.Join([][]byte{h, from.AsSlice(), to.AsSlice(), udp}, nil)
}

// checksum is the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// A packet is known again behind a translation, and no other is taken for it.
func TestAlike(t *testing.T) {
	at := netip.MustParseAddrPort
	udp := Record{Proto: protoUDP, From: at("10.0.0.1:5"), To: at("192.0.2.1:6"), Stream: 3, Seq: 4, Sent: 5}
	tcp := Record{Proto: protoTCP, From: at("10.0.0.1:5"), To: at("192.0.2.1:6"), TCPSeq: 100, TCPLen: 50, TCPTime: 9}
	for name, c := range map[string]struct {
		sent   Record
		change func(*Record)
		want   bool
	}{
		"translated udp":   {udp, func(r *Record) { r.From = at("198.51.100.1:77") }, true},
		"next message":     {udp, func(r *Record) { r.Seq++ }, false},
		"other stream":     {udp, func(r *Record) { r.Stream++ }, false},
		"sent again":       {udp, func(r *Record) { r.Sent++ }, false},
		"other protocol":   {udp, func(r *Record) { r.Proto = protoICMP }, false},
		"translated tcp":   {tcp, func(r *Record) { r.From = at("198.51.100.1:77") }, true},
		"part of it":       {tcp, func(r *Record) { r.TCPSeq, r.TCPLen = 120, 10 }, true},
		"next segment":     {tcp, func(r *Record) { r.TCPSeq = 150 }, false},
		"repeated segment": {tcp, func(r *Record) { r.TCPTime = 10 }, false},
		"no time stamp":    {Record{Proto: protoTCP, TCPSeq: 1, TCPLen: 1}, func(*Record) {}, false},
		"no message":       {Record{Proto: protoUDP}, func(*Record) {}, false},
	} {
		further := c.sent
		c.change(&further)
		if got := c.sent.Alike(further); got != c.want {
			t.Errorf("%s: alike is %v", name, got)
		}
	}
}
