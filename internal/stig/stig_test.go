package stig

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/internal/testneed"
)

const childVariable = "LAZARET_STIG_CHILD"

// inNamespace runs the calling test again in user, network and mount namespaces of its
// own, where it is root, and reports whether this process is that one.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "-test.v", "-test.count=1", "-test.run=^"+t.Name()+"$")
	c.Env = append(os.Environ(), childVariable+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("failed in namespaces: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
		testneed.Skip(t, "skipped in namespaces")
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is what the configuration says.
func host() firewall.Ruleset {
	admin := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	return firewall.Ruleset{
		Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour,
		Outside: []firewall.Service{{Protocol: "tcp", Port: 443}, {Protocol: "tcp", Port: 22, From: admin}},
		Inside:  []firewall.Service{{Protocol: "tcp", Port: 8444}},
		Out:     []firewall.Service{{Protocol: "udp", Port: 123}},
	}
}

// planned is what the data plane makes of it with a plan.
func planned() firewall.Ruleset {
	r := host()
	r.Gateway = []netip.Addr{netip.MustParseAddr("10.66.0.1")}
	r.Pools = []firewall.Pool{
		{Name: "quarantine", IPv4: netip.MustParsePrefix("10.66.0.0/16"), Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443}}},
		{Name: "full", Mark: 1, IPv4: netip.MustParsePrefix("10.67.0.0/16")},
	}
	return r
}

// gateway is this process's namespace, with a table as it should be.
type gateway struct {
	t     *testing.T
	table *firewall.Table
	ports []net.Listener
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t}
	g.open()
	must(t, firewall.Harden())
	g.set("net/ipv4/conf/all/rp_filter", "2")
	g.set("net/ipv4/ip_forward", "1")
	g.listen("0.0.0.0:443")
	g.listen("127.0.0.1:8443")
	return g
}

// open makes the table anew.
func (g *gateway) open() {
	g.t.Helper()
	table, err := firewall.Open(firewall.Config{Log: slog.New(slog.DiscardHandler)})
	must(g.t, err)
	must(g.t, table.Fill(planned(), firewall.Elements{Quarantined: []netip.Addr{netip.MustParseAddr("10.66.0.9")}, Alive: firewall.After(time.Minute)}))
	g.table = table
}

// orphan lets go of the table, so that others can change it.
func (g *gateway) orphan() { must(g.t, g.table.Close()) }

func (g *gateway) set(path, value string) {
	g.t.Helper()
	must(g.t, os.WriteFile(filepath.Join("/proc/sys", path), []byte(value), 0))
}

func (g *gateway) listen(at string) net.Listener {
	g.t.Helper()
	l, err := net.Listen("tcp4", at)
	must(g.t, err)
	g.ports = append(g.ports, l)
	return l
}

func (g *gateway) nft(text string) {
	g.t.Helper()
	if out, err := exec.Command(testneed.Program(g.t, "nft"), strings.Fields(text)...).CombinedOutput(); err != nil {
		g.t.Fatalf("nft %s: %v\n%s", text, err, out)
	}
}

func (g *gateway) report() map[string]Check {
	g.t.Helper()
	m := map[string]Check{}
	for _, c := range Run(g.config()).Checks {
		if _, twice := m[c.ID]; twice {
			g.t.Errorf("check %s is made twice", c.ID)
		}
		m[c.ID] = c
	}
	return m
}

func (g *gateway) config() Config {
	return Config{Host: host(), Held: func() (firewall.Ruleset, error) { return planned(), nil }, Build: build, query: noPrograms}
}

// noPrograms takes the kernel's place, which tells nothing in a user namespace.
func noPrograms(_, _ uint32) (int, error) { return 0, nil }

// build is what a released program says of itself; a test binary says less.
func build() (*debug.BuildInfo, bool) {
	return &debug.BuildInfo{GoVersion: "go1.26.8", Path: "lazaret/cmd/lazaretd", Main: debug.Module{Path: "lazaret", Version: "v0.3.0"},
		Deps:     []*debug.Module{{Path: "example.com/a/b", Version: "v1.2.3+incompatible", Sum: "h1:x="}},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}, true
}

