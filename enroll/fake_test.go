package enroll

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/firewall"
	"lazaret/internal/seal"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// memory is a Store and a Gate in memory, with the compare and the unique indexes that
// the contract of Store asks for.
type memory struct {
	mu       sync.Mutex
	revision int64
	otps     map[string]OTP
	devices  map[quarantine.ID]quarantine.Record
	writes   []string // audit actions of all writes
	reads    atomic.Int64

	fail     error                 // every call fails with it
	stale    *OTP                  // answers the next read of an OTP
	lag      bool                  // the gate has not heard of new devices yet
	onIssue  func(*Issuance) error // looks in before an issue
	clock    func() time.Time      // of the store's own expiry check
	noClock  error                 // answers SigningTime
	profiles map[string]quarantine.Profile
	pools    map[string]quarantine.Pool
}

func newMemory() *memory {
	full := quarantine.Pool{Name: "full", Mark: 1, IPv4: netip.MustParsePrefix("10.20.0.0/16"), IPv6: netip.MustParsePrefix("fd00:20::/64"),
		Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}
	home := quarantine.Pool{Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.10.0.0/16"), IPv6: netip.MustParsePrefix("fd00:10::/64"),
		Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 443}}}
	return &memory{
		otps: map[string]OTP{}, devices: map[quarantine.ID]quarantine.Record{}, clock: time.Now,
		pools: map[string]quarantine.Pool{"full": full, "quarantine": home},
		profiles: map[string]quarantine.Profile{
			"plain":   {Name: "plain", Pool: "full"},
			"approve": {Name: "approve", Pool: "full", NeedApproval: true},
			"skip":    {Name: "skip", Pool: "full", SkipQuarantine: true},
			"rsa":     {Name: "rsa", Pool: "full", AllowRSA: true},
			"serial":  {Name: "serial", Pool: "full", NeedSerial: true},
			"linux":   {Name: "linux", Pool: "full", Platforms: []string{"linux"}, Ownerships: []string{"corporate"}},
		},
	}
}

// down makes every call fail with err, until it is called with nil.
func (m *memory) down(err error) {
	defer m.enter()()
	m.fail = err
}

func (m *memory) enter() func() { m.mu.Lock(); return m.mu.Unlock }

func (m *memory) CreateOTP(_ context.Context, _ quarantine.Actor, o OTP) error {
	defer m.enter()()
	if m.fail != nil {
		return m.fail
	}
	if _, there := m.otps[o.Reference]; there {
		return ErrExists
	}
	m.put(o, "otp.create")
	return nil
}

func (m *memory) put(o OTP, action string) {
	m.revision++
	o.Revision = m.revision
	m.otps[o.Reference] = o
	m.writes = append(m.writes, action)
}

func (m *memory) OTP(_ context.Context, reference string) (OTP, error) {
	defer m.enter()()
	m.reads.Add(1)
	if m.fail != nil {
		return OTP{}, m.fail
	}
	if o := m.stale; o != nil {
		m.stale = nil
		return *o, nil
	}
	o, there := m.otps[reference]
	if !there {
		return OTP{}, ErrNoOTP
	}
	return o, nil
}

func (m *memory) OTPs(context.Context) ([]OTP, error) {
	defer m.enter()()
	return slices.SortedFunc(maps.Values(m.otps), func(a, b OTP) int { return a.Created.Compare(b.Created) }), m.fail
}

func (m *memory) UpdateOTP(_ context.Context, _ quarantine.Actor, action string, o OTP) error {
	defer m.enter()()
	if m.fail != nil {
		return m.fail
	}
	if m.otps[o.Reference].Revision != o.Revision {
		return quarantine.ErrConflict
	}
	m.put(o, action)
	return nil
}

func (m *memory) SigningTime(context.Context) (time.Time, error) {
	defer m.enter()()
	return m.clock(), errors.Join(m.fail, m.noClock)
}

