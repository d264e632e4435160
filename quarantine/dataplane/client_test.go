package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// running is a Plane that runs over a socket, with fakes under it.
type running struct {
	*fixture
	path string
	stop func() error
}

func run(t testing.TB, change func(*Config)) *running {
	t.Helper()
	r := &running{fixture: newFixture(t), path: filepath.Join(t.TempDir(), "control")}
	c := r.config
	c.Conn = nil
	r.config.Conn = nil
	var err error
	c.Listen = func() (*net.UnixListener, error) { return Listen(r.path, -1) }
	if change != nil {
		change(&c)
	}
	if r.Plane, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	select {
	case <-r.Ready():
	case err := <-done:
		t.Fatalf("Run: %v", err)
	}
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *running) dial(t testing.TB) *Client {
	t.Helper()
	c, err := Dial(t.Context(), r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	expect(t, c, Connected)
	return c
}

func expect(t testing.TB, c *Client, k EventKind) Event {
	t.Helper()
	select {
	case e, ok := <-c.Events():
		if !ok || e.Kind != k {
			t.Fatalf("event %+v, want %s", e, k)
		}
		return e
	case <-time.After(10 * time.Second):
		t.Fatalf("no event, want %s", k)
	}
	return Event{}
}

func TestOrdersOverTheSocket(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	ctx := t.Context()
	want(t, c.Apply(ctx, in66(1, 5)), quarantine.ErrNotEnforced)
	want(t, c.Refresh(ctx, fresh(1)), quarantine.ErrNotEnforced)
	var all []quarantine.Entry
	for n := 1; n <= 3*perFrame+1; n++ {
		all = append(all, in77(n, 5))
	}
	want(t, c.Replace(ctx, somePlan(10, all...)), nil)
	want(t, c.Refresh(ctx, fresh(10)), nil)
	back := in66(1, 11)
	back.Tighten = 1
	want(t, c.Apply(ctx, back), nil)
	want(t, c.Apply(ctx, in77(1, 12)), quarantine.ErrOutdated)
	bad := in77(2, 12)
	bad.Mark = 99
	want(t, c.Apply(ctx, bad), ErrRefused)
	clash := in77(3, 12)
	clash.Key = peerKey(2)
	err := c.Apply(ctx, clash)
	want(t, err, quarantine.ErrConflict)
	if err == nil || !strings.Contains(err.Error(), string(id(2))) {
		t.Errorf("the error %v does not name the other device", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agree(t)
	if len(r.table.routed) != 3*perFrame || len(r.table.quarantined) != 3*perFrame+1 || r.table.fresh != fresh(10).Fresh {
		t.Errorf("%d routed, %d quarantined, fresh %d", len(r.table.routed), len(r.table.quarantined), r.table.fresh)
	}
	if r.table.rules.Pools[1].Mark != 7 || r.table.rules.Pools[0].Reach[0].Up != 443 || len(r.table.rules.Gateway) != 4 {
		t.Errorf("the rules arrived as %+v", r.table.rules)
	}
}

// The table stands before the link is opened, and without it there is no link, and no
// socket in place of the one that somebody else may listen on.
func TestNoTableNoInterface(t *testing.T) {
	table := newFakeTable()
	table.fail["adopt"] = []error{errKernel}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	opened := false
	p, err := New(Config{Table: table, Host: host, Conn: a, Listen: func() (*net.UnixListener, error) {
		t.Error("listened without table and link")
		return nil, errKernel
	}, OpenLink: func(context.Context) (Link, error) {
		opened = true
		if got := table.calls(); len(got) != 1 || got[0] != "adopt" {
			t.Errorf("calls before the link: %v", got)
		}
		return nil, errKernel
	}})
	if err != nil {
		t.Fatal(err)
	}
	want(t, p.Run(t.Context()), errKernel)
	if opened {
		t.Error("the link was opened without a table")
	}
	table.fail["adopt"] = nil
	table.calls()
	want(t, p.Run(t.Context()), errKernel)
	if !opened {
		t.Error("the link was not opened")
	}
}

func TestConcurrentOrders(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	want(t, c.Replace(t.Context(), somePlan(10)), nil)
	var group sync.WaitGroup
	for n := range 50 {
		group.Go(func() {
			if n%7 == 3 { // given up at once: the others' answers stay their own
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				want(t, c.Apply(ctx, in77(1000+n, 11)), context.Canceled)
				return
			}
			e := in77(n, 11)
			if n%5 == 0 {
				e.Mark = 99
				want(t, c.Apply(t.Context(), e), ErrRefused)
				return
			}
			want(t, c.Apply(t.Context(), e), nil)
		})
	}
	group.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agree(t)
}

func TestNewestConnectionWins(t *testing.T) {
	r := run(t, nil)
	old := r.dial(t)
	want(t, old.Replace(t.Context(), somePlan(10, in77(1, 5))), nil)
	young := r.dial(t)
	expect(t, old, Disconnected)
	old.Close()
	want(t, old.Apply(t.Context(), in66(1, 11)), quarantine.ErrNotEnforced)
	want(t, young.Apply(t.Context(), in77(2, 11)), nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.agree(t)
	if len(r.table.routed) != 2 {
		t.Error("a control plane that went away changed something")
	}
}

// Without a control plane nothing changes, and an upgraded data plane is found again.
func TestReconnect(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	want(t, c.Replace(t.Context(), somePlan(10, in77(1, 5))), nil)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	expect(t, c, Disconnected)
	if !r.link.closed || len(r.table.routed) != 1 {
		t.Error("stopping must close the link and leave the table")
	}
	want(t, c.Apply(t.Context(), in66(1, 11)), quarantine.ErrNotEnforced)
	second := newFixture(t)
	config := second.config
	config.Conn = nil
	var err error
	config.Listen = func() (*net.UnixListener, error) { return Listen(r.path, -1) }
	if second.Plane, err = New(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx) }()
	expect(t, c, Connected)
	want(t, c.Apply(t.Context(), in66(1, 11)), quarantine.ErrNotEnforced)
	want(t, c.Replace(t.Context(), somePlan(11, in66(1, 11))), nil)
	cancel()
	want(t, <-done, nil)
}

func TestEvents(t *testing.T) {
	r := run(t, nil)
	c := r.dial(t)
	e := in66(1, 5)
	e.Next = peerKey(50)
	want(t, c.Replace(t.Context(), somePlan(10, e)), nil)
	r.link.mu.Lock()
	r.link.shaken[peerKey(50)] = time.Now()
	r.link.mu.Unlock()
	got := expect(t, c, Rotated) // by Run's own timer
	if got.Device != id(1) || got.Key != peerKey(50) {
		t.Errorf("event %+v", got)
	}
	check(t, c.Close()) // it would connect again, and the newest is listened to
	again := r.dial(t)
	want(t, again.Replace(t.Context(), somePlan(11, e, in77(2, 5))), nil)
	if got := expect(t, again, Rotated); got.Key != peerKey(50) {
		t.Errorf("event %+v", got)
	}
	r.table.mu.Lock()
	r.table.fail["apply"], r.table.fail["fill"] = []error{firewall.ErrDoubt}, []error{errKernel}
	r.table.mu.Unlock()
	want(t, again.Apply(t.Context(), quarantine.Entry{Device: id(1), Revision: 12, Tighten: 1}), quarantine.ErrNotEnforced)
	expect(t, again, NeedPlan)
}

// The kernel says who connects. Whoever is not in the list is hung up on.
func TestOtherUsersAreRefused(t *testing.T) {
	r := run(t, func(c *Config) { c.UIDs = []uint32{uint32(os.Getuid()) + 1} })
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); len(b) != 0 {
		t.Errorf("was told %q, %v", b, err)
	}
}

// What a data plane that was killed half way left beside its socket goes with the next.
func TestListenCleansUp(t *testing.T) {
	dir := t.TempDir()
	check(t, os.Mkdir(filepath.Join(dir, ".socket-12345"), 0o700))
	check(t, os.WriteFile(filepath.Join(dir, ".socket-12345", "s"), nil, 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "wireguard.pub"), nil, 0o600))
	l, err := Listen(filepath.Join(dir, "control"), -1)
	check(t, err)
	defer l.Close()
	var names []string
	left, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range left {
		names = append(names, e.Name())
	}
	same(t, "what is there", names, []string{"control", "wireguard.pub"})
}

func TestListenModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	for group, mode := range map[int]os.FileMode{os.Getgid(): 0o660, -1: 0o666} { // the second over what is left
		l, err := Listen(path, group)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, mode)
		}
		l.Close()
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// raw speaks the wire by hand.
func raw(t testing.TB, r *running) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if m, err := readMessage(conn); err != nil || m.Kind != hello {
		t.Fatalf("greeted with %+v, %v", m, err)
	}
	return conn
}

