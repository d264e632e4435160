package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
)

// controlOrder is an order to the control plane's process: one of these.
type controlOrder struct {
	Die    string // step to die at from now on
	Change *quarantine.Change
	Look   bool
	Stall  bool          // the store answers nothing from now on, and again at the next order without
	Step   time.Duration // the wall clock is ahead by this
}

// controlAnswer says what came of it.
type controlAnswer struct {
	Err  string
	View *view
}

// view is what was decided: the store's records and settings, and what the journal holds.
type view struct {
	Records map[quarantine.ID]quarantine.Record
	Pools   map[string]quarantine.Pool
	Pending map[quarantine.ID][]quarantine.Change
	Status  quarantine.Status
}

func openStore(ctx context.Context, dir string) (*store.Store, error) {
	ring, err := seal.LoadOrCreate(filepath.Join(dir, "state", "node.key"))
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Config{Dir: filepath.Join(dir, "state", "etcd"), AuditDir: filepath.Join(dir, "state", "audit"),
		Ring: ring, Gateway: "gw", Ballast: -1, Reserve: -1, Log: logTo(dir, "store")})
}

// runControl is the control plane without its doors: store, journal, gate and client.
func runControl(dir string) error {
	f, log, ctx := newFate(), logTo(dir, "control"), context.Background()
	s, err := openStore(ctx, dir)
	if err != nil {
		return err
	}
	f.step("after store")
	journal, err := quarantine.OpenJournal(filepath.Join(dir, "state", "tightenings"))
	if err != nil {
		return err
	}
	client := dataplane.Connect(filepath.Join(dir, "control"))
	var stalled atomic.Bool
	var ahead atomic.Int64
	clock := quarantine.SystemClock()
	clock.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	gate, err := quarantine.NewGate(quarantine.Config{
		Store: stallingStore{mortalStore{s, f}, &stalled}, Enforcer: mortalEnforcer{client, f}, Journal: mortalKeeper{journal, f}, Policy: quarantine.PlainPolicy{},
		Control: fmt.Sprintf("gw/%d/%d", os.Getpid(), time.Now().UnixNano()), Log: log, Freshness: freshFor(), QuarantineLife: time.Hour,
		Timeout: 2 * time.Second, Clock: clock,
	})
	if err != nil {
		return err
	}
	go s.Run(ctx) // these end with the process
	go gate.Run(ctx)
	go func() {
		for e := range client.Events() {
			switch e.Kind {
			case dataplane.Connected, dataplane.NeedPlan, dataplane.ClockJump:
				gate.Replan()
			}
		}
	}()
	return obey(func(o controlOrder) any {
		within, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		ahead.Store(int64(o.Step))
		switch {
		case o.Stall:
			stalled.Store(true)
			return answer(nil, nil)
		case o.Change != nil:
			_, err := gate.Change(within, quarantine.Actor{Kind: "administrator", Name: "chaos"}, *o.Change)
			return answer(nil, err)
		case o.Look:
			snapshot, err := s.Snapshot(within)
			return answer(&view{snapshot.Records, snapshot.Pools, journal.Pending(), gate.Status()}, err)
		}
		f.seal(o.Die)
		stalled.Store(false)
		return answer(nil, nil)
	})
}

func answer(v *view, err error) controlAnswer {
	a := controlAnswer{View: v}
	if err != nil {
		a.Err = err.Error()
	}
	return a
}

// control is the control plane as the judge speaks to it.
type control struct{ *process }

// errAnswer is an order that was answered by an error.
var errAnswer = errors.New("refused")

func (c control) change(ch quarantine.Change) error {
	_, err := c.order(controlOrder{Change: &ch})
	return err
}

func (c control) look(ahead time.Duration) (*view, error) {
	return c.order(controlOrder{Look: true, Step: ahead})
}

func (c control) order(o controlOrder) (*view, error) {
	var a controlAnswer
	if err := c.ask(o, &a); err != nil {
		return nil, err
	}
	if a.Err != "" {
		return nil, fmt.Errorf("%w: %s", errAnswer, a.Err)
	}
	return a.View, nil
}

// stallingStore answers nothing while it is stalled: every call waits for its end.
type stallingStore struct {
	quarantine.Store
	stalled *atomic.Bool
}

func (s stallingStore) wait(ctx context.Context) error {
	if !s.stalled.Load() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s stallingStore) Snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	if err := s.wait(ctx); err != nil {
		return quarantine.Snapshot{}, err
	}
	return s.Store.Snapshot(ctx)
}

func (s stallingStore) Record(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	return s.Store.Record(ctx, c, next)
}

func (s stallingStore) Now(ctx context.Context) (int64, error) {
	if err := s.wait(ctx); err != nil {
		return 0, err
	}
	return s.Store.Now(ctx)
}
