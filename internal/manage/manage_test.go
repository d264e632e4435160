package manage

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

// memory is a Store.
type memory struct {
	items map[string]Item
	rev   int64
	fail  error
	puts  int
}

func (s *memory) List(_ context.Context, prefix string) (all []Item, err error) {
	for name, it := range s.items {
		if strings.HasPrefix(name, prefix) {
			all = append(all, it)
		}
	}
	return all, s.fail
}
func (s *memory) Get(_ context.Context, name string) (Item, error) {
	it, ok := s.items[name]
	if !ok {
		return it, ErrNotFound
	}
	return it, s.fail
}
func (s *memory) Put(_ context.Context, _ quarantine.Actor, it Item) (Item, error) {
	if s.fail != nil {
		return it, s.fail
	}
	if s.items[it.Name].Revision != it.Revision {
		return it, quarantine.ErrConflict
	}
	s.rev++
	s.puts++
	it.Revision = s.rev
	s.items[it.Name] = it
	return it, nil
}
func (s *memory) Delete(_ context.Context, _ quarantine.Actor, name string) error {
	delete(s.items, name)
	return s.fail
}

// fakeGate has devices, and remembers changes.
type fakeGate struct {
	mu      sync.Mutex // guards what follows while Run is running
	records map[quarantine.ID]quarantine.Record
	changes []quarantine.Change
	fail    error
}

func (g *fakeGate) Change(_ context.Context, _ quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changes = append(g.changes, c)
	r := g.records[c.Device]
	d := quarantine.Decision{By: c.By, At: c.At, Why: c.Why}
	switch c.Kind {
	case quarantine.Wipe:
		r.Wipe = d
	case quarantine.Revoke:
		if g.fail == nil {
			r.Revocation = d
		}
	}
	g.records[c.Device] = r
	return quarantine.Placement{}, g.fail
}
func (g *fakeGate) Device(id string) (quarantine.Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.records[quarantine.ID(id)]
	if !ok {
		return r, quarantine.ErrUnknownDevice
	}
	return r, nil
}
func (g *fakeGate) Devices() (all []quarantine.Record) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Collect(maps.Values(g.records))
}

// failing has changes fail from now on, or no more.
func (g *fakeGate) failing(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail = err
}

// told returns the changes so far.
func (g *fakeGate) told() []quarantine.Change {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.changes)
}

// lab is a command desk, and one device with what it takes to speak to it.
type lab struct {
	*Manager
	t      *testing.T
	store  *memory
	gate   *fakeGate
	audit  []Event
	clock  time.Time
	key    *ecdsa.PrivateKey // the device's
	peer   Peer
	seq    uint64
	signer crypto.Signer
	chain  []*x509.Certificate
}

var admin = quarantine.Actor{Kind: "administrator", Name: "alice"}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func leaf(key *ecdsa.PrivateKey, usage ...asn1.ObjectIdentifier) *x509.Certificate {
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "d-1"}, NotAfter: time.Now().Add(time.Hour), UnknownExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, c, key.Public(), key))))
}

func newLab(t *testing.T) *lab {
	t.Helper()
	signer := newKey()
	l := &lab{t: t, store: &memory{items: map[string]Item{}}, clock: time.Now(), key: newKey(), signer: signer, chain: []*x509.Certificate{leaf(signer, agentapi.OIDSigner)},
		gate: &fakeGate{records: map[quarantine.ID]quarantine.Record{"d-1": {Device: quarantine.Device{ID: "d-1", Stage: quarantine.Quarantined}}, "d-2": {Device: quarantine.Device{ID: "d-2"}}}}}
	l.peer = Peer{Record: l.gate.records["d-1"], Leaf: leaf(l.key), Binding: bytes.Repeat([]byte{7}, agentapi.BindingLength)}
	l.start()
	return l
}

// start makes the desk anew, from what is stored.
func (l *lab) start() {
	l.t.Helper()
	m, err := New(l.t.Context(), Config{Store: l.store, Gate: l.gate, Name: "gw", Log: slog.New(slog.DiscardHandler),
		Audit:  func(_ context.Context, e Event) error { l.audit = append(l.audit, e); return nil },
		Signer: func() (crypto.Signer, []*x509.Certificate) { return l.signer, l.chain }, Now: func() time.Time { return l.clock }})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Manager = m
}