func (m *memory) Issue(_ context.Context, i Issuance) (quarantine.Record, error) {
	defer m.enter()()
	if m.fail != nil {
		return quarantine.Record{}, m.fail
	}
	if m.onIssue != nil {
		if err := m.onIssue(&i); err != nil {
			return quarantine.Record{}, err
		}
	}
	stored, there := m.otps[i.OTP.Reference]
	old, known := m.devices[i.Record.ID]
	switch {
	case !there:
		return quarantine.Record{}, ErrNoOTP
	case stored.State == Expired:
		return quarantine.Record{}, ErrExpired
	case stored.State != Pending:
		return quarantine.Record{}, ErrUsed
	case !m.clock().Before(stored.Expires):
		return quarantine.Record{}, ErrExpired
	case stored.Revision != i.OTP.Revision || i.Retires != nil && old.Revision != i.Retires.Revision:
		return quarantine.Record{}, quarantine.ErrConflict
	case known && i.Retires == nil:
		return quarantine.Record{}, &TakenError{"device id"}
	}
	stored.State, stored.Answer = Issued, i.OTP.Answer
	if err := m.taken(i.Record); err != nil {
		return quarantine.Record{}, err
	}
	r := i.Record
	if r.Seat = old.Seat; r.Seat == 0 {
		r.Seat = m.freeSeat()
	}
	if r.Seat > i.LastSeat {
		return quarantine.Record{}, ErrFull
	}
	m.put(stored, "device.enroll")
	r.Revision = m.revision
	m.devices[r.ID] = r
	return r, nil
}

func (m *memory) freeSeat() quarantine.Seat {
	seat := quarantine.Seat(1)
	for _, d := range m.devices {
		seat = max(seat, d.Seat+1)
	}
	return seat
}

func (m *memory) taken(r quarantine.Record) error {
	for _, d := range m.devices {
		if d.ID == r.ID || d.Stage == quarantine.Revoked {
			continue
		}
		keys := []tunnel.Key{r.Key, r.Next}
		switch {
		case d.Name == r.Name:
			return &TakenError{"name"}
		case slices.Contains(keys, d.Key) || !d.Next.IsZero() && slices.Contains(keys, d.Next):
			return &TakenError{"WireGuard key"}
		case d.Certificate.SPKI == r.Certificate.SPKI:
			return &TakenError{"certificate key"}
		}
	}
	return nil
}

func (m *memory) Renewed(_ context.Context, _ quarantine.Change, next quarantine.Record) (int64, error) {
	defer m.enter()()
	if m.fail != nil {
		return 0, m.fail
	}
	old, known := m.devices[next.ID]
	switch {
	case !known:
		return 0, quarantine.ErrUnknownDevice
	case old.Revision != next.Revision:
		return 0, quarantine.ErrConflict
	}
	if err := m.taken(next); err != nil {
		return 0, err
	}
	m.write(next, "device.renew")
	return m.revision, nil
}

func (m *memory) write(r quarantine.Record, action string) {
	m.revision++
	r.Revision = m.revision
	m.devices[r.ID] = r
	m.writes = append(m.writes, action)
}

