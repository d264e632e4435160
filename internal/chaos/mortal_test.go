package chaos

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// fate kills this process by SIGKILL at a step. The product has no such thing: the steps
// are where it calls what it was given.
type fate struct {
	mu sync.Mutex
	at string
}

func newFate() *fate { return &fate{at: os.Getenv(dieVariable)} }

// seal sets the step to die at.
func (f *fate) seal(at string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at = at
}

func (f *fate) step(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == name {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

// around is a step before and one after what do does.
func around[T any](f *fate, name string, do func() T) T {
	f.step("before " + name)
	out := do()
	f.step("after " + name)
	return out
}

// Steps of the data plane: those of its start, and those that orders lead to.
var (
	planeBoot = []string{"before adopt", "after adopt", "before open", "after open", "before listen", "after listen",
		"before fill", "after fill", "before addresses", "after addresses", "before peers", "after peers",
		"before forward", "after forward", "before refresh", "after refresh"}
	planeSteps = []string{"before apply", "after apply", "before peers", "after peers"}
)

type mortalTable struct {
	dataplane.Table
	*fate
}

func (m mortalTable) Adopt(r firewall.Ruleset) error {
	return around(m.fate, "adopt", func() error { return m.Table.Adopt(r) })
}

func (m mortalTable) Fill(r firewall.Ruleset, e firewall.Elements) error {
	return around(m.fate, "fill", func() error { return m.Table.Fill(r, e) })
}

func (m mortalTable) Apply(c firewall.Change) error {
	return around(m.fate, "apply", func() error { return m.Table.Apply(c) })
}

func (m mortalTable) Refresh(fresh, alive firewall.Deadline) error {
	return around(m.fate, "refresh", func() error { return m.Table.Refresh(fresh, alive) })
}

type mortalLink struct {
	dataplane.Link
	*fate
}

func (m mortalLink) Apply(c []tunnel.PeerChange) error {
	return around(m.fate, "peers", func() error { return m.Link.Apply(c) })
}

func (m mortalLink) SetAddresses(own []netip.Prefix) error {
	return around(m.fate, "addresses", func() error { return m.Link.SetAddresses(own) })
}

// Steps of the control plane.
var (
	controlBoot = []string{"after store", "before snapshot", "after snapshot", "before replace", "after replace",
		"before refresh", "after refresh", "before now", "after now"}
	controlSteps = []string{"before journal", "after journal", "before record", "after record", "before apply", "after apply",
		"before strike", "after strike"}
)

type mortalStore struct {
	quarantine.Store
	*fate
}

type read[T any] struct {
	it  T
	err error
}

func (m mortalStore) Snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	r := around(m.fate, "snapshot", func() (r read[quarantine.Snapshot]) { r.it, r.err = m.Store.Snapshot(ctx); return r })
	return r.it, r.err
}

func (m mortalStore) Record(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	r := around(m.fate, "record", func() (r read[int64]) { r.it, r.err = m.Store.Record(ctx, c, next); return r })
	return r.it, r.err
}

func (m mortalStore) Now(ctx context.Context) (int64, error) {
	r := around(m.fate, "now", func() (r read[int64]) { r.it, r.err = m.Store.Now(ctx); return r })
	return r.it, r.err
}

type mortalKeeper struct {
	quarantine.Keeper
	*fate
}

func (m mortalKeeper) Append(c quarantine.Change) error {
	return around(m.fate, "journal", func() error { return m.Keeper.Append(c) })
}

func (m mortalKeeper) Done(c quarantine.Change) error {
	return around(m.fate, "strike", func() error { return m.Keeper.Done(c) })
}

type mortalEnforcer struct {
	quarantine.Enforcer
	*fate
}

func (m mortalEnforcer) Apply(ctx context.Context, e quarantine.Entry) error {
	return around(m.fate, "apply", func() error { return m.Enforcer.Apply(ctx, e) })
}

func (m mortalEnforcer) Replace(ctx context.Context, p quarantine.Plan) error {
	return around(m.fate, "replace", func() error { return m.Enforcer.Replace(ctx, p) })
}

func (m mortalEnforcer) Refresh(ctx context.Context, f quarantine.Freshness) error {
	return around(m.fate, "refresh", func() error { return m.Enforcer.Refresh(ctx, f) })
}

// patience bounds whatever a test waits for; nothing is judged by it.
const patience = 30 * time.Second