// talk is the device's half of a session.
type talk struct {
	l       *lab
	hello   agentapi.Hello
	welcome agentapi.Welcome
	number  uint64
}

// greet says hello; the number is the next one unless the gateway knows a higher one.
func (l *lab) greet() *talk {
	l.t.Helper()
	for range 2 {
		l.seq++
		c := &talk{l: l, hello: agentapi.Hello{Version: 1, Device: "d-1", Sequence: l.seq, Nonce: random(32)}}
		w, err := l.Hello(l.t.Context(), l.peer, c.hello)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := w.Verify(agentapi.Signer{Key: l.signer.Public()}, l.peer.Binding, c.hello); err != nil {
			l.t.Fatal(err)
		}
		if c.welcome = w; !w.Resync {
			return c
		}
		l.seq = w.Sequence
	}
	l.t.Fatal("told twice to go on elsewhere")
	return nil
}

// message makes the next message.
func (c *talk) message(executed uint64, results ...agentapi.Result) agentapi.Exchange {
	c.number++
	x := agentapi.Exchange{Session: c.welcome.Session, Number: c.number, Executed: executed}
	if c.number == 1 {
		x.Proof = must(c.welcome.Prove(c.l.key, c.l.peer.Binding, c.hello, executed))
	}
	for _, r := range results {
		r.Version, r.Device, r.Session = 1, "d-1", c.welcome.Session
		x.Results = append(x.Results, must(r.Sign(c.l.key)))
	}
	return x
}

// say sends it, and returns the commands that come.
func (c *talk) say(executed uint64, results ...agentapi.Result) []agentapi.Command {
	c.l.t.Helper()
	o, err := c.l.Exchange(c.l.t.Context(), c.l.peer, c.message(executed, results...))
	if err != nil {
		c.l.t.Fatal(err)
	}
	if len(o.Taken) != len(results) || o.Check(c.number) != nil {
		c.l.t.Fatalf("of %d results %v were taken", len(results), o.Taken)
	}
	var all []agentapi.Command
	for _, s := range o.Commands {
		all = append(all, must(agentapi.OpenCommand(s, agentapi.Signer{Key: c.l.signer.Public()}, "d-1", c.welcome.Session)))
	}
	return all
}

func answer(c agentapi.Command, state string) agentapi.Result {
	return agentapi.Result{Command: c.ID, Sequence: c.Sequence, Kind: c.Kind, State: state}
}

func (l *lab) issue(kind string) Command {
	l.t.Helper()
	o := Order{Kind: kind, Why: "because"}
	if kind == agentapi.Notify {
		o.Args = map[string]string{"text": "hello"}
	}
	c, err := l.Issue(l.t.Context(), admin, "d-1", o)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) state(id string) State {
	l.t.Helper()
	for _, c := range l.List("d-1") {
		if c.ID == id {
			return c.State
		}
	}
	return ""
}

// TestCommandFromIssueToResult: issued, given in a session and no second time in it, given
// again in the next one, answered once; the audit log has both ends.
func TestCommandFromIssueToResult(t *testing.T) {
	l := newLab(t)
	c := l.issue(agentapi.Lock)
	first := l.greet()
	got := first.say(0)
	if len(got) != 1 || got[0].ID != c.ID || got[0].Kind != agentapi.Lock || got[0].Sequence != 1 || l.state(c.ID) != Sent {
		t.Fatalf("given %+v, and it is %s", got, l.state(c.ID))
	}
	if again := first.say(1); len(again) != 0 {
		t.Errorf("given again in the same session: %+v", again)
	}
	next := l.greet()
	if again := next.say(1); len(again) != 1 || again[0].ID != c.ID {
		t.Errorf("in the next session: %+v", again)
	}
	next.say(1, answer(got[0], agentapi.Done))
	next.say(1, answer(got[0], agentapi.Failed)) // told again, as another thing
	if l.state(c.ID) != Done {
		t.Errorf("it is %s", l.state(c.ID))
	}
	var actions []string
	for _, e := range l.audit {
		actions = append(actions, e.Action+" "+e.By.Name+" "+e.Detail["state"])
	}
	if want := []string{"command.issue alice ", "command.result d-1 done"}; !slices.Equal(actions, want) {
		t.Errorf("audit log: %q, want %q", actions, want)
	}
	if more := l.greet().say(1); len(more) != 0 {
		t.Errorf("given although it is over: %+v", more)
	}
}

