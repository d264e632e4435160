package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// fakeTable keeps the books that the kernel keeps. A method whose name is in fail
// returns that error; with half set it first does the deletions of a change alone, or
// of a filling the emptying, as a kernel in doubt may have.
type fakeTable struct {
	mu          sync.Mutex
	rules       firewall.Ruleset
	quarantined map[netip.Addr]bool
	routed      map[netip.Addr]firewall.Routed
	fresh       firewall.Deadline
	alive       firewall.Deadline
	fail        map[string][]error // taken from the front; the last one stays
	log         []string
}

func newFakeTable() *fakeTable {
	return &fakeTable{fail: map[string][]error{}, quarantined: map[netip.Addr]bool{}, routed: map[netip.Addr]firewall.Routed{}}
}

func (t *fakeTable) enter(name string) error {
	t.log = append(t.log, name)
	errs := t.fail[name]
	if len(errs) == 0 {
		return nil
	}
	if len(errs) > 1 {
		t.fail[name] = errs[1:]
	}
	return errs[0]
}

func (t *fakeTable) Adopt(r firewall.Ruleset) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("adopt"); err != nil {
		return err
	}
	t.hold(r, firewall.Elements{})
	return nil
}

func (t *fakeTable) Fill(r firewall.Ruleset, e firewall.Elements) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := "fill"
	if len(e.Quarantined)+len(e.Routed) == 0 {
		name = "fill empty"
	}
	if err := t.enter(name); err != nil {
		return err
	}
	t.hold(r, e)
	return nil
}

func (t *fakeTable) hold(r firewall.Ruleset, e firewall.Elements) {
	t.rules, t.fresh, t.alive = r, e.Fresh, e.Alive
	clear(t.quarantined)
	clear(t.routed)
	t.add(firewall.Change{AddQuarantined: e.Quarantined, AddRouted: e.Routed})
}

func (t *fakeTable) add(c firewall.Change) {
	for _, a := range c.AddQuarantined {
		t.quarantined[a] = true
	}
	for _, r := range c.AddRouted {
		if r.Until <= 0 || r.Mark == 0 {
			panic(fmt.Sprintf("a permanent or markless element: %+v", r))
		}
		t.routed[r.Addr] = r
	}
}

func (t *fakeTable) Apply(c firewall.Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.enter("apply")
	if err != nil && !errors.Is(err, firewall.ErrDoubt) {
		return err
	}
	for _, a := range c.DelQuarantined {
		delete(t.quarantined, a)
	}
	for _, a := range c.DelRouted {
		delete(t.routed, a)
	}
	if err == nil {
		t.add(c)
	}
	return err
}

func (t *fakeTable) Refresh(fresh, alive firewall.Deadline) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.enter("refresh"); err != nil {
		return err
	}
	t.fresh, t.alive = fresh, alive
	return nil
}

func (t *fakeTable) Verify() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.enter("verify")
}

// calls returns and forgets what was called.
func (t *fakeTable) calls() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.log
	t.log = nil
	return out
}

// fakeLink is WireGuard's bookkeeping.
type fakeLink struct {
	mu        sync.Mutex
	have      map[tunnel.Key]tunnel.Peer
	owner     map[netip.Prefix]tunnel.Key
	shaken    map[tunnel.Key]time.Time
	addresses []netip.Prefix
	fail      int                 // so many of the next Apply calls do the first half and fail
	refuse    map[tunnel.Key]bool // keys that it does not take
	before    func()              // called at each Apply; nil: nothing
	most      int                 // peers that it holds at the most; zero: any number
	tried     int                 // changes asked for
	closed    bool
	gone      bool // the interface was deleted
	down      bool // or set down
	opened    int  // so many times again
	stuck     bool // addresses cannot be set
}

func newFakeLink() *fakeLink {
	return &fakeLink{have: map[tunnel.Key]tunnel.Peer{}, owner: map[netip.Prefix]tunnel.Key{}, shaken: map[tunnel.Key]time.Time{}}
}

