package imagetest

import (
	"encoding/binary"
	"os"
	"testing"
)

// frames reads what passed a network card (the pcap file format of libpcap, pcap-savefile(5)).
func frames(t testing.TB, path string) [][]byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) < 24 || binary.LittleEndian.Uint32(text) != 0xa1b2c3d4 {
		t.Fatalf("%s is no capture", path)
	}
	var all [][]byte
	for at := 24; at+16 <= len(text); {
		size := int(binary.LittleEndian.Uint32(text[at+8:]))
		if at+16+size > len(text) {
			break // QEMU is writing it
		}
		all = append(all, text[at+16:at+16+size])
		at += 16 + size
	}
	return all
}

// dhcpFrames counts the questions to DHCP servers, of IPv4, that went out (RFC 2131).
func dhcpFrames(t testing.TB, path string) int {
	t.Helper()
	list := frames(t, path)
	if len(list) == 0 {
		t.Fatal("nothing passed the card: nothing was looked at")
	}
	n := 0
	for _, f := range list {
		if len(f) < 14+20+8 || binary.BigEndian.Uint16(f[12:]) != 0x0800 || f[14+9] != 17 {
			continue
		}
		udp := f[14+int(f[14]&15)*4:]
		if len(udp) >= 8 && binary.BigEndian.Uint16(udp) == 68 && binary.BigEndian.Uint16(udp[2:]) == 67 {
			n++
		}
	}
	return n
}
