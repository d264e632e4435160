package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	ring, err := seal.LoadOrCreate(filepath.Join(dir, "node.key"))
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, store.Config{Dir: filepath.Join(dir, "etcd"), AuditDir: filepath.Join(dir, "audit"),
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
	journal, err := quarantine.OpenJournal(filepath.Join(dir, "tightenings"))
	if err != nil {
		return err
	}
	client := dataplane.Connect(filepath.Join(dir, "control"))
	gate, err := quarantine.NewGate(quarantine.Config{
		Store: mortalStore{s, f}, Enforcer: mortalEnforcer{client, f}, Journal: mortalKeeper{journal, f}, Policy: quarantine.PlainPolicy{},
		Control: fmt.Sprintf("gw/%d/%d", os.Getpid(), time.Now().UnixNano()), Log: log, Freshness: freshness, QuarantineLife: time.Hour,
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
		switch {
		case o.Change != nil:
			_, err := gate.Change(within, quarantine.Actor{Kind: "administrator", Name: "chaos"}, *o.Change)
			return answer(nil, err)
		case o.Look:
			snapshot, err := s.Snapshot(within)
			return answer(&view{snapshot.Records, snapshot.Pools, journal.Pending(), gate.Status()}, err)
		}
		f.seal(o.Die)
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

func (c control) look() (*view, error) { return c.order(controlOrder{Look: true}) }

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
