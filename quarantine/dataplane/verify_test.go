package dataplane

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
	"lazaret/quarantine"
)

// A table that is not as it was left is made anew, empty, and needs a plan; one that
// cannot be made leaves no peer. A single failed look is nothing.
func TestTableIsWatched(t *testing.T) {
	for name, c := range map[string]struct {
		verify, adopt []error
		calls         []string
		shut, bare    bool
	}{
		"as it was":        {nil, nil, []string{"verify"}, false, false},
		"interrupted once": {[]error{errKernel, nil}, nil, []string{"verify", "verify"}, false, false},
		"gone":             {[]error{errKernel, errKernel, nil}, nil, []string{"verify", "verify", "adopt"}, true, false},
		"gone for good":    {[]error{errKernel}, []error{errKernel}, []string{"verify", "verify", "adopt"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := planned(t, in77(1, 5), in66(2, 5))
			s := &session{out: make(chan message, 10), closed: make(chan struct{})}
			f.current = s
			f.table.fail["verify"], f.table.fail["adopt"] = c.verify, c.adopt
			f.watchTable()
			same(t, "calls", f.table.calls(), c.calls)
			if bare := f.link.allowed(peerKey(1)) == nil && f.link.allowed(peerKey(2)) == nil; bare != c.bare {
				t.Errorf("peers are gone: %v", bare)
			}
			if !c.shut {
				f.agree(t)
				want(t, f.prolong(fresh(10)), nil)
				return
			}
			if m := <-s.out; m.Event == nil || m.Event.Kind != NeedPlan {
				t.Errorf("told %+v", m)
			}
			if !c.bare && (len(f.table.quarantined)+len(f.table.routed) != 0 || f.table.fresh != 0 || f.table.alive != 0) {
				t.Error("something passes")
			}
			want(t, f.prolong(fresh(10)), quarantine.ErrNotEnforced)
			want(t, f.move(in66(1, 11)), quarantine.ErrNotEnforced)
			f.table.fail["verify"], f.table.fail["adopt"] = nil, nil
			want(t, f.replace(somePlan(12, in77(1, 5), in66(2, 5))), nil)
			want(t, f.prolong(fresh(12)), nil)
			f.agree(t)
		})
	}
}

// The look is a part of what runs: a few ticks, and the table has been looked at.
func TestTickLooksAtTheTable(t *testing.T) {
	f := planned(t)
	for range verifyEvery {
		f.tick(t.Context())
	}
	if n := len(slices.DeleteFunc(f.table.calls(), func(s string) bool { return s != "verify" })); n != 1 {
		t.Errorf("looked %d times in %d ticks", n, verifyEvery)
	}
}

// The kernel's table deleted behind the data plane's back, which takes its own socket:
// it is there again, drops, and opens with the next plan alone.
func TestTableDeleted(t *testing.T) {
	nft := testneed.Program(t, "nft")
	if !inside(t) {
		return
	}
	s := newSite(t)
	check(t, s.c.Replace(t.Context(), s.plan(10, s.routed(5, 0))))
	s.refresh(t, 10)
	s.sees(t, "routed", true, true)
	if out, err := exec.Command(nft, "delete", "table", "inet", host.Table).CombinedOutput(); err == nil {
		t.Errorf("anybody may delete the table: %s", out)
	}
	deleteTable(t, s.cmd.Process.Pid)
	if out, err := exec.Command(nft, "list", "table", "inet", host.Table).CombinedOutput(); err == nil {
		t.Fatalf("the table is still there:\n%s", out)
	}
	expect(t, s.c, NeedPlan)
	again := list(t, nft)
	if !strings.Contains(again, "hook forward priority filter; policy drop") || strings.Contains(again, "10.77.0.2") {
		t.Errorf("made anew:\n%s", again)
	}
	s.sees(t, "made anew", false, false)
	check(t, s.c.Replace(t.Context(), s.plan(11, s.routed(5, 0))))
	s.refresh(t, 11)
	s.sees(t, "planned again", true, true)
}

// deleteTable deletes the table by the socket of the process that owns it.
func deleteTable(t testing.TB, pid int) {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	check(t, err)
	defer unix.Close(process)
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	check(t, err)
	for _, entry := range all {
		n, err := strconv.Atoi(entry.Name())
		check(t, err)
		fd, err := unix.PidfdGetfd(process, n, 0)
		if err != nil { // closed meanwhile
			continue
		}
		domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		protocol, err2 := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
		if err == nil && err2 == nil && domain == unix.AF_NETLINK && protocol == unix.NETLINK_NETFILTER {
			check(t, unix.Sendto(fd, deletion(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		}
		unix.Close(fd)
	}
}

// deletion is a transaction that deletes the table and asks for no answer, which its
// owner would read as one to its own next request.
func deletion() []byte {
	message := func(kind uint16, family byte, resource uint16, body []byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(20+len(body)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
		b = append(b, make([]byte, 8)...)
		b = binary.BigEndian.AppendUint16(append(b, family, unix.NFNETLINK_V0), resource)
		return append(b, body...)
	}
	name := binary.NativeEndian.AppendUint16(nil, uint16(4+len(host.Table)+1))
	name = append(binary.NativeEndian.AppendUint16(name, unix.NFTA_TABLE_NAME), host.Table...)
	name = append(name, make([]byte, 1+(4-(len(host.Table)+1)%4)%4)...)
	return slices.Concat(
		message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, 0, name),
		message(unix.NFNL_MSG_BATCH_END, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
	)
}