// TestSessionIsBound: what is not of the device, the connection, the session and its place
// in it is refused, and changes nothing.
func TestSessionIsBound(t *testing.T) {
	foreign := newKey()
	for name, spoil := range map[string]func(l *lab, c *talk, p *Peer, x *agentapi.Exchange){
		"another connection": func(_ *lab, _ *talk, p *Peer, _ *agentapi.Exchange) {
			p.Binding = bytes.Repeat([]byte{8}, agentapi.BindingLength)
		},
		"no connection":            func(_ *lab, _ *talk, p *Peer, _ *agentapi.Exchange) { p.Binding = nil },
		"another certificate":      func(_ *lab, _ *talk, p *Peer, _ *agentapi.Exchange) { p.Leaf = leaf(foreign) },
		"another device":           func(l *lab, _ *talk, p *Peer, _ *agentapi.Exchange) { p.Record = l.gate.records["d-2"] },
		"another session":          func(_ *lab, _ *talk, _ *Peer, x *agentapi.Exchange) { x.Session = random(16) },
		"the second message first": func(_ *lab, _ *talk, _ *Peer, x *agentapi.Exchange) { x.Number = 2 },
		"no proof":                 func(_ *lab, _ *talk, _ *Peer, x *agentapi.Exchange) { x.Proof = nil },
		"a proof of another key": func(l *lab, c *talk, _ *Peer, x *agentapi.Exchange) {
			x.Proof = must(c.welcome.Prove(foreign, l.peer.Binding, c.hello, 0))
		},
		"a proof for elsewhere": func(_ *lab, c *talk, p *Peer, x *agentapi.Exchange) {
			x.Proof = must(c.welcome.Prove(c.l.key, bytes.Repeat([]byte{9}, 32), c.hello, 0))
		},
		"a proof of other commands":   func(_ *lab, _ *talk, _ *Peer, x *agentapi.Exchange) { x.Executed = 1 },
		"the gateway's own signature": func(_ *lab, c *talk, _ *Peer, x *agentapi.Exchange) { x.Proof = c.welcome.Signature },
		"a silent session":            func(l *lab, _ *talk, _ *Peer, _ *agentapi.Exchange) { l.clock = l.clock.Add(idle) },
		"a forged result": func(_ *lab, c *talk, _ *Peer, x *agentapi.Exchange) {
			r := agentapi.Result{Version: 1, Command: "c-1", Device: "d-1", Session: c.welcome.Session, Kind: "lock", State: "done"}
			x.Results = []agentapi.Signed{must(r.Sign(foreign))}
		},
		"a result of another session": func(l *lab, _ *talk, _ *Peer, x *agentapi.Exchange) {
			r := agentapi.Result{Version: 1, Command: "c-1", Device: "d-1", Session: random(16), Kind: "lock", State: "done"}
			x.Results = []agentapi.Signed{must(r.Sign(l.key))}
		},
	} {
		l := newLab(t)
		c := l.issue(agentapi.Lock)
		s := l.greet()
		p, x := l.peer, s.message(0)
		spoil(l, s, &p, &x)
		if _, err := l.Exchange(t.Context(), p, x); !errors.Is(err, ErrSession) {
			t.Errorf("%s: %v", name, err)
		}
		if l.state(c.ID) != Queued {
			t.Errorf("%s: the command is %s", name, l.state(c.ID))
		}
	}
}

