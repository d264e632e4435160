package machine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/appliance/seed"
	"lazaret/internal/making"
)

// offers are what a test of the offers sees and does.
type offers struct {
	t       *testing.T
	m       *Machine
	devices chan struct{}
	disk    atomic.Pointer[seed.Seed] // what is in the drive
	looking atomic.Int32              // who looks for a seed at this moment
	began   chan offering             // each offer
	ends    chan error                // ends an offer
	over    chan error                // the end of them all
	used    seed.Seed                 // by which the machine was claimed, once over
}

// offer begins to offer a machine with a seed.
func offer(t *testing.T, ctx context.Context, m *Machine, s seed.Seed) *offers {
	o := &offers{t: t, m: m, devices: make(chan struct{}, 1), began: make(chan offering), ends: make(chan error), over: make(chan error, 1)}
	find := func() seed.Seed {
		if o.looking.Add(1) != 1 {
			t.Error("two look for a seed side by side")
		}
		defer o.looking.Add(-1)
		if s := o.disk.Load(); s != nil {
			return *s
		}
		return seed.Seed{}
	}
	one := func(ctx context.Context, x offering) error {
		select {
		case o.began <- x:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case err := <-o.ends:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	go func() {
		var err error
		o.used, err = m.offerUntilClaimed(ctx, s, o.devices, find, one)
		o.over <- err
	}()
	return o
}

// insert puts a seed into the drive, of which the kernel tells.
func (o *offers) insert(s seed.Seed) {
	o.disk.Store(&s)
	o.devices <- struct{}{}
	synctest.Wait()
}

// is waits for the next offer, which must be with that seed.
func (o *offers) is(instance string) offering {
	o.t.Helper()
	synctest.Wait()
	select {
	case x := <-o.began:
		if x.seed.Instance != instance || x.fromSeed != (instance != "") {
			o.t.Errorf("offered with seed %q (its code: %t), want %q", x.seed.Instance, x.fromSeed, instance)
		}
		synctest.Wait()
		return x
	default:
		o.t.Fatalf("no offer begins, where one with the seed %q should", instance)
		return offering{}
	}
}

// claimed has the claim kept; the machine must then be claimed with that seed, and nobody
// look for another any more.
func (o *offers) claimed(instance string) {
	o.t.Helper()
	o.ends <- nil
	if err := <-o.over; err != nil || o.used.Instance != instance {
		o.t.Errorf("claimed with the seed %q (%v), want %q", o.used.Instance, err, instance)
	}
	if o.looking.Load() != 0 {
		o.t.Error("a seed is looked for on a claimed machine")
	}
}

func coded(instance string) seed.Seed {
	return seed.Seed{Instance: instance, Code: claim.DrawCode().String(), Setup: appliance.Setup{Name: "gw"}}
}

// TestLateSeed: whenever a seed comes while a machine is nobody's, it is used in the end, but
// by a claim that has begun no sooner than that came to nothing.
func TestLateSeed(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, o *offers){
		"none": func(_ *testing.T, o *offers) {
			o.is("")
			o.claimed("")
		},
		"while it is offered": func(_ *testing.T, o *offers) {
			o.is("")
			o.insert(coded("i1"))
			o.is("i1")
			o.claimed("i1")
		},
		"a disk without one before": func(_ *testing.T, o *offers) {
			o.is("")
			o.insert(seed.Seed{})
			o.insert(coded("i1"))
			o.is("i1")
			o.claimed("i1")
		},
		"in a claim that is kept": func(t *testing.T, o *offers) {
			if err := o.is("").turns.begin(); err != nil {
				t.Error(err)
			}
			o.insert(coded("i1"))
			o.claimed("")
		},
		"in a claim that fails": func(t *testing.T, o *offers) {
			x := o.is("")
			if err := x.turns.begin(); err != nil {
				t.Error(err)
			}
			o.insert(coded("i1"))
			x.turns.failed()
			o.is("i1")
			o.claimed("i1")
		},
		"after a claim that failed": func(t *testing.T, o *offers) {
			x := o.is("")
			if err := x.turns.begin(); err != nil {
				t.Error(err)
			}
			x.turns.failed()
			o.insert(coded("i1"))
			o.is("i1")
			o.claimed("i1")
		},
		"in a claim that lapses": func(t *testing.T, o *offers) {
			if err := o.is("").turns.begin(); err != nil {
				t.Error(err)
			}
			o.insert(coded("i1"))
			o.ends <- claim.ErrLapsed
			o.is("i1")
			o.claimed("i1")
		},
		"after a claim that lapsed": func(t *testing.T, o *offers) {
			if err := o.is("").turns.begin(); err != nil {
				t.Error(err)
			}
			o.ends <- claim.ErrLapsed
			o.is("")
			o.insert(coded("i1"))
			x := o.is("i1")
			if err := x.turns.begin(); err != nil {
				t.Error("the seed's claim does not begin:", err)
			}
			o.claimed("i1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := idle(t)
			synctest.Test(t, func(t *testing.T) { do(t, offer(t, t.Context(), m, seed.Seed{})) })
		})
	}
}

// TestSeedBeforeTheOffer: a disk that came after the seeds were looked at, and before anybody
// heard of devices, is seen.
func TestSeedBeforeTheOffer(t *testing.T) {
	m := idle(t)
	synctest.Test(t, func(t *testing.T) {
		var found turns
		ended := false
		stop := func(why error) { ended = errors.Is(why, errSeedCame) }
		found.open(stop)
		m.watchSeeds(t.Context(), nil, func() seed.Seed { return coded("i1") }, &found)
		if s, ok := found.over(); !ended || !ok || s.Instance != "i1" {
			t.Errorf("the offer ended: %t; the seed is there: %t, %v", ended, ok, s)
		}
	})
}

// TestSeedAndLapse: the code of a seed is good for one claim; the seed itself is kept.
func TestSeedAndLapse(t *testing.T) {
	m := idle(t)
	synctest.Test(t, func(t *testing.T) {
		o := offer(t, t.Context(), m, coded("i1"))
		first := o.is("i1")
		o.ends <- claim.ErrLapsed
		synctest.Wait()
		second := <-o.began
		if second.fromSeed || second.code == first.code || second.seed.Instance != "i1" || m.state.problems["code"] == "" {
			t.Errorf("offered again with the seed's code: %t, of the seed %q; problems %q", second.fromSeed, second.seed.Instance, m.state.problems)
		}
		o.claimed("i1")
	})
}

// TestWatchEnds: whoever looks for a seed is gone when the machine's offer is, however it ends.
func TestWatchEnds(t *testing.T) {
	for name, stopped := range map[string]bool{"an offer that fails": false, "the machine's end": true} {
		t.Run(name, func(t *testing.T) {
			m := idle(t)
			synctest.Test(t, func(t *testing.T) { // fails where a goroutine stays
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				o := offer(t, ctx, m, seed.Seed{})
				o.is("")
				want := errors.New("no door")
				if stopped {
					stop()
					want = context.Canceled
				} else {
					o.ends <- want
				}
				if err := <-o.over; !errors.Is(err, want) {
					t.Errorf("it ended with %v, want %v", err, want)
				}
			})
		})
	}
}

// TestWatchIsAwaited: a seed that is being read when the machine is claimed is read to its
// end before anything else is done: nothing of it is shown later.
func TestWatchIsAwaited(t *testing.T) {
	m := idle(t)
	synctest.Test(t, func(t *testing.T) {
		began, slow, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
		go func() {
			defer close(over)
			_, err := m.offerUntilClaimed(t.Context(), seed.Seed{}, nil, func() seed.Seed { close(began); <-slow; return seed.Seed{} },
				func(context.Context, offering) error { <-began; return nil })
			if err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		select {
		case <-over:
			t.Error("a disk is still being read")
		default:
		}
		close(slow)
		<-over
	})
}

// TestClaimTakesItsTurn: what the keeper of a claim does tells the seeds of it.
func TestClaimTakesItsTurn(t *testing.T) {
	m := idle(t)
	ended := 0
	o := offering{code: claim.DrawCode(), turns: &turns{}}
	o.turns.open(func(error) { ended++ })
	broken := errors.New("no room")
	k := m.claimWith(o, func(context.Context, claim.Request, func(string)) (making.Made, error) {
		if o.turns.arrive(coded("i1")) || ended != 0 {
			t.Error("a seed interrupts a claim")
		}
		return making.Made{}, broken
	})
	if _, err := k.Make(t.Context(), claim.Request{}, func(string) {}); !errors.Is(err, broken) || ended != 1 {
		t.Errorf("%v; the offer was ended %d times for the seed, once the claim had failed", err, ended)
	}
	if _, err := k.Make(t.Context(), claim.Request{}, func(string) {}); err == nil || errors.Is(err, broken) {
		t.Errorf("a claim goes before a seed that waits: %v", err)
	}
}

// TestClaimAfterSeed: no claim begins once a seed came.
func TestClaimAfterSeed(t *testing.T) {
	var w turns
	w.open(func(error) {})
	if !w.arrive(coded("i1")) || w.begin() == nil {
		t.Error("a claim begins after a seed came")
	}
	if _, ok := w.over(); !ok {
		t.Error("the seed is lost")
	}
	w.open(func(error) { t.Error("an offer is ended for a seed that is used") })
	if err := w.begin(); err != nil {
		t.Errorf("no claim begins with the seed: %v", err)
	}
	if w.arrive(coded("i2")) {
		t.Error("a seed goes before a claim that has begun")
	}
}
