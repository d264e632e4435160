package chaos

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/quarantine"
)

// tell gives the data plane's process an order.
func (l *lab) tell(t testing.TB, o planeOrder) failed {
	t.Helper()
	var out failed
	check(t, l.plane.ask(o, &out))
	return out
}

// routeAll releases every mover; blocked ones are unblocked first.
func (l *lab) routeAll(t testing.TB) {
	t.Helper()
	for n := 1; n <= movers; n++ {
		for l.acked[n] != isRouted {
			if !l.move(n) || l.acked[n] == unknown {
				l.settled(t)
			}
		}
	}
	l.settled(t)
}

// round waits until every sort of packet was sent since.
func (l *lab) round(t testing.TB) {
	t.Helper()
	first := l.rounds.Load()
	settle(t, "the packets of a round", func() string {
		if l.rounds.Load() < first+2 {
			return "not sent yet"
		}
		return ""
	})
}

// The kernel refuses, in every way and at every call, before and after it has done what
// was asked: afterwards it holds what was decided, and nothing passed meanwhile.
func TestKernelRefuses(t *testing.T) {
	if !inside(t, 5*time.Minute) {
		return
	}
	l := newLab(t)
	met := 0
	all := []unix.Errno{unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.EEXIST}
	some := all[dice.IntN(len(all))]
	for _, errno := range all {
		for _, call := range []string{"apply", "peers", "fill", "addresses", "read peers", "verify"} {
			for _, after := range []bool{false, true} {
				plans := call != "apply" && call != "peers"
				if plans && (errno != some || after == (dice.IntN(2) == 0)) && os.Getenv("LONG") != "1" {
					continue // the rest in the long run
				}
				one := &failure{Call: call, Errno: errno, After: after, Times: 1 + dice.IntN(3)}
				l.note("%+v", one)
				l.tell(t, planeOrder{Fail: one})
				if plans { // a new control plane's plan calls the others, and verifying comes by itself
					l.control.kill()
					l.startControl(t, "")
					l.settled(t)
				}
				for range 6 {
					l.move(1 + dice.IntN(movers))
				}
				if l.tell(t, planeOrder{}).Hit > 0 {
					met++
				}
				l.tell(t, planeOrder{Fail: &failure{}})
				l.settled(t)
			}
		}
	}
	if met == 0 {
		t.Error("no refusal was met")
	}
	t.Logf("%d refusals met; packets sent %d (of them forbidden %d), allowed passed %d, forbidden passed 0", met, l.sent.Load(), l.denied.Load(), l.passed.Load())
}

// The sockets are left next to no room for the kernel's answers, again and again while
// devices move. The library makes room before each transaction, so that an ENOBUFS of the
// kernel's own is rare; TestKernelRefuses makes them up.
func TestSocketsWithoutRoom(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	for range 5 {
		if l.tell(t, planeOrder{Small: true}).Shrunk == 0 {
			t.Fatal("the data plane has no socket of nftables")
		}
		l.moveFor(300 * time.Millisecond)
		l.settled(t)
	}
	log, err := os.ReadFile(filepath.Join(l.dir, "plane.log"))
	check(t, err)
	t.Logf("the kernel's own ENOBUFS was met %d times", strings.Count(string(log), unix.ENOBUFS.Error()))
}

// A store that answers nothing: what tightens is answered and enforced all the same, and
// outlives a kill of the control plane; nothing is released.
func TestStoreStalls(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	for _, dies := range []bool{false, true} {
		l.routeAll(t)
		_, err := l.control.order(controlOrder{Stall: true})
		check(t, err)
		for n := 1; n <= 4; n++ {
			o := quarantine.Change{Kind: quarantine.Block, Device: id(n)}
			if err := l.control.change(o); err != nil {
				t.Fatalf("a tightening that waits for the store: %v", err)
			}
			l.deny(n, rights{true, true})
			l.acked[n] = isOut
		}
		l.round(t)
		if err := l.control.change(quarantine.Change{Kind: quarantine.Unblock, Device: id(1)}); err == nil {
			t.Error("a device was let in without a store")
		}
		l.round(t)
		if dies {
			l.control.kill()
			l.startControl(t, "")
		} else {
			_, err = l.control.order(controlOrder{})
			check(t, err)
		}
		l.settled(t)
	}
}

