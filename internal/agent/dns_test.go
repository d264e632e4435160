package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

const own = "# the device's own\nnameserver 203.0.113.53\n"

// conf makes a resolver's file in a directory of its own; an empty text makes none.
func conf(t *testing.T, text string) (*resolvConf, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	f := &resolvConf{path: filepath.Join(t.TempDir(), "resolv.conf"), log: slog.New(slog.NewTextHandler(&log, nil))}
	if text != "" {
		put(t, f.path, text)
	}
	return f, &log
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// servers returns the file's servers, "none" if it is not there.
func (f *resolvConf) servers(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(f.path)
	if os.IsNotExist(err) {
		return "none"
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "nameserver "); ok {
			out = append(out, strings.TrimSpace(s))
		}
	}
	return strings.Join(out, " ")
}

// alone says whether nothing else lies in the file's directory.
func (f *resolvConf) alone(t *testing.T) bool {
	t.Helper()
	list, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		t.Fatal(err)
	}
	return len(list) == 0 || len(list) == 1 && list[0].Name() == "resolv.conf"
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestResolvConfComesBack: set, set anew, and brought back, by this process or the next
// one, with a file, a link to one, or none there before.
func TestResolvConfComesBack(t *testing.T) {
	for name, prepare := range map[string]func(f *resolvConf){
		"a file": func(f *resolvConf) { put(t, f.path, own) },
		"a link": func(f *resolvConf) {
			stub := filepath.Join(t.TempDir(), "stub.conf")
			put(t, stub, own)
			must(t, os.Symlink(stub, f.path))
		},
		"none": func(*resolvConf) {},
	} {
		f, log := conf(t, "")
		prepare(f)
		was, _ := os.Lstat(f.path)
		text, _ := os.ReadFile(f.path)
		must(t, f.set([]netip.Addr{addr("10.66.0.1"), addr("fd66::1")}))
		if got := f.servers(t); got != "10.66.0.1 fd66::1" {
			t.Errorf("%s: set to %s", name, got)
		}
		must(t, f.set([]netip.Addr{addr("10.10.0.53")}))
		if got := f.servers(t); got != "10.10.0.53" {
			t.Errorf("%s: set anew to %s", name, got)
		}
		killed := &resolvConf{path: f.path, log: f.log} // and started again
		if left, err := killed.left(); !left || err != nil {
			t.Errorf("%s: the next run does not see what was left: %v", name, err)
		}
		must(t, killed.restore())
		now, _ := os.Lstat(f.path)
		again, _ := os.ReadFile(f.path)
		if !bytes.Equal(again, text) || (was == nil) != (now == nil) || was != nil && now.Mode() != was.Mode() || !f.alone(t) {
			t.Errorf("%s: brought back as %v %q, was %v %q", name, now, again, was, text)
		}
		if left, err := f.left(); left || err != nil {
			t.Errorf("%s: something is still left: %v", name, err)
		}
		must(t, f.restore())
		if got := f.servers(t); got != map[bool]string{true: "none", false: "203.0.113.53"}[was == nil] || log.Len() > 0 {
			t.Errorf("%s: restoring twice: %s, log %s", name, got, log)
		}
	}
}

// TestLinkStaysALink where a link can have no second name either: kept as one, it leads to
// what somebody else keeps up to date, and comes back so.
func TestLinkStaysALink(t *testing.T) {
	f, _ := conf(t, "")
	stub := filepath.Join(t.TempDir(), "stub.conf")
	put(t, stub, own)
	must(t, os.Symlink(stub, f.path))
	must(t, f.duplicate())
	must(t, f.write(f.conf([]netip.Addr{addr("10.66.0.1")})))
	put(t, stub, "nameserver 203.0.113.54\n")
	must(t, f.restore())
	if to, err := os.Readlink(f.path); err != nil || to != stub || f.servers(t) != "203.0.113.54" || !f.alone(t) {
		t.Errorf("brought back as a link to %q, %v, with servers %s", to, err, f.servers(t))
	}
	must(t, f.duplicate()) // killed here
	if left, err := f.left(); left || err != nil {
		t.Errorf("nothing was replaced, and something is left: %v", err)
	}
}