func (m *memory) find(match func(quarantine.Record) bool) (quarantine.Record, error) {
	defer m.enter()()
	if m.fail != nil {
		return quarantine.Record{}, m.fail
	}
	for _, d := range m.devices {
		if match(d) {
			return d, nil
		}
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

func (m *memory) Device(_ context.Context, id quarantine.ID) (quarantine.Record, error) {
	return m.find(func(r quarantine.Record) bool { return r.ID == id })
}

func (m *memory) ByKey(_ context.Context, spki [32]byte) (quarantine.Record, error) {
	return m.find(func(r quarantine.Record) bool { return r.Certificate.SPKI == spki && r.Stage != quarantine.Revoked })
}

func (m *memory) ByWireGuard(_ context.Context, k tunnel.Key) (quarantine.Record, error) {
	return m.find(func(r quarantine.Record) bool {
		return !k.IsZero() && (r.Key == k || r.Next == k) && r.Stage != quarantine.Revoked
	})
}

func (m *memory) Profile(_ context.Context, name string) (quarantine.Profile, error) {
	p, there := m.profiles[name]
	if !there {
		return quarantine.Profile{}, ErrNoProfile
	}
	return p, nil
}

func (m *memory) Pools(context.Context) (map[string]quarantine.Pool, error) { return m.pools, nil }

// Admit places by the real rules, with the real policy.
func (m *memory) Admit(r quarantine.Record) (quarantine.Record, error) {
	now := m.clock()
	return r.Settle(quarantine.Place(quarantine.Facts{
		Now: now, Record: r, Profile: m.profiles[r.Profile], Pools: m.pools, Policy: quarantine.PlainPolicy{},
	}), now), nil
}

func (m *memory) change(id quarantine.ID, c quarantine.Change) (quarantine.Placement, error) {
	r, err := m.Device(context.Background(), id)
	if err != nil {
		return quarantine.Placement{}, err
	}
	c.Device, c.At = id, m.clock()
	next, err := r.With(c)
	if err != nil {
		return quarantine.Placement{}, err
	}
	next, _ = m.Admit(next)
	defer m.enter()()
	m.write(next, "device."+string(c.Kind))
	return quarantine.Placement{Stage: next.Stage}, nil
}

func (m *memory) Confirm(_ context.Context, by quarantine.Actor, id quarantine.ID) (quarantine.Placement, error) {
	if m.lag {
		return quarantine.Placement{}, quarantine.ErrUnknownDevice
	}
	return m.change(id, quarantine.Change{Kind: quarantine.Confirm, By: by})
}

func (m *memory) Revoke(_ context.Context, by quarantine.Actor, id quarantine.ID, why string) (quarantine.Placement, error) {
	if by.Name == "" || by.Kind == "otp" || by.Kind == "device" { // as the real gate
		return quarantine.Placement{}, quarantine.ErrForbidden
	}
	return m.change(id, quarantine.Change{Kind: quarantine.Revoke, By: by, Why: why})
}

// live counts the devices that are not revoked.
func (m *memory) live() int {
	defer m.enter()()
	n := 0
	for _, d := range m.devices {
		if d.Stage != quarantine.Revoked {
			n++
		}
	}
	return n
}

func (m *memory) state() string {
	defer m.enter()()
	return fmt.Sprint(m.otps, m.devices)
}

// counting counts what the desk asks of sealer and authority.
type counting struct {
	*seal.Ring
	*pki.Authority
	opened, issued atomic.Int64
}

func (c *counting) Open(context string, sealed []byte) ([]byte, error) {
	c.opened.Add(1)
	return c.Ring.Open(context, sealed)
}

func (c *counting) Issue(ctx context.Context, r pki.Request) (*x509.Certificate, error) {
	c.issued.Add(1)
	return c.Authority.Issue(ctx, r)
}

// notebook is an Auditor.
type notebook struct {
	mu     sync.Mutex
	events []Event
}

func (n *notebook) Audit(_ context.Context, e Event) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	return nil
}

func (n *notebook) all() []Event {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

func (n *notebook) has(action, why string) bool {
	return slices.ContainsFunc(n.all(), func(e Event) bool { return e.Action == action && contains(e.Why, why) })
}

// gateway is a desk and all it stands on. The clock is moved by hand.
type gateway struct {
	*Desk
	store     *memory
	made      *counting
	log       *notebook
	hierarchy pki.Hierarchy
	clock     atomic.Pointer[time.Time]
	config    Config
}

// hierarchy is made once: its keys are of no interest to any test.
var hierarchy = sync.OnceValues(func() (pki.Hierarchy, error) {
	return pki.NewHierarchy(pki.HierarchyConfig{Organization: "Test"})
})

func newGateway(t testing.TB, change ...func(*Config)) *gateway {
	t.Helper()
	h, err := hierarchy()
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{store: newMemory(), log: &notebook{}, hierarchy: h}
	g.at(time.Now().Truncate(time.Second))
	now := func() time.Time { return *g.clock.Load() }
	g.store.clock = now
	a, err := pki.New(pki.Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	g.made = &counting{Ring: seal.New(), Authority: a}
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	g.config = Config{
		Store: g.store, Issuer: g.made, Gate: g.store, Organization: g.store, Sealer: g.made, Audit: g.log,
		Log: slog.New(slog.DiscardHandler),
		Responder: func() Responder {
			return Responder{Key: h.Responder.Key, Certs: []*x509.Certificate{h.Responder.Certificate, a.Issuing(pki.Responder)}}
		},
		ProofKeys: []ProofKey{{ID: "p1", Key: key}},
		Gateways: func() []cmp.Gateway {
			return []cmp.Gateway{{Name: "gw1", WireGuard: tunnel.Key{9}.String(), Endpoints: []string{"gw1.example.com:51820"},
				Tunnel: []netip.Addr{netip.MustParseAddr("10.10.0.1"), netip.MustParseAddr("fd00:10::1")}}}
		},
		ListenerKeys: func() [][]byte { s := sha256.Sum256([]byte("listener")); return [][]byte{s[:]} },
		AllowSHA1:    true, Clock: now,
		Limits: Limits{Delay: time.Nanosecond},
	}
	for _, c := range change {
		c(&g.config)
	}
	g.restart(t)
	return g
}

// restart makes a new desk over the same store, as after a crash.
func (g *gateway) restart(t testing.TB) {
	t.Helper()
	d, err := New(g.config)
	if err != nil {
		t.Fatal(err)
	}
	g.Desk = d
	g.made.opened.Store(0)
}

func (g *gateway) at(now time.Time)      { g.clock.Store(&now) }
func (g *gateway) later(d time.Duration) { g.at(g.clock.Load().Add(d)) }

var administrator = quarantine.Actor{Kind: "administrator", Name: "root"}

var errDown = errors.New("the store is down")