// A disk without a byte left, under the journal and the store: what tightens is enforced
// all the same, and once there is room again the gateway comes back with what it answered
// since; what a process that died could not write anywhere is not counted.
func TestDiskFull(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	dir := scratch(t)
	smallDisk(t, filepath.Join(dir, "state"), 300<<20)
	l := newLabIn(t, dir)
	l.routeAll(t)
	ballast := filepath.Join(dir, "state", "ballast")
	fillDisk(t, ballast)
	if err := os.WriteFile(filepath.Join(dir, "state", "more"), make([]byte, 1<<16), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	enforced := 0
	for n := 1; n <= movers; n++ {
		err := l.control.change(quarantine.Change{Kind: quarantine.Block, Device: id(n)})
		l.note("block of device %d: %v", n, err)
		if err == nil {
			enforced++
			l.deny(n, rights{true, true})
		}
		l.acked[n] = isOut
		if err != nil {
			l.acked[n] = unknown
		}
	}
	if enforced == 0 {
		t.Error("nothing could be tightened")
	}
	l.round(t)
	if leaks := l.forbidden(); len(leaks) > 0 {
		t.Fatalf("%d packets passed, such as %s", len(leaks), leaks[0])
	}
	_, err := l.control.look(0) // reads need no room; an answer says that it lives
	died := err != nil && l.control.dead()
	t.Logf("%d of %d tightened with a full disk; the control plane ended by itself: %v", enforced, movers, died)
	check(t, os.Remove(ballast))
	if died {
		for n := 1; n <= movers; n++ {
			l.acked[n] = unknown
		}
		l.startControl(t, "")
		for n := 1; n <= movers; n++ {
			l.grant(n, rights{true, true})
		}
	}
	l.settled(t)
	l.routeAll(t)
}

// smallDisk is a file system of so many bytes. It ends with the mount namespace.
func smallDisk(t testing.TB, dir string, size int) {
	t.Helper()
	check(t, os.Mkdir(dir, 0o700))
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.Itoa(size)))
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// fillDisk writes until there is no room.
func fillDisk(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else {
			check(t, err)
		}
	}
}

// A foreign program may not touch the table while the data plane lives, and adds what it
// likes around it without opening anything.
func TestForeignPrograms(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	l.routeAll(t)
	for n := 1; n <= 3; n++ { // somebody to whom opening would show
		for l.acked[n] == isRouted {
			l.move(n)
		}
	}
	for _, mine := range []string{"flush table inet lazaret", "delete table inet lazaret", "flush chain inet lazaret forward",
		"add rule inet lazaret forward accept", "insert rule inet lazaret home_up accept", "add element inet lazaret quarantined4 { 10.66.0.99 }",
		"flush set inet lazaret routed4", "chain inet lazaret forward { policy accept; }"} {
		if out, err := exec.Command(l.nft, mine).CombinedOutput(); err == nil {
			t.Errorf("nft %s: done (%s)", mine, out)
		}
		l.round(t)
	}
	for _, theirs := range []string{
		"flush ruleset",
		"add table inet early; add chain inet early f { type filter hook forward priority -300; policy accept; }; add rule inet early f accept",
		"add table ip nat2; add chain ip nat2 p { type nat hook prerouting priority -150; }; add rule ip nat2 p ip daddr 192.0.2.10 udp dport 443 dnat to 192.0.2.20:5000",
		"add table inet late; add chain inet late f { type filter hook forward priority 300; policy accept; }; add rule inet late f accept",
		"add table inet raw2; add chain inet raw2 p { type filter hook prerouting priority -301; }; add rule inet raw2 p notrack",
		"delete table ip nat2; delete table inet raw2; delete table inet early; delete table inet late",
		"flush ruleset",
	} {
		if out, err := exec.Command(l.nft, theirs).CombinedOutput(); err != nil {
			t.Errorf("nft %s: %v: %s", theirs, err, out)
		}
		l.round(t)
		l.settled(t)
	}
	out, err := exec.Command(l.nft, "add table inet fast; add flowtable inet fast ft { hook ingress priority 0; devices = { lz0, up0 }; }").CombinedOutput()
	if err != nil {
		t.Logf("this kernel has no flowtables: %s", strings.TrimSpace(strings.Split(string(out), "\n")[0]))
	} else {
		l.round(t)
		l.settled(t)
	}
}

// The gateway's own rules change under load: nothing that is allowed is lost, and nothing
// else passes.
func TestHostRulesChange(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	l.routeAll(t)
	missing, before := l.still(t), l.allowed.Load()
	for port := uint16(8001); port < 8021; port++ {
		if err := l.tell(t, planeOrder{Host: port}).Err; err != "" {
			t.Fatal(err)
		}
		l.rules = nil
		l.settled(t)
		if all := strings.Join(l.rules, "\n"); !strings.Contains(all, strconv.Itoa(int(port))) || strings.Contains(all, strconv.Itoa(int(port-1))) {
			t.Fatalf("rules with port %d:\n%s", port, all)
		}
		l.round(t)
	}
	if lost := l.still(t) - missing; lost != 0 {
		t.Errorf("%d of %d allowed packets were lost", lost, l.allowed.Load()-before)
	}
	t.Logf("20 changes of rules, %d allowed packets sent", l.allowed.Load()-before)
}