// TestResolvConfKilledInBetween: between keeping the device's own file and replacing it,
// and where a file that is a mount was emptied and not yet written.
func TestResolvConfKilledInBetween(t *testing.T) {
	f, log := conf(t, own)
	must(t, f.keep()) // killed here
	if left, _ := f.left(); left {
		t.Error("nothing was replaced, and something is left")
	}
	must(t, f.set([]netip.Addr{addr("10.66.0.1")}))
	must(t, f.restore())
	if f.servers(t) != "203.0.113.53" || !f.alone(t) {
		t.Errorf("after all: %s", f.servers(t))
	}
	must(t, f.keep())
	must(t, f.restore())
	if f.servers(t) != "203.0.113.53" || !f.alone(t) {
		t.Errorf("kept, then restored: %s", f.servers(t))
	}
	must(t, f.set([]netip.Addr{addr("10.66.0.1")}))
	put(t, f.path, "") // killed here
	must(t, f.restore())
	if f.servers(t) != "203.0.113.53" || log.Len() > 0 {
		t.Errorf("emptied, then restored: %s, log %s", f.servers(t), log)
	}
}

// TestResolvConfCutShort: wherever a write in place ended, of ours or of what comes back,
// the device's own servers come back.
func TestResolvConfCutShort(t *testing.T) {
	f, log := conf(t, own)
	ours := string(f.conf([]netip.Addr{addr("10.66.0.1"), addr("fd66::1")}))
	for what, text := range map[string]string{"ours": ours, "own": own} {
		for n := range text {
			for _, tail := range []string{"", strings.Repeat("\x00", len(text)-n)} { // killed, or the machine crashed
				put(t, f.path+before, own)
				put(t, f.path, text[:n]+tail)
				if left, err := f.left(); !left || err != nil {
					t.Fatalf("%q: nothing is left, %v", text[:n]+tail, err)
				}
				must(t, f.restore())
				if got := f.servers(t); got != "203.0.113.53" || !f.alone(t) || log.Len() > 0 {
					t.Fatalf("%s, cut after %d bytes: brought back %q, log %s", what, n, got, log)
				}
			}
		}
	}
}

// TestResolvConfOfSomebodyElseStays: what another program writes meanwhile is neither
// overwritten nor taken for ours, and the log says so.
func TestResolvConfOfSomebodyElseStays(t *testing.T) {
	for name, edit := range map[string]func(f *resolvConf){
		"replaced": func(f *resolvConf) { put(t, f.path, "nameserver 192.0.2.9\n") },
		"edited": func(f *resolvConf) {
			text, err := os.ReadFile(f.path)
			must(t, err)
			put(t, f.path, strings.Replace(string(text), "nameserver 10.66.0.1", "nameserver 192.0.2.9", 1))
		},
		"edited throughout": func(f *resolvConf) {
			text, err := os.ReadFile(f.path)
			must(t, err)
			put(t, f.path, strings.ReplaceAll(string(text), "10.66.0.1", "192.0.2.9"))
		},
	} {
		f, log := conf(t, own)
		must(t, f.set([]netip.Addr{addr("10.66.0.1")}))
		edit(f)
		must(t, f.set([]netip.Addr{addr("10.10.0.53")}))
		if got := f.servers(t); got != "192.0.2.9" || !strings.Contains(log.String(), "another program") {
			t.Errorf("%s: overwritten with %s; log %s", name, got, log)
		}
		log.Reset()
		must(t, f.restore())
		if got := f.servers(t); got != "192.0.2.9" || !strings.Contains(log.String(), "another program") || !f.alone(t) {
			t.Errorf("%s: after restoring %s; log %s", name, got, log)
		}
	}
}

// TestResolvConfOfSomebodyElseStaysForTheRun: also where the servers are taken out of the
// file meanwhile, as for a gateway that does not answer. The next run sets its own again.
func TestResolvConfOfSomebodyElseStaysForTheRun(t *testing.T) {
	f, _ := conf(t, own)
	must(t, f.set([]netip.Addr{addr("10.66.0.1")}))
	put(t, f.path, "nameserver 192.0.2.9\n")
	for _, servers := range [][]netip.Addr{nil, {addr("10.66.0.1")}, {addr("10.10.0.53")}} {
		must(t, f.set(servers))
		if got := f.servers(t); got != "192.0.2.9" {
			t.Fatalf("set to %v: overwritten with %s", servers, got)
		}
	}
	must(t, f.restore())
	if got := f.servers(t); got != "192.0.2.9" || !f.alone(t) {
		t.Errorf("after restoring %s", got)
	}
	next := &resolvConf{path: f.path, log: f.log}
	must(t, next.set([]netip.Addr{addr("10.66.0.1")}))
	must(t, next.restore())
	if got := f.servers(t); got != "192.0.2.9" || !f.alone(t) {
		t.Errorf("after the next run %s", got)
	}
}