func say(t testing.TB, conn net.Conn, body string) {
	t.Helper()
	b := append([]byte{0, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		code code
		ends bool
	}{
		"another version":       {`{"v":2,"id":5,"kind":["apply"]}`, badVersion, true},
		"no version":            {`{"id":5,"kind":"apply"}`, refused, true},
		"no object":             {`[]`, refused, true},
		"cut":                   {`{"v":1,`, refused, true},
		"unknown kind":          {`{"v":1,"id":5,"kind":"shout"}`, refused, false},
		"no entry":              {`{"v":1,"id":5,"kind":"apply"}`, refused, false},
		"no freshness":          {`{"v":1,"id":5,"kind":"refresh"}`, refused, false},
		"part of no plan":       {`{"v":1,"id":5,"kind":"commit"}`, refused, false},
		"unknown field":         {`{"v":1,"id":5,"kind":"refresh","later":{"x":1},"fresh":{"control":"x","more":1}}`, notEnforced, false},
		"a key of wrong length": {`{"v":1,"id":5,"kind":"apply","entry":{"device":"d","key":"AAAA"}}`, refused, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, nil)
			conn := raw(t, r)
			say(t, conn, c.body)
			m, err := readMessage(conn)
			if err != nil || m.Kind != answer || m.Code != c.code {
				t.Fatalf("answered %+v, %v, want code %s", m, err, c.code)
			}
			if c.ends {
				if m, err := readMessage(conn); err == nil {
					t.Errorf("the connection goes on with %+v", m)
				}
				return
			}
			say(t, conn, `{"v":1,"id":6,"kind":"commit"}`)
			if m, err := readMessage(conn); err != nil || m.ID != 6 {
				t.Errorf("the next order is answered %+v, %v", m, err)
			}
		})
	}
}

