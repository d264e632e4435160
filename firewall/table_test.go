package firewall

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"lazaret/internal/testneed"
)

// open opens the table of this process's own network namespace.
func open(t testing.TB) *Table {
	t.Helper()
	return openAt(t, 0)
}

func openAt(t testing.TB, ns int) *Table {
	t.Helper()
	table, err := Open(Config{NetNS: ns, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func TestOpenNeedsALog(t *testing.T) {
	if _, err := Open(Config{}); err == nil {
		t.Error("opened without a log")
	}
}

const ownerVariable = "LAZARET_FIREWALL_OWNER"

// TestOwnerProcess is not a test but the process that TestOrphan kills.
func TestOwnerProcess(t *testing.T) {
	if os.Getenv(ownerVariable) == "" {
		t.Skip("runs only as a helper of TestOrphan")
	}
	table := open(t)
	must(t, table.Fill(fullRuleset(), fullElements()))
	fmt.Println("owner is ready")
	io.Copy(io.Discard, os.Stdin) // until it is killed
}

// TestOrphan follows a table through the life and death of its owner.
func TestOrphan(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	full, err := os.ReadFile("testdata/full.nft")
	must(t, err)
	list := func() string { return normal(nft(t, "list", "table", "inet", "lazaret")) }

	kill := owner(t)
	if diff := cmp.Diff(string(full), list()); diff != "" {
		t.Fatal("owned by another process:", diff)
	}
	for _, foreign := range []string{"flush table inet lazaret", "delete table inet lazaret", "add element inet lazaret quarantined4 { 10.99.0.200 }", "flush chain inet lazaret forward"} {
		out, err := exec.Command(testneed.Program(t, "nft"), strings.Fields(foreign)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Operation not permitted") {
			t.Errorf("nft %s: %v %s, want it not permitted", foreign, err, out)
		}
	}
	nft(t, "flush", "ruleset") // skips what is owned
	table := open(t)
	if err := table.Adopt(baseRuleset()); !errors.Is(err, syscall.EPERM) || !errors.Is(err, ErrDoubt) {
		t.Errorf("adopting a table with a living owner: %v, want EPERM in doubt", err)
	}
	if err := table.Apply(Change{DelRouted: addrs("10.98.0.2")}); !errors.Is(err, ErrDoubt) {
		t.Errorf("changing a table that is not ours: %v, want doubt", err)
	}
	if diff := cmp.Diff(string(full), list()); diff != "" {
		t.Fatal("after foreign writes:", diff)
	}

	kill()
	if diff := cmp.Diff(strings.Replace(string(full), "flags owner", "flags ", 1), list()); diff != "" {
		t.Fatal("orphaned:", diff)
	}
	if k, err := table.conn.ListTableOfFamily("lazaret", nftables.TableFamilyINet); err != nil || k.Flags != nftables.TableFlagPersist {
		t.Errorf("orphan: flags %v, error %v, want persist alone", k, err)
	}
	must(t, table.Adopt(baseRuleset()))
	base, err := os.ReadFile("testdata/base.nft")
	must(t, err)
	if diff := cmp.Diff(string(base), list()); diff != "" {
		t.Error("adopted:", diff)
	}
	must(t, table.Verify())
	must(t, table.Fill(fullRuleset(), fullElements()))
	if diff := cmp.Diff(string(full), list()); diff != "" {
		t.Error("filled again:", diff)
	}
}

// owner starts a process that owns the table, and returns what kills it.
func owner(t *testing.T) (kill func()) {
	t.Helper()
	c := exec.Command("/proc/self/exe", "-test.run=^TestOwnerProcess$", "-test.v")
	c.Env = append(os.Environ(), ownerVariable+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "owner is ready" {
		t.Log("owner:", lines.Text())
	}
	return func() {
		must(t, c.Process.Kill())
		c.Wait() // its sockets are closed then
		in.Close()
	}
}

// TestForeignTable replaces a table of the same name that was never ours.
func TestForeignTable(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	nft(t, "add table inet lazaret; add chain inet lazaret forward { type filter hook forward priority 0; policy accept; }; add set inet lazaret fresh { type ipv4_addr; }")
	table := open(t)
	must(t, table.Adopt(baseRuleset()))
	if diff := cmp.Diff(baseRuleset().Text(Elements{}), normal(nft(t, "list", "table", "inet", "lazaret"))); diff != "" {
		t.Error(diff)
	}
	must(t, table.Verify())
}

// TestDoubt loses the table behind the writer's back and gets it back by Fill alone.
func TestDoubt(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	table := open(t)
	if err := table.Apply(Change{}); !errors.Is(err, ErrDoubt) {
		t.Errorf("a change before anything was written: %v", err)
	}
	for name, write := range map[string]func() error{
		"apply":   func() error { return table.Apply(Change{DelRouted: addrs("10.98.0.2")}) },
		"refresh": func() error { return table.Refresh(After(time.Minute), After(time.Minute)) },
		"fill":    func() error { return table.Fill(fullRuleset(), fullElements()) },
	} {
		must(t, table.Fill(fullRuleset(), fullElements()))
		must(t, write())
		table.conn.DelTable(kernelTable("lazaret"))
		must(t, table.conn.Flush())
		if err := table.Verify(); err == nil {
			t.Errorf("%s: verified a table that is gone", name)
		}
		if err := write(); !errors.Is(err, ErrDoubt) {
			t.Errorf("%s on a table that is gone: %v, want doubt", name, err)
		}
		if err := table.Apply(Change{}); !errors.Is(err, ErrDoubt) {
			t.Errorf("%s: a change after doubt: %v, want doubt", name, err)
		}
		must(t, table.Fill(fullRuleset(), fullElements()))
		if diff := cmp.Diff(fullRuleset().Text(fullElements()), normal(nft(t, "list", "table", "inet", "lazaret"))); diff != "" {
			t.Errorf("%s: filled again: %s", name, diff)
		}
	}
	must(t, table.Close())
	if err := table.Apply(Change{}); !errors.Is(err, ErrDoubt) {
		t.Errorf("a change after Close: %v, want doubt", err)
	}
}

// TestApplyEqualsFill takes random steps and compares with a fill of where they lead.
func TestApplyEqualsFill(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	table, r := open(t), fullRuleset()
	must(t, table.Fill(r, Elements{}))
	hour := After(time.Hour)
	quarantined, routed := map[netip.Addr]bool{}, map[netip.Addr]Mark{}
	for i := range 200 {
		a := r.Pools[i%3].IPv4.Addr().Next()
		if i%2 == 0 {
			a = r.Pools[i%3].IPv6.Addr().Next()
		}
		for range i%5 + 1 {
			a = a.Next()
		}
		var c Change
		switch i * 7 % 5 {
		case 0:
			if i%3 != 0 { // only the quarantine pool's own addresses are quarantined
				a = netip.AddrFrom4([4]byte{10, 99, 0, byte(2 + i%11)})
			}
			c.AddQuarantined, quarantined[a] = []netip.Addr{a}, true
		case 1, 2:
			m := []Mark{1, 7}[i/2%2]
			c.AddRouted, routed[a] = []Routed{{a, m, hour}}, m
		case 3:
			c.DelRouted = []netip.Addr{a}
			delete(routed, a)
		case 4:
			c.DelQuarantined, c.DelRouted = []netip.Addr{a}, []netip.Addr{a}
			delete(quarantined, a)
			delete(routed, a)
		}
		must(t, table.Apply(c))
	}
	var want Elements
	for a := range quarantined {
		want.Quarantined = append(want.Quarantined, a)
	}
	for a, m := range routed {
		want.Routed = append(want.Routed, Routed{a, m, hour})
	}
	if len(want.Routed) < 5 || len(want.Quarantined) < 5 {
		t.Fatal("too little is left to compare")
	}
	if diff := cmp.Diff(r.Text(want), normal(nft(t, "list", "table", "inet", "lazaret"))); diff != "" {
		t.Error(diff)
	}
}

// TestLeftOut gives elements that may not be written among ones that may.
func TestLeftOut(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	var log strings.Builder
	table, r, hour := open(t), fullRuleset(), After(time.Hour)
	table.log = slog.New(slog.NewTextHandler(&log, nil))
	good := Routed{addr("10.98.0.2"), 1, hour}
	bad := []Routed{
		{addr("10.98.0.3"), 0, hour}, {addr("10.98.0.4"), 2, hour}, {addr("192.0.2.1"), 1, hour}, {netip.Addr{}, 1, hour},
		{addr("::ffff:10.98.0.5"), 1, hour}, {addr("10.98.0.1"), 1, hour}, {addr("fd98::5%lz0"), 1, hour},
		{addr("10.98.0.6"), 1, hour}, {addr("10.98.0.6"), 7, hour},
	}
	over := []Routed{{addr("10.98.0.8"), 1, 0}, {addr("10.98.0.9"), 1, -1}, {addr("10.98.0.10"), 1, Now() - 1}, {addr("10.98.0.11"), 1, After(900 * time.Millisecond)}}
	want := Elements{Quarantined: addrs("10.99.0.2"), Routed: []Routed{good}, Fresh: hour, Alive: hour}
	same := func(how string) {
		t.Helper()
		if diff := cmp.Diff(r.Text(want), normal(nft(t, "list", "table", "inet", "lazaret"))); diff != "" {
			t.Errorf("%s: %s", how, diff)
		}
	}
	e := want
	e.Routed = slices.Concat(bad, over, e.Routed)
	e.Quarantined = append(addrs("192.0.2.1", "10.99.0.1", "10.98.0.9"), e.Quarantined...)
	must(t, table.Fill(r, e))
	if !strings.Contains(log.String(), "count=11 ") {
		t.Errorf("want a log of 11 elements left out, have %s", &log)
	}
	same("filled")
	for _, x := range bad[:7] {
		if err := table.Apply(Change{AddRouted: []Routed{x}}); err == nil || errors.Is(err, ErrDoubt) {
			t.Errorf("adding %v: %v, want a fault without doubt", x, err)
		}
	}
	must(t, table.Apply(Change{AddRouted: over}))
	same("applied")
	e.Fresh, e.Alive = 0, After(999*time.Millisecond)
	want.Fresh, want.Alive = 0, 0
	must(t, table.Fill(r, e))
	same("stale")
	if err := table.Fill(Ruleset{}, e); err == nil {
		t.Error("the zero ruleset was written")
	}
	same("refused")
}
