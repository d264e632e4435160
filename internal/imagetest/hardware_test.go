package imagetest

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"lazaret/image"
	"lazaret/internal/vm"
)

// metal builds the image for real machines, with the packages that mkimage fetch
// --flavour metal has fetched.
func metal(t testing.TB) string {
	t.Helper()
	return ofOurs(t, image.Config{Flavour: "metal", Version: "0.1.0"}).Raw
}

// machineOf is a pair of a network card and what the disk is attached to.
type machineOf struct{ card, bus string }

func (m machineOf) String() string { return m.card + " and " + m.bus }

// TestMetal: the image for real machines becomes a gateway on one, and goes on as it is when
// its disk is put into others, which have their network card and their disk elsewhere.
func TestMetal(t *testing.T) {
	long(t)
	disk := metal(t)
	l := newLife(t, func(c *vm.Config) { c.Card, c.Disks = "e1000e", []vm.Disk{{Path: disk, Bus: "nvme"}} })
	l.turnOn()
	l.live(t, step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined})
	l.moves(t, machineOf{"e1000", "ahci"}, machineOf{"rtl8139", "usb"}, machineOf{"pcnet", "virtio"})
}

// TestCloudHardware is TestMetal of the image for virtual machines, with what hypervisors show
// to them: KVM and clouds, and VMware. Its seed is attached when it runs already.
func TestCloudHardware(t *testing.T) {
	long(t)
	ctl := program(t, "./cmd/lazaretctl")
	l := newLife(t, nil)
	l.config.Disks[0].Bus = "scsi"
	iso, code := seedDisk(t, ctl, l.seedSetup())
	l.turnOn()
	l.live(t, step{"LateSeed", func(t *testing.T) {
		awaits(t, l.v, "unclaimed, without a seed", func(w map[string]string) bool { return w["code"] != "" && w["ready"] == "claim" })
		l.plugIn(t, iso)
		awaits(t, l.v, "unclaimed, with a seed", func(w map[string]string) bool {
			return w["stage"] == "unclaimed" && w["code"] == "" && w["name"] == "gateway-s" && w["ready"] == "claim"
		})
		l.takeSeeded(t, ctl, code)
	}}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined})
	l.moves(t, machineOf{"vmxnet3", "nvme"})
}

// plugIn attaches a CD to a machine that runs and has a SCSI controller.
func (l *life) plugIn(t *testing.T, iso string) {
	t.Helper()
	for _, do := range []struct {
		command   string
		arguments map[string]any
	}{
		{"blockdev-add", map[string]any{"driver": "file", "node-name": "late", "filename": iso, "read-only": true}},
		{"device_add", map[string]any{"driver": "scsi-cd", "id": "late", "bus": "scsi0.0", "drive": "late"}},
	} {
		if _, err := l.v.Do(soon(t), do.command, do.arguments); err != nil {
			t.Fatal(err)
		}
	}
}

// moves turns a gateway off by its button, and on as each of other machines.
func (l *life) moves(t *testing.T, to ...machineOf) {
	for _, m := range to {
		l.live(t, step{m.String(), func(t *testing.T) {
			l.pressPower(t)
			l.config.Card, l.config.Disks[0].Bus = m.card, m.bus
			l.turnsOn()
			_, at := awaits(t, l.v, "enforcing, with "+m.String(), ready)
			t.Logf("power-on to enforcing: %v", at)
			l.stillQuarantined(t)
		}})
	}
}

// pressPower presses the power button: the machine ends by itself, in order.
func (l *life) pressPower(t *testing.T) {
	t.Helper()
	if err := l.v.PowerDown(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := l.v.Wait(soon(t)); err != nil {
		t.Fatalf("after the power button was pressed: %v", err)
	}
}

// stillQuarantined: after a start, the device is what it was.
func (l *life) stillQuarantined(t *testing.T) {
	t.Helper()
	l.enforces(t)
	l.connect(t)
	until(t, "the management server answers again", func() error { return echoes(t, l.phone.quarantine, l.management) })
	l.forbidden(t)
}

// leastMemory is what a machine can do with, in MiB; LAZARET_MEMORY tries another size. The
// documentation asks for more, as what runs may grow.
const leastMemory = 256

// TestLeastMemory: a machine of so little memory becomes a gateway, enrolls and enforces.
func TestLeastMemory(t *testing.T) {
	long(t)
	memory := leastMemory
	if text := os.Getenv("LAZARET_MEMORY"); text != "" {
		var err error
		if memory, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	l := newLife(t, func(c *vm.Config) { c.Memory = memory })
	l.turnOn()
	l.live(t, step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"Release", l.released}, step{"Cut", l.cut}, step{"Restart", l.restart})
	m := l.machine(t)
	t.Logf("memory used: %d of %d MB", (m.Memory.Size-m.Memory.Available)>>20, m.Memory.Size>>20)
	for _, p := range m.Parts {
		if p.Restarts > 0 {
			t.Errorf("%s was started again %d times: %s", p.Name, p.Restarts, p.Last)
		}
	}
	l.live(t, step{"TooLittle", l.tooLittle})
}

// tooLittle: with less memory than its system takes, a gateway does not start, and lets
// nothing through.
func (l *life) tooLittle(t *testing.T) {
	l.v.Kill()
	l.config.Memory = 192
	l.turnsOn()
	l.v.Alarm(nil)
	if _, err := l.v.Expect(soon(t), regexp.MustCompile(`Initramfs unpacking failed[\s\S]*Kernel panic - not syncing: No working init found`)); err != nil {
		t.Fatal(err)
	}
	management, intranet := l.management.count(), l.intranet.count()
	l.connect(t)
	if echoes(t, l.phone.quarantine, l.management) == nil || echoes(t, l.phone.full, l.intranet) == nil ||
		l.management.count() != management || l.intranet.count() != intranet {
		t.Error("a machine that did not start lets something through")
	}
}
