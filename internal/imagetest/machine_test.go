package imagetest

import (
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
	v      *vm.VM
	top    *testing.T // of the whole life
	config vm.Config  // of each time it is turned on
	dir    string     // of the administrator's credential
	args   []string   // to lazaretctl claim, besides those that each claim has
	phone  *phone
	device api.Device
	orders bool // the version that runs takes orders; LAZARET_ORDERS says that the image's does

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
		l.config.Dir, l.config.Capture = kept, true
	}
	if change != nil {
		change(&l.config)
	}
	if len(l.config.Disks) == 0 {
		l.config.Disks = []vm.Disk{{Path: vm.Copy(t, built(t, ".raw"), 0)}}
	}
	t.Cleanup(func() {
		if l.phone != nil {
			l.phone.close()
		}
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
func (l *life) turnOn() { l.v = vm.Start(l.top, l.config) }

// TestLife takes one machine through its life.
func TestLife(t *testing.T) {
	l := newLife(t, nil)
	l.turnOn()
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"Release", l.released}, step{"Cut", l.cut},
		step{"Closed", l.closed}, step{"Restart", l.restart}, step{"Update", l.update}, step{"Inside", l.inside}, step{"Killed", l.killed},
		step{"BadUpdate", l.badUpdate}, step{"PowerCut", l.powerCut}, step{"AtRest", l.atRest})
}
