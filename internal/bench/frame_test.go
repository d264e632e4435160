package main

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

// The header of RFC 1071's checksum as it is commonly worked through: 4500 0073 0000 4000
// 4011 b861 c0a8 0001 c0a8 00c7.
func TestHeaderSum(t *testing.T) {
	b, _ := hex.DecodeString("45000073000040004011" + "0000" + "c0a80001c0a800c7")
	if got := headerSum(b); got != 0xb861 {
		t.Errorf("checksum %#x, want 0xb861", got)
	}
}

func TestFrame(t *testing.T) {
	f := newFrames(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2},
		[]flow{{netip.MustParseAddrPort("10.0.0.5:5000"), netip.MustParseAddrPort("192.0.2.20:9000")}})
	want, _ := hex.DecodeString("020000000002" + "020000000001" + "0800" +
		"4500002e00000000401100000a000005c0000214" + "1388" + "2328" + "001a" + "0000")
	got := bytes.Clone(f.bytes)
	sum := headerSum(got[14:34]) // of a header with its checksum in place
	if sum != 0 {
		t.Errorf("the header does not sum up: %#x", sum)
	}
	got[24], got[25] = 0, 0
	if !bytes.HasPrefix(got, want) || len(got) != frameSize {
		t.Errorf("frame\n%x\nwant\n%x", got, want)
	}
}

// Every flow is sent once before any is sent again.
func TestFramesAreAllFlows(t *testing.T) {
	var flows []flow
	for i := range 200 {
		flows = append(flows, flow{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1), netip.MustParseAddrPort("192.0.2.20:9000")})
	}
	f := newFrames(nobody, nobody, flows)
	seen := map[byte]bool{}
	for i := range flows {
		seen[f.bytes[i*frameSize+29]] = true
	}
	if len(seen) != len(flows) {
		t.Errorf("%d sources, want %d", len(seen), len(flows))
	}
}