// A plan counts at its commit, whole, or not at all.
func TestPlansInParts(t *testing.T) {
	head, err := json.Marshal(planHead{control, 10, somePlan(1).Pools, somePlan(1).Gateway, 2})
	if err != nil {
		t.Fatal(err)
	}
	one, err := json.Marshal([]quarantine.Entry{in77(1, 5)})
	if err != nil {
		t.Fatal(err)
	}
	two, err := json.Marshal([]quarantine.Entry{in77(2, 5), in77(3, 5)})
	if err != nil {
		t.Fatal(err)
	}
	begins := `{"v":1,"id":5,"kind":"begin","head":` + string(head) + `}`
	part := func(e []byte) string { return `{"v":1,"id":5,"kind":"entries","entries":` + string(e) + `}` }
	commits := `{"v":1,"id":5,"kind":"commit"}`
	for name, c := range map[string]struct {
		says []string
		code code
	}{
		"whole":              {[]string{begins, part(two), commits}, ""},
		"too few":            {[]string{begins, part(one), commits}, refused},
		"too many":           {[]string{begins, part(one), part(two), part(two), commits}, refused},
		"begun anew":         {[]string{begins, part(one), begins, part(two), commits}, ""},
		"headless":           {[]string{`{"v":1,"id":5,"kind":"begin"}`, part(two), commits}, refused},
		"endless":            {[]string{`{"v":1,"id":5,"kind":"begin","head":{"control":"c","count":2000000}}`, part(two), commits}, refused},
		"negative":           {[]string{`{"v":1,"id":5,"kind":"begin","head":{"control":"c","count":-1}}`, commits}, refused},
		"of another":         {[]string{begins, part(two), `{"v":1,"id":6,"kind":"commit"}`}, refused},
		"something between":  {[]string{begins, part(two), `{"v":1,"id":7,"kind":"event"}`}, refused},
		"committed by halfs": {[]string{begins, part(one), `{"v":1,"id":5,"kind":"commit","entries":` + string(one) + `}`}, refused},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, nil)
			conn := raw(t, r)
			for _, s := range c.says {
				say(t, conn, s)
			}
			m, err := readMessage(conn)
			if err != nil || m.Code != c.code {
				t.Fatalf("answered %+v, %v, want code %q", m, err, c.code)
			}
			r.table.mu.Lock()
			defer r.table.mu.Unlock()
			if routed := len(r.table.routed); routed != 0 && c.code != "" || routed == 0 && c.code == "" {
				t.Errorf("%d routed", routed)
			}
		})
	}
}

