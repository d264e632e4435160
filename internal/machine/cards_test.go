package machine

import (
	"os"
	"path/filepath"
	"testing"

	"lazaret/appliance"
)

// TestCardWithoutADriver: a machine without a network card that has one on PCI says which, and
// what to do; with another card, or none at all, there is nothing to say.
func TestCardWithoutADriver(t *testing.T) {
	sys := t.TempDir()
	device := func(at, class, vendor, id string, driver bool) {
		t.Helper()
		dir := filepath.Join(sys, "bus/pci/devices", at)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"class": class, "vendor": vendor, "device": id} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if driver {
			if err := os.Symlink("../../../drivers/some", filepath.Join(dir, "driver")); err != nil {
				t.Fatal(err)
			}
		}
	}
	st := appliance.Status{Stage: appliance.Unclaimed}
	device("0000:00:01.0", "0x060100", "0x8086", "0x7000", false) // a bridge
	device("0000:00:02.0", "0x020000", "0x1af4", "0x1000", true)
	if got := cardProblem(st, sys, "cloud"); got != "" {
		t.Errorf("all cards have drivers: %q", got)
	}
	device("0000:00:03.0", "0x020000", "0x8086", "0x100e", false)
	const want = "This image has no driver for the network card 8086:100e: give the machine a virtio or VMXNET3 card, or take the image for real machines."
	if got := cardProblem(st, sys, "cloud"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := cardProblem(st, sys, "metal"); got != "This image has no driver for the network card 8086:100e: give the machine a virtio or VMXNET3 card." {
		t.Errorf("metal: %q", got)
	}
	device("0000:00:04.0", "0x020000", "0x8086", "0x100e", false)
	device("0000:00:05.0", "0x028000", "0x14e4", "0x43a0", false)
	if got := driverless(sys); len(got) != 2 || got[1] != "14e4:43a0" {
		t.Errorf("cards without a driver: %q", got)
	}
	for _, s := range []appliance.Status{{Stage: appliance.Starting}, {Stage: appliance.Running, Links: []appliance.LinkIs{{Name: "eth0"}}}} {
		if got := cardProblem(s, sys, "cloud"); got != "" {
			t.Errorf("%+v: %q", s, got)
		}
	}
}
