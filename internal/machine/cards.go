package machine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lazaret/appliance"
)

// cardProblem is a sentence on a machine whose network cards have no driver in this image;
// empty: there is a card, none is there at all, or the machine does not stand yet.
func cardProblem(st appliance.Status, sys, flavour string) string {
	if len(st.Links) > 0 || st.Stage == appliance.Starting || st.Stage == appliance.Locked {
		return ""
	}
	cards := driverless(sys)
	if len(cards) == 0 {
		return ""
	}
	what := "the network card " + cards[0]
	if len(cards) > 1 {
		what = "the network cards " + strings.Join(cards, ", ")
	}
	text := "This image has no driver for " + what + ": give the machine a virtio or VMXNET3 card"
	if flavour != "metal" {
		text += ", or take the image for real machines"
	}
	return text + "."
}

// mostCards bounds how many are named.
const mostCards = 4

// driverless are the network cards on PCI that no driver has, as vendor and device
// (Documentation/ABI/testing/sysfs-bus-pci; base class 02h of the PCI Code and ID Assignment
// Specification), each kind once. sys is where sysfs is mounted.
func driverless(sys string) []string {
	devices, _ := filepath.Glob(filepath.Join(sys, "bus/pci/devices/*"))
	var out []string
	for _, d := range devices {
		if !strings.HasPrefix(hexOf(d, "class"), "02") {
			continue
		}
		if _, err := os.Lstat(filepath.Join(d, "driver")); err == nil {
			continue
		}
		if id := hexOf(d, "vendor") + ":" + hexOf(d, "device"); !slices.Contains(out, id) && len(out) < mostCards {
			out = append(out, id)
		}
	}
	return out
}

// hexOf is a number of a device, without its 0x.
func hexOf(device, name string) string {
	text, err := os.ReadFile(filepath.Join(device, name))
	if err != nil {
		return "?"
	}
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "0x")
}