func (l *fakeLink) Apply(changes []tunnel.PeerChange) error {
	if l.before != nil {
		l.before()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.fail > 0 && len(changes) > 0 {
		l.fail--
		changes, err = changes[:len(changes)/2], errors.New("some peers failed")
	}
	l.tried += len(changes)
	var failed tunnel.Failures
	for _, c := range changes {
		if l.refuse[c.Peer.Key] && !c.Remove {
			failed = append(failed, tunnel.Failure{PeerChange: c, Err: tunnel.ErrPeer})
			continue
		}
		if _, there := l.have[c.Peer.Key]; !there && !c.Remove && l.most > 0 && len(l.have) >= l.most {
			failed = append(failed, tunnel.Failure{PeerChange: c, Err: errFull})
			continue
		}
		delete(l.have, c.Peer.Key)
		if c.Remove {
			delete(l.shaken, c.Peer.Key)
			continue
		}
		for _, a := range c.Peer.AllowedIPs { // taken from whoever had it
			if other, ok := l.have[l.owner[a]]; ok && l.owner[a] != c.Peer.Key {
				other.AllowedIPs = slices.DeleteFunc(slices.Clone(other.AllowedIPs), func(b netip.Prefix) bool { return a == b })
				l.have[other.Key] = other
			}
			l.owner[a] = c.Peer.Key
		}
		l.have[c.Peer.Key] = c.Peer
	}
	if err == nil && len(failed) > 0 {
		return failed
	}
	return err
}

// look is the kernel's view of the link: interface 1, up, unless something was done to it.
func (l *fakeLink) look(string) (Interface, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return Interface{}, errNoInterface
	}
	return Interface{Index: 1 + l.opened, Up: !l.down, Addresses: l.addresses}, nil
}

// fakeFlows notes what it is asked to forget.
type fakeFlows struct {
	mu     sync.Mutex
	forgot []netip.Addr
	fail   error
	called func() // at each call; nil: nothing
}

func (f *fakeFlows) Forget(_ context.Context, addrs ...netip.Addr) error {
	if f.called != nil {
		f.called()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgot = append(f.forgot, addrs...)
	return f.fail
}

var errFull = errors.New("too many peers")

func (l *fakeLink) Peers() ([]tunnel.PeerStatus, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []tunnel.PeerStatus
	for k, p := range l.have {
		out = append(out, tunnel.PeerStatus{Peer: p, LastHandshake: l.shaken[k]})
	}
	return out, nil
}

func (l *fakeLink) Handshakes(keys []tunnel.Key) (map[tunnel.Key]time.Time, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := maps.Clone(l.shaken)
	maps.DeleteFunc(out, func(k tunnel.Key, _ time.Time) bool { return !slices.Contains(keys, k) })
	return out, nil
}

func (l *fakeLink) SetAddresses(p []netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stuck {
		return errFull
	}
	l.addresses, l.down = p, false
	return nil
}

func (l *fakeLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return nil
}

// allowed returns the peer's addresses as text, sorted; nil for no peer.
func (l *fakeLink) allowed(k tunnel.Key) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.have[k]
	if !ok {
		return nil
	}
	out := []string{}
	for _, a := range p.AllowedIPs {
		out = append(out, a.Addr().String())
	}
	slices.Sort(out)
	return out
}

var host = firewall.Ruleset{Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour}

const control = "control-1"

// second is one second of a deadline; epoch is the fake clock's present.
const (
	second = firewall.Deadline(1e9)
	epoch  = 1000 * second
)

func somePlan(revision int64, entries ...quarantine.Entry) quarantine.Plan {
	return quarantine.Plan{
		Control: control, Revision: revision,
		Pools: []firewall.Pool{
			{Name: "quarantine", IPv4: netip.MustParsePrefix("10.66.0.0/16"), IPv6: netip.MustParsePrefix("fd66::/64"),
				Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443}}},
			{Name: "full", Mark: 7, IPv4: netip.MustParsePrefix("10.77.0.0/16"), IPv6: netip.MustParsePrefix("fd77::/64"),
				Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.0/24")}}},
		},
		Gateway: []netip.Prefix{netip.MustParsePrefix("10.66.0.1/16"), netip.MustParsePrefix("fd66::1/64"), netip.MustParsePrefix("10.77.0.1/16"), netip.MustParsePrefix("fd77::1/64")},
		Entries: entries,
	}
}