// A data plane of another version is told of, and not obeyed.
func TestClientMeetsAnotherVersion(t *testing.T) {
	ours, theirs := net.Pipe()
	c := NewClient(ours)
	defer c.Close()
	say(t, theirs, `{"v":2,"kind":"hello"}`)
	if e := expect(t, c, Disconnected); !strings.Contains(e.Detail, "another version") {
		t.Errorf("event %+v", e)
	}
	want(t, c.Apply(t.Context(), in66(1, 1)), quarantine.ErrNotEnforced)
}

// An order is given up with its context, and its late answer is nobody's.
func TestGivenUp(t *testing.T) {
	ours, theirs := net.Pipe()
	c := NewClient(ours)
	defer c.Close()
	say(t, theirs, `{"v":1,"kind":"hello"}`)
	expect(t, c, Connected)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- c.Apply(ctx, in66(1, 1)) }()
	m, err := readMessage(theirs)
	if err != nil || m.Kind != apply {
		t.Fatalf("%+v, %v", m, err)
	}
	cancel()
	want(t, <-first, context.Canceled)
	second := make(chan error, 1)
	go func() { second <- c.Apply(t.Context(), in66(2, 1)) }()
	next, err := readMessage(theirs)
	if err != nil {
		t.Fatal(err)
	}
	say(t, theirs, `{"v":1,"id":1,"kind":"answer"}`) // to the first
	say(t, theirs, `{"v":1,"id":2,"kind":"answer","code":"brand new","text":"no"}`)
	if err := <-second; !errors.Is(err, quarantine.ErrNotEnforced) || err.Error() != "no" || next.ID != 2 {
		t.Errorf("order %d: %v", next.ID, err)
	}
}

func TestDialGivesUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, filepath.Join(t.TempDir(), "nobody"))
	want(t, err, context.DeadlineExceeded)
}

// TestConnectDoesNotWait: a control plane starts, and refuses orders, before there is a
// data plane, and is connected as soon as there is one.
func TestConnectDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dataplane.sock")
	c := Connect(path)
	defer c.Close()
	err := c.Apply(t.Context(), quarantine.Entry{Device: "d-1"})
	for ; errors.Is(err, errNotYet); err = c.Apply(t.Context(), quarantine.Entry{Device: "d-1"}) {
		runtime.Gosched()
	}
	if !errors.Is(err, quarantine.ErrNotEnforced) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("without a data plane: %v, which must say what is missing", err)
	}
	l, err := Listen(path, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