// wants fails the test unless exactly these checks fail, each with a word of what is wrong.
func (g *gateway) wants(when string, fails map[string]string) {
	g.t.Helper()
	for id, c := range g.report() {
		word, bad := fails[id]
		switch {
		case bad && (c.Result != Fail || !strings.Contains(strings.Join(c.Found, "\n"), word) || c.Remedy == ""):
			g.t.Errorf("%s: %s is %s: %q (%s), want a failure about %q", when, id, c.Result, c.Found, c.Remedy, word)
		case !bad && c.Result != Pass:
			g.t.Errorf("%s: %s is %s: %q", when, id, c.Result, c.Found)
		case !bad && c.Remedy != "":
			g.t.Errorf("%s: %s passed and has a remedy", when, id)
		}
	}
}

// TestWeaknessesAreFound: a gateway as it should be passes; then, one by one, it is given
// weaknesses, and each is found by the checks that should and by no other.
func TestWeaknessesAreFound(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	g := newGateway(t)
	g.wants("as it should be", nil)
	in := g.report()["reach.in"]
	if !slices.Contains(in.Found, "input: ip saddr 192.0.2.0/24 tcp dport 22 accept") || !slices.Contains(in.Found, "input: udp dport 51820 accept") {
		t.Errorf("what may reach it: %q", in.Found)
	}
	if out := g.report()["reach.out"]; !slices.Contains(out.Found, "output: udp dport 123 accept") {
		t.Errorf("what it may open: %q", out.Found)
	}
	if tunnel := g.report()["reach.tunnel"]; !slices.Contains(tunnel.Found, "quarantine_up: ip daddr 192.0.2.10 tcp dport 443 goto remember") {
		t.Errorf("what devices may reach: %q", tunnel.Found)
	}
	for _, w := range []struct {
		name       string
		seed, mend func()
		fails      map[string]string
	}{
		{"redirect", func() {
			g.nft("add table ip evil; add chain ip evil c { type nat hook prerouting priority -100; }; add rule ip evil c tcp dport 443 redirect to :8443")
		}, func() { g.nft("delete table ip evil") }, map[string]string{"tables.others": "table ip evil, chain c: redir"}},
		{"masquerade elsewhere", func() {
			g.nft("add table inet evil; add chain inet evil c { type nat hook postrouting priority 50; }; add rule inet evil c masquerade")
		}, func() { g.nft("delete table inet evil") }, map[string]string{"tables.others": "masq"}},
		{"forwarding before the hook", func() {
			g.nft("add table netdev evil; add chain netdev evil c { type filter hook ingress device lo priority 0; }; add rule netdev evil c fwd to lo")
		}, func() { g.nft("delete table netdev evil") }, map[string]string{"tables.others": "fwd"}},
		{"marks set by others", func() {
			g.nft("add table inet evil; add chain inet evil c { type filter hook forward priority 10; }; add rule inet evil c meta mark set 1")
		}, func() { g.nft("delete table inet evil") }, map[string]string{"tables.others": "meta"}},
		{"a helper", func() { g.nft("add table ip evil; add ct helper ip evil ftp { type \"ftp\" protocol tcp; }") },
			func() { g.nft("delete table ip evil") }, map[string]string{"helpers": "ip evil ftp"}},
		{"harmless table", func() {
			g.nft("add table inet seen; add chain inet seen c { type filter hook input priority 10; policy accept; }; add rule inet seen c tcp dport 1 counter accept")
		}, func() { g.nft("delete table inet seen") }, nil},
		{"no owner", g.orphan, g.open, map[string]string{"table.owner": "nobody owns it"}},
		{"policy", func() { g.orphan(); g.nft("chain inet lazaret input { policy accept; }") }, g.open,
			map[string]string{"table.owner": "nobody", "table.hooks": "at input", "table.rules": "policy accept"}},
		{"policy of forward", func() { g.orphan(); g.nft("chain inet lazaret forward { policy accept; }") }, g.open,
			map[string]string{"table.owner": "nobody", "table.hooks": "at forward", "table.rules": "policy accept", "sysctl.forwarding": "ip_forward is 1"}},
		{"one more rule", func() { g.orphan(); g.nft("insert rule inet lazaret input tcp dport 23 accept") }, g.open,
			map[string]string{"table.owner": "nobody", "table.rules": "tcp dport 23 accept"}},
		{"no table", func() { g.orphan(); g.nft("delete table inet lazaret") }, g.open, map[string]string{
			"table.owner": "no table", "table.hooks": "no table", "table.rules": "no table", "reach.in": "no table", "reach.out": "no table",
			"reach.tunnel": "no table", "sysctl.forwarding": "ip_forward is 1"}},
		{"source routing", func() { g.set("net/ipv4/conf/all/accept_source_route", "1") },
			func() { g.set("net/ipv4/conf/all/accept_source_route", "0") }, map[string]string{"sysctl.routes": "accept_source_route is 1"}},
		{"IPv6 source routing", func() { g.set("net/ipv6/conf/default/accept_source_route", "0") },
			func() { g.set("net/ipv6/conf/default/accept_source_route", "-1") }, map[string]string{"sysctl.routes": "accept_source_route is 0"}},
		{"redirects", func() { g.set("net/ipv4/conf/default/send_redirects", "1") },
			func() { g.set("net/ipv4/conf/default/send_redirects", "0") }, map[string]string{"sysctl.routes": "send_redirects is 1"}},
		{"segment routing", func() { g.set("net/ipv6/conf/all/seg6_enabled", "1") },
			func() { g.set("net/ipv6/conf/all/seg6_enabled", "0") }, map[string]string{"sysctl.routes": "seg6_enabled is 1"}},
		{"RPL source routing", func() { g.set("net/ipv6/conf/default/rpl_seg_enabled", "1") },
			func() { g.set("net/ipv6/conf/default/rpl_seg_enabled", "0") }, map[string]string{"sysctl.routes": "rpl_seg_enabled is 1"}},
		{"listening", func() { g.listen("0.0.0.0:2323") }, func() { g.ports[len(g.ports)-1].Close() },
			map[string]string{"sockets.listening": "tcp/2323 at 0.0.0.0 (exe, process "}},
	} {
		w.seed()
		g.wants(w.name, w.fails)
		w.mend()
	}
	g.wants("mended", nil)
}

