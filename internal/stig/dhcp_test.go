package stig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestSocketsOfDHCP: of packet sockets, those are right that DHCPv4 needs, and are held by the
// one process that asks by it; every other is past the rules. The text is the kernel's
// (packet_seq_show in net/packet/af_packet.c).
func TestSocketsOfDHCP(t *testing.T) {
	const head = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
	for name, x := range map[string]struct {
		kind, protocol, iface string
		holders               []int
		dhcp                  int
		want                  Result
	}{
		"of the client":            {"2", "0800", "2", []int{1}, 1, Pass},
		"nobody asks by DHCP":      {"2", "0800", "2", []int{1}, 0, Fail},
		"another process's":        {"2", "0800", "2", []int{7}, 1, Fail},
		"shared with another":      {"2", "0800", "2", []int{1, 7}, 1, Fail},
		"nobody is seen to hold":   {"2", "0800", "2", nil, 1, Fail},
		"raw":                      {"3", "0800", "2", []int{1}, 1, Fail},
		"of every protocol":        {"2", "0003", "2", []int{1}, 1, Fail},
		"of ARP":                   {"2", "0806", "2", []int{1}, 1, Fail},
		"at every interface":       {"2", "0800", "0", []int{1}, 1, Fail},
		"its number part of other": {"2", "0800", "2", []int{10}, 1, Fail},
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "thread-self/net"), 0o700))
		line := fmt.Sprintf("ffff888004a5b000 3      %s    %s   %-5s 1 0      0      4711  \n", x.kind, x.protocol, x.iface)
		must(t, os.WriteFile(filepath.Join(dir, "thread-self/net/packet"), []byte(head+line), 0o600))
		for _, pid := range []int{1, 7, 10} {
			fds := filepath.Join(dir, strconv.Itoa(pid), "fd")
			must(t, os.MkdirAll(fds, 0o700))
			must(t, os.Symlink("socket:[47110]", filepath.Join(fds, "3")))
			for _, h := range x.holders {
				if h == pid {
					must(t, os.Symlink("socket:[4711]", filepath.Join(fds, "4")))
				}
			}
		}
		c, r := Config{Proc: dir, DHCP: x.dhcp}, report{}
		c.packetSockets(&r, c.owners())
		if got := r.checks[0]; got.Result != x.want || x.want == Pass && !strings.Contains(got.Found[0], "by DHCP") {
			t.Errorf("%s: %s, %q", name, got.Result, got.Found)
		}
	}
}