// TestReplays: neither a hello nor a message is taken twice, and a hello by somebody who
// cannot prove himself disturbs no session.
func TestReplays(t *testing.T) {
	l := newLab(t)
	c := l.greet()
	first := c.message(0)
	if _, err := l.Exchange(t.Context(), l.peer, first); err != nil {
		t.Fatal(err)
	}
	if w, err := l.Hello(t.Context(), l.peer, c.hello); err != nil || !w.Resync || w.Sequence < c.hello.Sequence {
		t.Errorf("the hello again: %+v, %v", w, err)
	}
	stranger := c.hello
	stranger.Sequence, stranger.Nonce = l.seq+1, random(32)
	if _, err := l.Hello(t.Context(), l.peer, stranger); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Exchange(t.Context(), l.peer, c.message(0)); err != nil {
		t.Errorf("the session after a stranger's hello: %v", err)
	}
	for _, x := range []agentapi.Exchange{first, {Session: c.welcome.Session, Number: 4}} {
		if _, err := l.Exchange(t.Context(), l.peer, x); !errors.Is(err, ErrSession) {
			t.Errorf("message %d after the second: %v", x.Number, err)
		}
	}
	if _, err := l.Exchange(t.Context(), l.peer, agentapi.Exchange{Session: c.welcome.Session, Number: 3}); !errors.Is(err, ErrSession) {
		t.Errorf("a session goes on after a message out of its place: %v", err)
	}
	far := agentapi.Hello{Version: 1, Device: "d-1", Sequence: l.seq + 1 + farthest*2, Nonce: random(32)}
	if _, err := l.Hello(t.Context(), l.peer, far); !errors.Is(err, ErrSession) {
		t.Errorf("a number far ahead: %v", err)
	}
	other := agentapi.Hello{Version: 1, Device: "d-2", Sequence: l.seq + 9, Nonce: random(32)}
	if _, err := l.Hello(t.Context(), l.peer, other); !errors.Is(err, ErrSession) {
		t.Errorf("another device's hello: %v", err)
	}
}

// TestTwoAtOnce: of two sessions that were greeted together, one is.
func TestTwoAtOnce(t *testing.T) {
	l := newLab(t)
	a := l.greet()
	b := l.greet()
	if _, err := l.Exchange(t.Context(), l.peer, a.message(0)); !errors.Is(err, ErrSession) {
		t.Errorf("the first: %v", err)
	}
	b.say(0)
}

// TestResync: a device that was restored from a backup, and a gateway that was started anew
// or restored, agree again in one step; no number is used twice, and of a hello that was
// answered with a resync nothing can be made.
func TestResync(t *testing.T) {
	l := newLab(t)
	for range 3 {
		l.greet().say(0)
	}
	l.seq = 0 // the device
	stale := agentapi.Hello{Version: 1, Device: "d-1", Sequence: 1, Nonce: random(32)}
	w := must(l.Hello(t.Context(), l.peer, stale))
	if !w.Resync || w.Sequence != 3 || w.Verify(agentapi.Signer{Key: l.signer.Public()}, l.peer.Binding, stale) != nil {
		t.Fatalf("a device that is behind is told %+v", w)
	}
	x := agentapi.Exchange{Session: w.Session, Number: 1, Proof: must(w.Prove(l.key, l.peer.Binding, stale, 0))}
	if _, err := l.Exchange(t.Context(), l.peer, x); !errors.Is(err, ErrSession) {
		t.Errorf("a session grew from a resync: %v", err)
	}
	l.greet().say(0)
	if l.seq != 4 {
		t.Errorf("the device goes on at %d", l.seq)
	}
	l.start() // the gateway, which had set numbers apart
	l.greet().say(0)
	if l.seq <= 4 || l.seq > 4+2*ahead {
		t.Errorf("after a restart the device goes on at %d", l.seq)
	}
	old := l.store.items[prefix+"d-1"]
	for range 3 * ahead {
		l.greet().say(0)
	}
	before := l.seq
	it := l.store.items[prefix+"d-1"]
	it.Value = old.Value
	l.store.items[prefix+"d-1"] = it
	l.start() // restored from a backup: the device is ahead
	l.greet().say(0)
	if l.seq != before+1 {
		t.Errorf("a device that is ahead of a restored gateway goes on at %d, not %d", l.seq, before+1)
	}
	if n := l.store.puts; n > 20 {
		t.Errorf("%d sessions were written down %d times", before, n)
	}
}

