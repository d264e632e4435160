package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"lazaret/firewall"
	"lazaret/internal/testneed"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

const (
	dirVariable   = "LAZARET_DATAPLANE_DIR"
	crashVariable = "LAZARET_DATAPLANE_CRASH"
)

// gateway is a data plane process over the real table and a real link. It dies by
// SIGKILL between the steps of an order, if it is told where.
func gateway() int {
	if err := runGateway(os.Getenv(dirVariable), os.Getenv(crashVariable)); err != nil {
		fmt.Fprintln(os.Stderr, "data plane:", err)
		return 1
	}
	return 0
}

func runGateway(dir, crash string) error {
	log := slog.New(slog.DiscardHandler)
	table, err := firewall.Open(firewall.Config{Log: log})
	if err != nil {
		return err
	}
	defer table.Close()
	flows, err := firewall.OpenFlows(0)
	if err != nil {
		return err
	}
	defer flows.Close()
	key, err := tunnel.LoadOrCreateKey(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	listen := func() (*net.UnixListener, error) { return Listen(filepath.Join(dir, "control"), -1) }
	armed := func() bool { // only once the test asks, so that the first plan passes
		_, err := os.Stat(filepath.Join(dir, "armed"))
		return err == nil
	}
	die := func(where string) func() {
		return func() {
			if crash == where && armed() {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
	}
	p, err := New(Config{Table: mortalTable{table, die("table")}, Host: host, Listen: listen, Flows: flows, Log: log, OpenLink: func(ctx context.Context) (Link, error) {
		link, err := tunnel.Open(ctx, tunnel.Config{Name: host.Tunnel, PrivateKey: key, ListenPort: wgPort, Log: log})
		return mortalLink{link, die("link")}, err
	}})
	if err != nil {
		return err
	}
	return p.Run(context.Background())
}

// mortalTable and mortalLink may kill the process once a change was made.
type (
	mortalTable struct {
		Table
		die func()
	}
	mortalLink struct {
		Link
		die func()
	}
)

func (t mortalTable) Apply(c firewall.Change) error {
	err := t.Table.Apply(c)
	t.die()
	return err
}

func (l mortalLink) Apply(c []tunnel.PeerChange) error {
	err := l.Link.Apply(c)
	l.die()
	return err
}

// site is a gateway process, a control plane's client of it, and one phone.
type site struct {
	dir   string
	cmd   *exec.Cmd
	c     *Client
	phone phone
}

func newSite(t testing.TB) *site {
	t.Helper()
	addOutside(t)
	s := &site{dir: t.TempDir()}
	key, err := tunnel.LoadOrCreateKey(filepath.Join(s.dir, "key"))
	check(t, err)
	s.start(t, "")
	s.c, err = Dial(t.Context(), filepath.Join(s.dir, "control"))
	check(t, err)
	t.Cleanup(func() { s.c.Close() })
	expect(t, s.c, Connected)
	s.phone = newPhone(t, newKey(t), key.Public(), address(66, 1), address(77, 1))
	return s
}

func (s *site) start(t testing.TB, crash string) {
	t.Helper()
	s.cmd = play(t, "dataplane", nil, dirVariable+"="+s.dir, crashVariable+"="+crash)
}

// restartPhone begins without a session: a phone that holds one waits fifteen seconds
// before it believes that the gateway has forgotten it.
func (s *site) restartPhone(t testing.TB) {
	t.Helper()
	s.phone.stop()
	s.phone = newPhone(t, s.phone.key, publicKey(t, s), address(66, 1), address(77, 1))
}

// kill is SIGKILL, awaited.
func (s *site) kill(t testing.TB) {
	t.Helper()
	check(t, s.cmd.Process.Kill())
	s.cmd.Wait()
	expect(t, s.c, Disconnected)
}

// connected waits for the next data plane. Before it, the client may meet the dying
// one's listener.
func (s *site) connected(t testing.TB) {
	t.Helper()
	late := time.After(soon)
	for {
		select {
		case e := <-s.c.Events():
			if e.Kind == Connected {
				return
			}
		case <-late:
			t.Fatal("no data plane")
		}
	}
}

// quarantined and routed are the phone's entries.
func (s *site) quarantined(revision int64, tighten uint64) quarantine.Entry {
	e := in66(1, revision)
	e.Key, e.Tighten = s.phone.key.Public(), tighten
	return e
}

func (s *site) routed(revision int64, tighten uint64) quarantine.Entry {
	e := s.quarantined(revision, tighten)
	e.Routed, e.Mark, e.Until = []netip.Addr{address(77, 1)}, 7, firewall.After(10*time.Minute)
	return e
}

// plan is somePlan for the phone's way of speaking.
func (s *site) plan(revision int64, e ...quarantine.Entry) quarantine.Plan {
	p := somePlan(revision, e...)
	p.Pools[0].Reach[0].Protocol = "udp"
	return p
}

func (s *site) refresh(t testing.TB, revision int64) {
	t.Helper()
	check(t, s.c.Refresh(t.Context(), quarantine.Freshness{Control: control, Revision: revision,
		Fresh: firewall.After(time.Minute), Alive: firewall.After(time.Hour)}))
}

// sees fails t unless the phone reaches exactly this.
func (s *site) sees(t testing.TB, when string, quarantined, routed bool) {
	t.Helper()
	within := func(want bool) time.Duration {
		if want {
			return soon
		}
		return never
	}
	if s.phone.reaches(t, address(66, 1), management, within(quarantined)) != quarantined {
		t.Errorf("%s: the management server answers the quarantine address: want %v", when, quarantined)
	}
	if s.phone.reaches(t, address(77, 1), intranet, within(routed)) != routed {
		t.Errorf("%s: the intranet answers the pool address: want %v", when, routed)
	}
	if s.phone.reaches(t, address(66, 1), intranet, never) {
		t.Errorf("%s: the intranet answers the quarantine address", when)
	}
}

func forwarding(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	check(t, err)
	return strings.TrimSpace(string(b))
}

// The whole way on the kernel: boot, plan, freshness, release, demotion, removal, and
// a new key, with packets.
func TestPacketsFollowOrders(t *testing.T) {
	if !inside(t) {
		return
	}
	s := newSite(t)
	ctx := t.Context()
	if _, err := netlink.LinkByName("lz0"); err != nil {
		t.Error("no link before the first plan")
	}
	if forwarding(t) != "0" {
		t.Error("forwarding before the first plan")
	}
	s.sees(t, "before the plan", false, false)
	check(t, s.c.Replace(ctx, s.plan(10, s.quarantined(5, 0))))
	if forwarding(t) != "1" {
		t.Error("no forwarding after the first plan")
	}
	s.restartPhone(t)
	s.sees(t, "before freshness", false, false)
	s.refresh(t, 10)
	s.sees(t, "quarantined", true, false)
	check(t, s.c.Apply(ctx, s.routed(11, 0)))
	s.sees(t, "released", true, true)
	check(t, s.c.Apply(ctx, s.quarantined(12, 1)))
	s.sees(t, "demoted", true, false)
	want(t, s.c.Apply(ctx, s.routed(13, 0)), quarantine.ErrOutdated)
	s.sees(t, "outdated release", true, false)
	check(t, s.c.Apply(ctx, quarantine.Entry{Device: id(1), Revision: 14, Tighten: 2}))
	s.sees(t, "removed", false, false)
	check(t, s.c.Apply(ctx, s.routed(15, 2)))
	old := s.phone
	next := newPhone(t, newKey(t), publicKey(t, s), address(66, 1), address(77, 1))
	rotating := s.routed(16, 2)
	rotating.Next = next.key.Public()
	check(t, s.c.Apply(ctx, rotating))
	if e := expect(t, s.c, Rotated); e.Key != next.key.Public() || e.Device != id(1) {
		t.Errorf("event %+v", e)
	}
	s.phone = next
	s.sees(t, "by the next key", true, true)
	if old.reaches(t, address(66, 1), management, never) {
		t.Error("the old key still has the addresses")
	}
	check(t, s.c.Apply(ctx, s.routed(17, 2)))
	s.sees(t, "rotated", true, true)
}

func publicKey(t testing.TB, s *site) tunnel.Key {
	t.Helper()
	k, err := tunnel.LoadOrCreateKey(filepath.Join(s.dir, "key"))
	check(t, err)
	return k.Public()
}

// A data plane that dies leaves its table, which drops; the next one empties it before
// there is a link, and fills it with its first plan.
func TestKilledDataPlane(t *testing.T) {
	nft := testneed.Program(t, "nft")
	if !inside(t) {
		return
	}
	s := newSite(t)
	check(t, s.c.Replace(t.Context(), s.plan(10, s.routed(5, 0))))
	s.refresh(t, 10)
	s.sees(t, "routed", true, true)
	s.kill(t)
	left := list(t, nft)
	for _, part := range []string{"hook forward priority filter; policy drop", "hook input priority filter; policy drop", "10.77.0.2", "10.66.0.2"} {
		if !strings.Contains(left, part) {
			t.Errorf("after SIGKILL the table lacks %q:\n%s", part, left)
		}
	}
	s.sees(t, "killed", false, false)
	want(t, s.c.Apply(t.Context(), s.quarantined(11, 1)), quarantine.ErrNotEnforced)
	s.start(t, "")
	s.connected(t)
	empty := list(t, nft)
	for _, part := range []string{"10.77.0.2", "10.66.0.2"} {
		if strings.Contains(empty, part) {
			t.Errorf("the next data plane kept %s without a plan", part)
		}
	}
	if !strings.Contains(empty, "policy drop") {
		t.Error("the next data plane does not drop")
	}
	s.sees(t, "adopted", false, false)
	check(t, s.c.Replace(t.Context(), s.plan(12, s.routed(5, 0))))
	s.refresh(t, 12)
	s.restartPhone(t)
	s.sees(t, "planned again", true, true)
}

func list(t testing.TB, nft string) string {
	t.Helper()
	out, err := exec.Command(nft, "list", "table", "inet", host.Table).CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return string(out)
}

// Killed between any two steps of a demotion or a promotion, the device never has more
// than the freer of both, and after a demotion's first step not even that.
func TestKilledBetweenSteps(t *testing.T) {
	nft := testneed.Program(t, "nft")
	if !inside(t) {
		return
	}
	s := newSite(t)
	armed := filepath.Join(s.dir, "armed")
	revision, tighten := int64(10), uint64(0)
	for _, where := range []string{"table", "link"} {
		for _, demotes := range []bool{true, false} {
			when := fmt.Sprintf("killed after the %s, demotion %v", where, demotes)
			os.Remove(armed)
			s.kill(t)
			s.start(t, where)
			s.connected(t)
			revision++
			before, after := s.quarantined(revision, tighten), s.routed(revision+1, tighten)
			if demotes {
				tighten++
				before, after = s.routed(revision, tighten), s.quarantined(revision+1, tighten)
			}
			check(t, s.c.Replace(t.Context(), s.plan(revision, before)))
			s.refresh(t, revision)
			check(t, os.WriteFile(armed, nil, 0o600))
			want(t, s.c.Apply(t.Context(), after), quarantine.ErrNotEnforced)
			s.cmd.Wait()
			expect(t, s.c, Disconnected)
			if strings.Contains(list(t, nft), "10.77.0.2") == demotes {
				t.Errorf("%s: routed is %v", when, !demotes)
			}
			os.Remove(armed)
			s.start(t, "")
			s.connected(t)
			check(t, s.c.Replace(t.Context(), s.plan(revision+1, after)))
			s.refresh(t, revision+1)
			s.restartPhone(t)
			s.sees(t, when+", started again", true, !demotes)
			revision++
		}
	}
}

// visitor gives an order as whoever it is, until it is answered or told why not.
func visitor() int {
	c := Connect(filepath.Join(os.Getenv(dirVariable), "control"))
	defer c.Close()
	select {
	case <-c.Events(): // the first says whether there is a connection, and comes after it
	case <-time.After(soon):
	}
	err := c.Apply(context.Background(), in66(1, 1))
	fmt.Println(err)
	switch {
	case err == nil || strings.Contains(err.Error(), "no plan yet"):
		return 0
	case errors.Is(err, errHungUp):
		return 4
	}
	return 3
}

// Everybody may connect, and nobody but the listed user is heard: not even root. Only
// root can be somebody else.
func TestUsersAsRoot(t *testing.T) {
	testneed.Root(t, "to connect as another user")
	dir, err := os.MkdirTemp("/tmp", "lazaret-users-") // t.TempDir is closed to other users
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	check(t, os.Chmod(dir, 0o755))
	run(t, func(c *Config) {
		c.Listen = func() (*net.UnixListener, error) { return Listen(filepath.Join(dir, "control"), -1) }
		c.UIDs = []uint32{65533}
	})
	for uid, status := range map[uint32]int{65533: 0, 65532: 4, 0: 4} {
		c := exec.Command("/proc/self/exe")
		c.Env = []string{roleVariable + "=visitor", dirVariable + "=" + dir}
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 65534}}
		out, err := c.CombinedOutput()
		if c.ProcessState == nil {
			t.Fatalf("starting as user %d: %v", uid, err)
		}
		if got := c.ProcessState.ExitCode(); got != status {
			t.Errorf("user %d: status %d, want %d (%s)", uid, got, status, out)
		}
	}
}
