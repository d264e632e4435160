package imagetest

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"lazaret/internal/vm"
)

// TestBIOS starts the disk on a machine without UEFI, where no loader of it runs: screen and
// serial line say what to do about it.
func TestBIOS(t *testing.T) {
	v := vm.Start(t, vm.Config{
		Firmware: vm.BIOS, Card: "none",
		Disks: []vm.Disk{{Path: vm.Copy(t, built(t, ".raw"), 0)}},
	})
	const fault, remedy = "Lazaret needs UEFI firmware, and this machine started it by BIOS.", "Choose UEFI (OVMF, EFI, generation 2) in the settings of this machine."
	said, err := v.Expect(soon(t), regexp.MustCompile(regexp.QuoteMeta(fault)+`\s+`+regexp.QuoteMeta(remedy)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("power-on to the serial line's sentence: %v", said.At)
	until(t, "the sentence is on the video card's screen", func() error {
		text, err := v.TextScreen(shortly(t))
		if err == nil && !(strings.Contains(text, fault) && strings.Contains(text, remedy)) {
			err = errors.New("it shows\n" + text)
		}
		return err
	})
}