// TestRestoredGatewayNumbersAnew: commands that a restored gateway still holds unsent get
// numbers above those that the device has left behind, and so do new ones.
func TestRestoredGatewayNumbersAnew(t *testing.T) {
	l := newLab(t)
	a := l.issue(agentapi.Lock)
	got := l.greet().say(9) // it has executed nine that this gateway knows nothing of
	if len(got) != 1 || got[0].ID != a.ID || got[0].Sequence != 10 {
		t.Errorf("given %+v", got)
	}
	if b := l.issue(agentapi.Pool); b.Sequence != 11 {
		t.Errorf("a new one has number %d", b.Sequence)
	}
	s := l.greet()
	s.say(12, agentapi.Result{Command: "c-lost", Sequence: 12, Kind: "lock", State: "done"}) // it was issued before the restore
	if last := l.audit[len(l.audit)-1]; last.Action != "command.result" || last.ID != "c-lost" {
		t.Errorf("the log's last entry is %+v", last)
	}
	if w := l.greet().welcome; w.Executed != 12 {
		t.Errorf("the device is told that it has executed %d", w.Executed)
	}
}

// TestQueueIsBounded: so many wait and no more; what is over makes room; what waits too
// long expires, and its result is taken all the same.
func TestQueueIsBounded(t *testing.T) {
	l := newLab(t)
	var all []Command
	for range MaxWaiting {
		all = append(all, l.issue(agentapi.Pool))
	}
	if _, err := l.Issue(t.Context(), admin, "d-1", Order{Kind: agentapi.Pool}); !errors.Is(err, ErrFull) {
		t.Errorf("one more: %v", err)
	}
	given := l.greet().say(0)
	if len(given) != MaxWaiting {
		t.Fatalf("%d were given", len(given))
	}
	l.greet().say(1, answer(given[0], agentapi.Done))
	l.issue(agentapi.Pool)
	if l.state(all[0].ID) != "" || l.state(all[1].ID) != Sent {
		t.Error("the wrong one made room")
	}
	l.clock = l.clock.Add(Life + time.Second)
	if l.state(all[1].ID) != Expired {
		t.Errorf("after its life it is %s", l.state(all[1].ID))
	}
	l.sweep(t.Context())
	s := l.greet()
	if more := s.say(2, answer(given[1], agentapi.Unknown)); len(more) != 0 {
		t.Errorf("expired, and given: %+v", more)
	}
	if l.state(all[1].ID) != Unknown {
		t.Errorf("a late result: %s", l.state(all[1].ID))
	}
	l.start()
	if len(l.List("d-1")) != MaxWaiting {
		t.Error("not kept")
	}
}