// TestForwardingOfOneInterface: an interface that forwards by itself counts as much as all
// that do; with a table that drops, neither matters.
func TestForwardingOfOneInterface(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	g := newGateway(t)
	g.set("net/ipv4/ip_forward", "0")
	g.orphan()
	g.nft("delete table inet lazaret")
	forwarding := func(when string, want Result, word string) {
		t.Helper()
		c := g.report()["sysctl.forwarding"]
		if c.Result != want || !strings.Contains(strings.Join(c.Found, "\n"), word) {
			t.Errorf("%s: %s, %q, want %s with %q", when, c.Result, c.Found, want, word)
		}
	}
	forwarding("off", Pass, "ip_forward is 0")
	paths := []string{"net/ipv4/conf/lo/forwarding"}
	if path := "net/ipv6/conf/lo/force_forwarding"; exists(filepath.Join("/proc/sys", path)) {
		paths = append(paths, path)
	} else {
		t.Log("this kernel has no force_forwarding")
	}
	for _, path := range paths {
		g.set(path, "1")
		forwarding(path, Fail, path+" is 1")
		g.open()
		forwarding(path+", with a table", Pass, path+" is 1")
		g.orphan()
		g.nft("delete table inet lazaret")
		g.set(path, "0")
		forwarding(path+", off again", Pass, "")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestPacketSocketsAreFound: a packet socket stands before the rules.
func TestPacketSocketsAreFound(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0x0300)
	must(t, err)
	g.wants("a packet socket", map[string]string{"sockets.packet": "(exe, process "})
	must(t, unix.Close(fd))
	g.wants("closed", nil)
}

// TestWithoutPrivilegesNothingPasses: without CAP_NET_ADMIN the checks of the tables are
// not made, and say so; with it, and without the data plane's word, the rules are not
// compared, and everything else is made, save what a user namespace has no word of.
func TestWithoutPrivilegesNothingPasses(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	g := newGateway(t)
	c := g.config()
	c.query = nil // the kernel
	c.Held = func() (firewall.Ruleset, error) { return firewall.Ruleset{}, errors.New("nobody answers") }
	for _, x := range Run(c).Checks {
		word, want := map[string]string{"table.rules": "nobody answers", "interfaces.linked": "operation not permitted"}[x.ID]
		if (x.Result == NotChecked) != want || want && !strings.Contains(x.Found[0], word) {
			t.Errorf("without the data plane %s is %s: %q", x.ID, x.Result, x.Found)
		}
	}
	done := make(chan Report)
	go func() {
		runtime.LockOSThread() // never unlocked: capabilities are a thread's
		head, none := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
		if err := unix.Capset(&head, &none[0]); err != nil {
			t.Error(err)
		}
		done <- Run(c)
	}()
	r := <-done
	needs := map[string]bool{"sysctl.forwarding": true, "interfaces.linked": true} // forwarding is on
	for _, x := range ofTables {
		needs[x[0]] = true
	}
	for _, x := range r.Checks {
		if needs[x.ID] && (x.Result != NotChecked || x.Remedy == "") {
			t.Errorf("without capabilities %s is %s: %q (%s)", x.ID, x.Result, x.Found, x.Remedy)
		}
		if !needs[x.ID] && x.Result != Pass {
			t.Errorf("without capabilities %s is %s, which needs none: %q", x.ID, x.Result, x.Found)
		}
	}
	if failed, unmade := r.Failed(); unmade != len(needs) || failed > 0 {
		t.Errorf("%d failed, %d not made, want %d not made", failed, unmade, len(needs))
	}
}

// TestSocketsAreRead holds the reader to lines as Linux prints them, by machine order.
func TestSocketsAreRead(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the lines below are of a little-endian machine")
	}
	list, err := readSockets(strings.NewReader(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000007000000:01BB 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 17 2 0 0
   2: 0000000000000000FFFF00000A0200C0:0016 0000000000000000FFFF00000B0200C0:C350 01 0:0 0:0 0 0 0 18 2
`))
	must(t, err)
	want := []socket{
		{netip.MustParseAddrPort("127.0.0.1:8443"), netip.MustParseAddrPort("0.0.0.0:0"), 0x0a, "4242"},
		{netip.MustParseAddrPort("[2001:db8::7]:443"), netip.MustParseAddrPort("[::]:0"), 7, "17"},
		{netip.MustParseAddrPort("192.0.2.10:22"), netip.MustParseAddrPort("192.0.2.11:50000"), 1, "18"},
	}
	if !slices.Equal(list, want) {
		t.Errorf("read as %v", list)
	}
}

func FuzzSockets(f *testing.F) {
	f.Add("head\n0: 0100007F:20FB 00000000:0000 0A 0:0 0:0 0 0 0 4242 1")
	f.Add("head\n0: 0100:20FB 00000000 0A 0:0 0:0 0 0 0 4242 1")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := readSockets(strings.NewReader(text))
		for _, s := range list {
			if err == nil && !s.local.Addr().IsValid() {
				t.Fatalf("%q has a socket at no address", text)
			}
		}
	})
}

// TestBOM: CycloneDX 1.6, with the program, the standard library and every module.
func TestBOM(t *testing.T) {
	b, _ := build()
	text, err := json.Marshal(NewBOM(b))
	must(t, err)
	const want = `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"type":"application","name":"lazaret/cmd/lazaretd","version":"v0.3.0",` +
		`"purl":"pkg:golang/lazaret@v0.3.0","bom-ref":"pkg:golang/lazaret@v0.3.0"},"properties":[{"name":"go:vcs.revision","value":"abc"}]},"components":[` +
		`{"type":"library","name":"std","version":"1.26.8","purl":"pkg:golang/std@1.26.8","bom-ref":"pkg:golang/std@1.26.8"},` +
		`{"type":"library","name":"example.com/a/b","version":"v1.2.3+incompatible","purl":"pkg:golang/example.com/a/b@v1.2.3%2Bincompatible",` +
		`"bom-ref":"pkg:golang/example.com/a/b@v1.2.3%2Bincompatible","properties":[{"name":"go:sum","value":"h1:x="}]}]}`
	if string(text) != want {
		t.Errorf("%s", text)
	}
}
