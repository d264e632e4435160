package posture

import (
	"errors"
	"io/fs"
	"strings"
)

// fillers are what makers leave in firmware that nobody filled in, in lower case.
var fillers = map[string]bool{
	"": true, "none": true, "default string": true, "to be filled by o.e.m.": true, "not specified": true, "not applicable": true,
	"system serial number": true, "system product name": true, "system manufacturer": true, "0": true, "0123456789": true, "123456789": true, "unknown": true, "o.e.m.": true,
}

func filler(v string) bool { return fillers[strings.ToLower(strings.TrimSpace(v))] }

// hardware names maker, model and serial number: from DMI, else from the device tree. The
// serial number is readable by root alone.
func hardware(root fs.FS) (map[string]string, error) {
	facts := map[string]string{}
	for name, files := range map[string][]string{
		"device.manufacturer": {"sys/class/dmi/id/sys_vendor"},
		"device.model":        {"sys/class/dmi/id/product_name", "proc/device-tree/model"},
		"device.serial":       {"sys/class/dmi/id/product_serial", "sys/class/dmi/id/board_serial", "proc/device-tree/serial-number"},
	} {
		for _, f := range files {
			if v := readWord(root, f); !filler(v) {
				facts[name] = v
				break
			}
		}
	}
	if len(facts) == 0 {
		return nil, errors.New("neither DMI nor a device tree names this device")
	}
	return facts, nil
}

// GUIDs of EFI variables: the specification's own, and shim's.
const (
	efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiShim   = "-605dab50-e046-4300-abb6-3dd810dd8b23"
)

// boot says whether the firmware checked what it booted: SecureBoot is 1 and SetupMode 0
// (UEFI 2.10, section 3.3), and shim was not told to check nothing (MokSBStateRT).
func boot(root fs.FS) (map[string]string, error) {
	const vars = "sys/firmware/efi/efivars/"
	if efi, err := exists(root, "sys/firmware/efi"); err != nil || !efi {
		return nil, errors.Join(errors.New("this system did not boot by EFI, or hides it"), err)
	}
	secure, there, err := efiByte(root, vars+"SecureBoot"+efiGlobal)
	if err != nil {
		return nil, err
	}
	if !there {
		if list, err := fs.ReadDir(root, strings.TrimSuffix(vars, "/")); err != nil || len(list) == 0 {
			return nil, errors.Join(errors.New("the firmware's variables are not to be seen"), err)
		}
		return one("boot.secure", "false"), nil // firmware that knows nothing of it
	}
	setup, _, err := efiByte(root, vars+"SetupMode"+efiGlobal)
	if err != nil {
		return nil, err
	}
	lax, _, err := efiByte(root, vars+"MokSBStateRT"+efiShim)
	if err != nil {
		return nil, err
	}
	return one("boot.secure", yes(secure == 1 && setup == 0 && lax == 0)), nil
}

// efiByte reads a variable of one byte, behind four bytes of attributes.
func efiByte(root fs.FS, name string) (value byte, there bool, err error) {
	text, err := readFile(root, name)
	if absent(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if len(text) != 5 {
		return 0, false, errors.New("/" + name + " is of another form")
	}
	return text[4], true, nil
}

// chip says whether there is a TPM 2.0. Whether it is what it says it is, only an
// attestation shows.
func chip(root fs.FS) (map[string]string, error) {
	sys, err := exists(root, "sys/class")
	if err != nil || !sys {
		return nil, errors.Join(errors.New("the system's devices are not to be seen"), err)
	}
	return one("tpm.present", yes(readWord(root, "sys/class/tpm/tpm0/tpm_version_major") == "2")), nil
}