func TestOrdersThatAreNone(t *testing.T) {
	l := newLab(t)
	for _, o := range []Order{{Kind: "explode"}, {}, {Kind: agentapi.Lock, Life: MaxLife + 1}, {Kind: agentapi.Lock, Life: -1}, {Kind: agentapi.Lock, Args: map[string]string{"x": "y"}},
		{Kind: agentapi.Notify}, {Kind: agentapi.Lock, Why: strings.Repeat("x", 1001)}} {
		if _, err := l.Issue(t.Context(), admin, "d-1", o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := l.Issue(t.Context(), admin, "d-3", Order{Kind: agentapi.Lock}); !errors.Is(err, quarantine.ErrUnknownDevice) {
		t.Errorf("no such device: %v", err)
	}
	l.store.fail = errors.New("disk full")
	if _, err := l.Issue(t.Context(), admin, "d-1", Order{Kind: agentapi.Lock}); err == nil || len(l.List("d-1")) != 0 {
		t.Errorf("not kept, and issued: %v", err)
	}
}

func TestCancel(t *testing.T) {
	l := newLab(t)
	a, b := l.issue(agentapi.Lock), l.issue(agentapi.Pool)
	if c, err := l.Cancel(t.Context(), admin, "d-1", a.ID); err != nil || c.State != Cancelled {
		t.Errorf("%+v, %v", c, err)
	}
	if got := l.greet().say(0); len(got) != 1 || got[0].ID != b.ID {
		t.Errorf("given %+v", got)
	}
	for id, want := range map[string]error{a.ID: ErrBegun, b.ID: ErrBegun, "c-0": ErrNotFound} {
		if _, err := l.Cancel(t.Context(), admin, "d-1", id); !errors.Is(err, want) {
			t.Errorf("cancelling %s: %v", id, err)
		}
	}
}

// TestWipeRevokes: the word that a device is being wiped is the wipe, and after a moment
// the device is revoked by whoever ordered it, also where the gate did not take that at
// first.
func TestWipeRevokes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.Now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx) }()
		c := l.issue(agentapi.Wipe)
		if all := l.gate.told(); len(all) != 1 || all[0].Kind != quarantine.Wipe || !c.Standing {
			t.Fatalf("issued as %+v with %+v", c, all)
		}
		if _, err := l.Cancel(ctx, admin, "d-1", c.ID); !errors.Is(err, ErrInvalid) {
			t.Errorf("cancelled although the record orders it: %v", err)
		}
		s := l.greet()
		got := s.say(0)
		l.gate.failing(errors.New("store down"))
		l.greet().say(1, answer(got[0], agentapi.Begun))
		if all := l.gate.told(); l.state(c.ID) != Done || len(all) != 1 {
			t.Errorf("%s, and at once %+v", l.state(c.ID), all)
		}
		time.Sleep(farewell + time.Millisecond)
		synctest.Wait()
		if all := l.gate.told(); len(all) != 2 {
			t.Fatalf("after a moment: %+v", all)
		}
		l.gate.failing(nil)
		time.Sleep(2 * sweepEvery)
		synctest.Wait()
		all := l.gate.told()
		last := all[len(all)-1]
		if last.Kind != quarantine.Revoke || last.By != admin || !must(l.gate.Device("d-1")).Revocation.Set() {
			t.Errorf("in the end: %+v", last)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestStandingOrder: what a device's record orders is a command as long as it does, once; a
// failed one is given anew after a while.
func TestStandingOrder(t *testing.T) {
	l := newLab(t)
	r := l.gate.records["d-1"]
	if err := l.Follow(t.Context(), r); err != nil || len(l.List("d-1")) != 0 {
		t.Fatal("there is no order")
	}
	policy := quarantine.Actor{Kind: "policy", Name: "baseline"}
	r.Wipe = quarantine.Decision{By: policy, At: l.clock, Why: "jailbroken"}
	for range 3 {
		if err := l.Follow(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	all := l.List("d-1")
	if len(all) != 1 || all[0].By != policy || all[0].Why != "jailbroken" || all[0].Kind != agentapi.Wipe {
		t.Fatalf("%+v", all)
	}
	r.Wipe = quarantine.Decision{}
	if err := l.Follow(t.Context(), r); err != nil || l.state(all[0].ID) != Cancelled {
		t.Errorf("taken back: %s, %v", l.state(all[0].ID), err)
	}
	r.Wipe = quarantine.Decision{By: policy, At: l.clock.Add(time.Second)}
	l.clock = l.clock.Add(2 * time.Second)
	if err := l.Follow(t.Context(), r); err != nil || len(l.List("d-1")) != 2 {
		t.Fatalf("ordered again: %v", err)
	}
	got := l.greet().say(0)
	back := r
	back.Wipe = quarantine.Decision{}
	if err := l.Follow(t.Context(), back); err != nil || len(l.greet().say(2)) != 0 {
		t.Error("taken back after it was sent, and given again")
	}
	l.greet().say(2, answer(got[0], agentapi.Failed)) // it had arrived
	if err := l.Follow(t.Context(), r); err != nil || len(l.List("d-1")) != 2 {
		t.Error("given anew at once")
	}
	l.clock = l.clock.Add(again + time.Second)
	if err := l.Follow(t.Context(), r); err != nil || len(l.List("d-1")) != 3 {
		t.Error("not given anew")
	}
}

// TestRevokedDevicesGetNothing: no command, no wake-up, and what waited is taken back; a
// device that is gone leaves nothing.
func TestRevokedDevicesGetNothing(t *testing.T) {
	l := newLab(t)
	c := l.issue(agentapi.Lock)
	r := l.gate.records["d-1"]
	r.Revocation = quarantine.Decision{By: admin, At: l.clock}
	l.gate.records["d-1"] = r
	l.sweep(t.Context())
	if l.state(c.ID) != Cancelled {
		t.Errorf("it is %s", l.state(c.ID))
	}
	if _, err := l.Issue(t.Context(), admin, "d-1", Order{Kind: agentapi.Lock}); !errors.Is(err, quarantine.ErrFinal) {
		t.Errorf("a command: %v", err)
	}
	if _, err := l.Wakeup("d-1"); !errors.Is(err, quarantine.ErrFinal) {
		t.Errorf("a wake-up: %v", err)
	}
	delete(l.gate.records, "d-1")
	l.sweep(t.Context())
	if len(l.store.items) != 0 {
		t.Errorf("kept of a device that is gone: %v", l.store.items)
	}
}

// TestRevokedDevicesLeaveNothing: a day after its revocation nothing is kept of a device, and
// the audit log still says what became of its wipe.
func TestRevokedDevicesLeaveNothing(t *testing.T) {
	l := newLab(t)
	c := l.issue(agentapi.Lock)
	s := l.greet()
	got := s.say(0)
	s.say(0, answer(got[0], agentapi.Done))
	r := l.gate.records["d-1"]
	r.Revocation = quarantine.Decision{By: admin, At: l.clock}
	l.gate.records["d-1"] = r
	l.clock = l.clock.Add(keepRevoked - time.Minute)
	l.sweep(t.Context())
	if l.state(c.ID) != Done || len(l.store.items) != 1 {
		t.Errorf("within a day it is %s, of %v", l.state(c.ID), l.store.items)
	}
	l.clock = l.clock.Add(time.Minute)
	l.sweep(t.Context())
	if len(l.store.items) != 0 || l.knows("d-1") {
		t.Errorf("kept after a day: %v", l.store.items)
	}
	i := slices.IndexFunc(l.audit, func(e Event) bool { return e.Action == "command.result" && e.ID == c.ID })
	if i < 0 || l.audit[i].Detail["state"] != string(Done) || l.audit[i].Device != "d-1" {
		t.Errorf("the audit log says %+v", l.audit)
	}
}

// listener remembers announcements.
type listener struct{ all []Announcement }

func (w *listener) Wake(_ context.Context, a Announcement) { w.all = append(w.all, a) }

// TestWaking: a long poll ends when a command comes, and bears a wake-up that the device
// accepts; the next one does not until a while has passed, or another command came.
func TestWaking(t *testing.T) {
	l := newLab(t)
	var mdm listener
	l.Announce(&mdm)
	r := l.gate.records["d-1"]
	token, changed := l.Waiting(t.Context(), r, false)
	if token != "" || changed == nil {
		t.Fatal("woken for nothing")
	}
	c := l.issue(agentapi.Lock)
	select {
	case <-changed:
	default:
		t.Error("the poll goes on")
	}
	signer := agentapi.Signer{Key: l.signer.Public(), ID: agentapi.SignerID(l.chain[0])}
	var last uint64
	accept := func(token string) {
		t.Helper()
		w, err := agentapi.ParseWakeup(token)
		if err == nil {
			err = w.Verify(signer, "d-1", last, l.clock)
		}
		if err != nil {
			t.Errorf("wake-up %q: %v", token, err)
		}
		last = w.Counter
	}
	if len(mdm.all) != 1 || mdm.all[0].Command != c.ID || mdm.all[0].Kind != agentapi.Lock || mdm.all[0].Device != "d-1" {
		t.Fatalf("announced: %+v", mdm.all)
	}
	accept(mdm.all[0].Wake)
	token, _ = l.Waiting(t.Context(), r, false)
	accept(token)
	if token, _ = l.Waiting(t.Context(), r, false); token != "" {
		t.Error("woken again at once")
	}
	l.issue(agentapi.Pool)
	token, _ = l.Waiting(t.Context(), r, false)
	accept(token)
	if token, _ = l.Waiting(t.Context(), r, true); token == "" {
		t.Error("a device that was just started is not woken")
	}
	l.start() // which forgets who was woken, and not what was counted
	token, _ = l.Waiting(t.Context(), r, false)
	if l.clock = l.clock.Add(time.Millisecond); token == "" {
		t.Error("not woken after a restart")
	}
	l.clock = l.clock.Add(wakeAgain)
	token, _ = l.Waiting(t.Context(), r, false)
	accept(token)
	id := agentapi.SignerID(l.chain[0])
	if l.SignerChain("") == nil || l.SignerChain(strings.ToLower(big.NewInt(0).SetBytes(id[:]).Text(16))) != nil && id[0] > 15 {
		t.Error("the signer's chain is not told, or told in vain")
	}
}
