package imagetest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/vm"
)

// life is one machine from its first boot on; its steps are in order, and each needs those
// before.
type life struct {
	*operator
	v      *vm.VM     // the last time it was turned on
	all    []*vm.VM   // each time
	top    *testing.T // of the whole life
	config vm.Config  // of each time it is turned on
	dir    string     // of the administrator's credential
	args   []string   // to lazaretctl claim, besides those that each claim has
	phone  *phone
	device api.Device
	orders bool // the version that runs takes orders; LAZARET_ORDERS says that the image's does

	next, bad func(testing.TB) string // slots that are made meanwhile, for the updates

	management, intranet *echo
}

// newLife is one of a machine with a new disk of the image, not turned on. change may give it
// other hardware.
func newLife(t *testing.T, change func(*vm.Config)) *life {
	l := &life{
		top: t, dir: filepath.Join(t.TempDir(), "admin"), orders: os.Getenv("LAZARET_ORDERS") != "", management: listen(t), intranet: listen(t),
		config: vm.Config{
			Firmware: vm.UEFI, Watchdog: true, Orders: true, Limit: 20 * time.Minute,
			Forward: []vm.Port{{Network: "tcp", Number: 443}, {Network: "tcp", Number: 8443}, {Network: "udp", Number: 51820}, {Network: "tcp", Number: 22}, {Network: "tcp", Number: 2379}},
		},
	}
	if kept := os.Getenv("LAZARET_KEEP"); kept != "" { // for whoever looks into a failure
		l.config.Dir, l.config.Capture = filepath.Join(kept, t.Name()), true
		if err := os.MkdirAll(l.config.Dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&l.config)
	}
	if len(l.config.Disks) == 0 {
		l.config.Disks = []vm.Disk{{Path: vm.Copy(t, built(t, ".raw"), 0)}}
	}
	t.Cleanup(func() { // after what each machine cleans up
		if l.phone != nil {
			l.phone.close()
		}
		var took time.Duration
		for _, v := range l.all {
			took += v.CPU()
		}
		t.Logf("turned on %d times, QEMU took %v of a processor", len(l.all), took.Round(100*time.Millisecond))
	})
	return l
}

// step is a part of a life.
type step struct {
	name string
	do   func(t *testing.T)
}

// live takes the steps, up to the first that fails.
func (l *life) live(t *testing.T, steps ...step) {
	for _, s := range steps {
		if !t.Run(s.name, s.do) {
			l.explain(t)
			t.Fatalf("the steps after %s need it", s.name)
		}
	}
}

// turnOn gives the machine power. A restart ends it: startsAgain gives it power again, which
// QEMU's emulation is quicker at than at a reset.
func (l *life) turnOn() {
	l.v = vm.Start(l.top, l.config)
	l.all = append(l.all, l.v)
}

// TestLife takes one machine through its life, with an update on its way. Much of it is
// waiting, which TestUpdates fills with a machine of its own.
func TestLife(t *testing.T) {
	t.Parallel()
	l := newLife(t, nil)
	l.turnOn()
	l.next = meanwhile(t, func(ctx context.Context) (string, error) {
		return newSlot(ctx, t.TempDir(), "0.1.1", "./cmd/lazaretd", "-buildvcs=false", "-ldflags", "-s -w -X lazaret/internal/version.Number=0.1.1", "-tags", "lazarettest")
	})
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"Release", l.released}, step{"Cut", l.cut},
		step{"Closed", l.closed}, step{"Update", l.update}, step{"Inside", l.inside}, step{"Killed", l.killed},
		step{"PowerCut", l.powerCut}, step{"AtRest", l.atRest})
}

// TestUpdates has a machine start again, refuse what is no update for it, and survive one that
// does not start.
func TestUpdates(t *testing.T) {
	t.Parallel()
	l := newLife(t, nil)
	l.turnOn()
	l.bad = meanwhile(t, func(ctx context.Context) (string, error) {
		return newSlot(ctx, t.TempDir(), "0.1.2", "./internal/imagetest/testdata/panics")
	})
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined},
		step{"Restart", l.restart}, step{"Refused", l.refusals}, step{"BadUpdate", l.badUpdate})
}