func peerKey(n int) tunnel.Key { return tunnel.Key{byte(n), byte(n >> 8), byte(n >> 16), 9} }

func id(n int) quarantine.ID { return quarantine.ID(fmt.Sprintf("device-%d", n)) }

func address(prefix byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, prefix, byte((n + 1) >> 8), byte(n + 1)})
}

// in66 is device n in quarantine, at a revision.
func in66(n int, revision int64) quarantine.Entry {
	return quarantine.Entry{Device: id(n), Key: peerKey(n), Quarantined: []netip.Addr{address(66, n)}, Revision: revision}
}

// in77 is device n routed, at a revision, for a minute of the fake clock.
func in77(n int, revision int64) quarantine.Entry {
	e := in66(n, revision)
	e.Routed, e.Mark, e.Until = []netip.Addr{address(77, n)}, 7, epoch+60*second
	return e
}

// fixture is a Plane with fakes under it, whose methods are called directly.
type fixture struct {
	*Plane
	table     *fakeTable
	link      *fakeLink
	flows     *fakeFlows
	times     Times
	forwarded int
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{table: newFakeTable(), link: newFakeLink(), flows: &fakeFlows{}, times: Times{Wall: time.Unix(2e9, 0), Boot: epoch, Monotonic: 1}}
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	var err error
	f.Plane, err = New(Config{
		Table: f.table, Host: host, Conn: a,
		OpenLink: func(context.Context) (Link, error) { return f.link, nil },
		Forward:  func() error { f.forwarded++; return nil },
		Clock:    func() Times { return f.times },
		Flows:    f.flows,

		Interface: f.link.look,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Plane.link, f.seen, f.index = f.link, f.times, 1
	return f
}

// planned is a fixture with a plan and freshness.
func planned(t testing.TB, entries ...quarantine.Entry) *fixture {
	t.Helper()
	f := newFixture(t)
	if err := f.replace(somePlan(10, entries...)); err != nil {
		t.Fatal(err)
	}
	if err := f.prolong(fresh(10)); err != nil {
		t.Fatal(err)
	}
	f.table.calls()
	return f
}

func fresh(revision int64) quarantine.Freshness {
	return quarantine.Freshness{Control: control, Revision: revision, Fresh: epoch + 60*second, Alive: epoch + 3600*second}
}

// agree fails t unless table and tunnel hold what the mirror says, save peers that are
// known to be missing.
func (f *fixture) agree(t interface {
	Helper()
	Errorf(string, ...any)
}) {
	t.Helper()
	want := f.mirror.elements(f.now())
	f.table.mu.Lock()
	defer f.table.mu.Unlock()
	if len(want.Quarantined) != len(f.table.quarantined) || len(want.Routed) != len(f.table.routed) {
		t.Errorf("the table holds %d and %d elements, the mirror %d and %d",
			len(f.table.quarantined), len(f.table.routed), len(want.Quarantined), len(want.Routed))
	}
	for _, a := range want.Quarantined {
		if !f.table.quarantined[a] {
			t.Errorf("%s is not quarantined in the table", a)
		}
	}
	for _, r := range want.Routed {
		if f.table.routed[r.Addr] != r {
			t.Errorf("the table routes %+v, the mirror %+v", f.table.routed[r.Addr], r)
		}
	}
	have, _ := f.link.Peers()
	seen := make([]tunnel.Peer, len(have))
	for i, s := range have {
		seen[i] = s.Peer
	}
	d := slices.DeleteFunc(tunnel.Diff(seen, f.mirror.peers()), func(c tunnel.PeerChange) bool { return f.lacking[c.Peer.Key] != nil && !c.Remove })
	if len(d) > 0 {
		t.Errorf("the tunnel is %d steps from the mirror: %+v", len(d), d)
	}
}

func want(t testing.TB, got, is error) {
	t.Helper()
	if is == nil && got != nil || !errors.Is(got, is) {
		t.Errorf("error %v, want %v", got, is)
	}
}

func same[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}