// TestDNSFollowsThePlacement: the pool's servers with the pool, the quarantine's with
// quarantine, and the device's own where a pool names none.
func TestDNSFollowsThePlacement(t *testing.T) {
	a, _ := newAgent(t)
	f, _ := conf(t, own)
	a.dns = f
	full, quarantined := status("routed", true, 1), status("quarantined", false, 2)
	full.Settings.Full.DNS, quarantined.Settings.Quarantine.DNS = []netip.Addr{addr("10.10.0.53")}, []netip.Addr{addr("10.66.0.1")}
	a.take(full)
	if got := f.servers(t); got != "10.10.0.53" {
		t.Errorf("routed: %s", got)
	}
	a.take(quarantined)
	if got := f.servers(t); got != "10.66.0.1" {
		t.Errorf("in quarantine: %s", got)
	}
	a.take(status("routed", true, 3))
	if got := f.servers(t); got != "203.0.113.53" {
		t.Errorf("in a pool without servers: %s", got)
	}
	a.take(quarantined)
	must(t, a.tearDown())
	if got := f.servers(t); got != "203.0.113.53" || !f.alone(t) {
		t.Errorf("after the end: %s", got)
	}
}

// fakeDNS remembers the servers.
type fakeDNS struct {
	fail    error
	servers []netip.Addr
	sets    int
}

func (d *fakeDNS) set(s []netip.Addr) error {
	d.sets++
	if d.fail == nil {
		d.servers = s
	}
	return d.fail
}
func (d *fakeDNS) restore() error { return d.set(nil) }

// TestDNSThatCannotBeSetHoldsNothingElseUp: the move is made, kept and told; the problem
// is shown, and gone once the servers could be set at a later answer, where those are set
// anew even if they were the last ones known.
func TestDNSThatCannotBeSetHoldsNothingElseUp(t *testing.T) {
	a, f := newAgent(t)
	d := &fakeDNS{}
	a.dns = d
	quarantined, full := status("quarantined", false, 1), status("routed", true, 2)
	quarantined.Settings.Quarantine.DNS, full.Settings.Full.DNS = []netip.Addr{addr("10.66.0.1")}, []netip.Addr{addr("10.10.0.53")}
	a.take(quarantined)
	<-a.moved
	d.fail = errors.New("read-only file system")
	a.take(full)
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) || a.behind() {
		t.Error("the network is not set up")
	}
	select {
	case <-a.moved:
	default:
		t.Error("nobody was told of the move")
	}
	if kept, err := a.store.load(); err != nil || kept.Settings.Full.Pool != "full" {
		t.Errorf("not kept: %v %v", kept.Settings.Full, err)
	}
	if got := a.show().Problem; !strings.Contains(got, "read-only") {
		t.Errorf("shows the problem %q", got)
	}
	d.fail = nil
	quarantined.Revision = 3
	a.take(quarantined)
	if got := a.show().Problem; got != "" || !slices.Equal(d.servers, quarantined.Settings.Quarantine.DNS) || d.sets != 3 {
		t.Errorf("then %v, set %d times, problem %q", d.servers, d.sets, got)
	}
	a.take(quarantined)
	if d.sets != 3 {
		t.Error("set again, though nothing changed")
	}
}

// TestAgentBeginsWithoutDNS: neither a file that cannot be read nor an interface that the
// resolver does not know keeps the agent from starting.
func TestAgentBeginsWithoutDNS(t *testing.T) {
	(&fakeBus{runs: true}).serve(t)
	a, _ := newAgent(t)
	a.config.Interface, a.config.ResolvConf = "none", t.TempDir() // no file at all
	a.openDNS(t.Context())
	if got := a.show().Problem; a.dns != nil || a.noDNS == "" || got != errNotYet.Error() {
		t.Errorf("resolver %v, why %q, shown %q", a.dns, a.noDNS, got)
	}
	a.take(status("quarantined", false, 1))
	if got := a.show().Problem; !strings.Contains(got, "finding interface none") || a.behind() {
		t.Errorf("shows the problem %q", got)
	}
}

// fakeBus is a system bus with a systemd-resolved on it, which remembers what it was told.
type fakeBus struct {
	runs  bool // resolved is there
	mu    sync.Mutex
	calls []string
}

// serve speaks the D-Bus protocol with one client at a time (dbus-specification, "Auth
// Protocol" and "Message Protocol").
func (b *fakeBus) serve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	t.Cleanup(b.listen(t, path))
}

// listen serves there until it is told to stop, and then hangs up.
func (b *fakeBus) listen(t *testing.T, path string) (stop func()) {
	l, err := net.Listen("unix", path)
	must(t, err)
	done := make(chan struct{})
	var mu sync.Mutex
	var open net.Conn
	ended := false
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open = c; ended {
				c.Close()
			}
			mu.Unlock()
			if err := b.talk(c); err != nil && err != io.EOF && !errors.Is(err, net.ErrClosed) {
				t.Error(err)
			}
			c.Close()
		}
	}()
	return func() {
		l.Close()
		mu.Lock()
		if ended = true; open != nil {
			open.Close()
		}
		mu.Unlock()
		<-done
	}
}

func (b *fakeBus) talk(c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.Trim(line, "\x00\r\n")
		switch {
		case line == "AUTH":
			fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case line == "BEGIN":
			return b.messages(c, r)
		default:
			fmt.Fprint(c, "ERROR\r\n")
		}
	}
}

func (b *fakeBus) messages(c net.Conn, r io.Reader) error {
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			return io.EOF // the client is gone
		}
		if m.Type != dbus.TypeMethodCall {
			continue
		}
		member := m.Headers[dbus.FieldMember].Value().(string)
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()), dbus.FieldSender: dbus.MakeVariant("org.freedesktop.DBus"),
		}}
		switch member {
		case "Hello":
			reply.Body = []any{":1.1"}
		case "NameHasOwner":
			reply.Body = []any{b.runs && m.Body[0] == "org.freedesktop.resolve1"}
		default:
			b.mu.Lock()
			b.calls = append(b.calls, fmt.Sprint(m.Headers[dbus.FieldInterface].Value(), " ", member, " ", m.Headers[dbus.FieldSignature].Value(), " ", m.Body))
			b.mu.Unlock()
		}
		if len(reply.Body) > 0 {
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		}
		if err := encode(c, reply, m.Serial()); err != nil {
			return err
		}
	}
}

// encode writes a message; the library numbers those that it sends itself.
func encode(w io.Writer, m *dbus.Message, serial uint32) error {
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		return err
	}
	raw := b.Bytes()
	binary.LittleEndian.PutUint32(raw[8:], serial) // zero is no serial number
	_, err := w.Write(raw)
	return err
}

// TestResolvedIsTold: the calls that org.freedesktop.resolve1(5) describes, about the
// interface, in their order and shapes.
func TestResolvedIsTold(t *testing.T) {
	b := &fakeBus{runs: true}
	b.serve(t)
	lo, err := net.InterfaceByName("lo")
	must(t, err)
	r, err := openResolver(t.Context(), "lo", "/nowhere", slog.New(slog.DiscardHandler))
	must(t, err)
	if _, ok := r.(*resolved); !ok {
		t.Fatalf("resolved runs, and %s was chosen", reflect.TypeOf(r))
	}
	must(t, r.set([]netip.Addr{addr("10.10.0.53"), addr("fd10::53")}))
	must(t, r.set(nil))
	must(t, r.restore())
	v6 := addr("fd10::53").As16()
	manager := "org.freedesktop.resolve1.Manager "
	want := []string{
		fmt.Sprintf("%sSetLinkDNS ia(iay) [%d [[2 [10 10 0 53]] [10 %v]]]", manager, lo.Index, v6),
		fmt.Sprintf("%sSetLinkDomains ia(sb) [%d [[. true]]]", manager, lo.Index),
		fmt.Sprintf("%sSetLinkDefaultRoute ib [%d true]", manager, lo.Index),
		fmt.Sprintf("%sRevertLink i [%d]", manager, lo.Index),
		fmt.Sprintf("%sRevertLink i [%d]", manager, lo.Index),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.calls, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(b.calls, "\n"), strings.Join(want, "\n"))
	}
}

// TestBusThatComesBack: while the bus is gone, servers cannot be set; once it is back, they
// can.
func TestBusThatComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	b := &fakeBus{runs: true}
	stop := b.listen(t, path)
	r, err := openResolver(t.Context(), "lo", "/nowhere", slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, r.set([]netip.Addr{addr("10.10.0.53")}))
	stop()
	if r.set(nil) == nil {
		t.Error("no bus, and no error")
	}
	b.calls = nil
	stop = b.listen(t, path)
	defer stop()
	must(t, r.set([]netip.Addr{addr("10.66.0.1")}))
	must(t, r.restore())
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.calls) != 4 || !strings.Contains(b.calls[0], "SetLinkDNS") || !strings.Contains(b.calls[3], "RevertLink") {
		t.Errorf("told %q", b.calls)
	}
}

// TestWithoutResolvedTheFileIsTaken: no bus at all, or a bus without resolved.
func TestWithoutResolvedTheFileIsTaken(t *testing.T) {
	choose := func() resolver {
		r, err := openResolver(t.Context(), "lo", "/nowhere", slog.New(slog.DiscardHandler))
		must(t, err)
		return r
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if _, ok := choose().(*resolvConf); !ok {
		t.Error("no bus, and no file")
	}
	(&fakeBus{}).serve(t)
	if _, ok := choose().(*resolvConf); !ok {
		t.Error("no resolved on the bus, and no file")
	}
}
