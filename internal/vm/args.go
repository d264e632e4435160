package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const ovmf = "/usr/share/OVMF/"

func codeOf(f Firmware) string {
	if f == SecureBoot {
		return ovmf + "OVMF_CODE_4M.secboot.fd"
	}
	return ovmf + "OVMF_CODE_4M.fd"
}

func varsOf(f Firmware) string {
	if f == SecureBoot {
		return ovmf + "OVMF_VARS_4M.snakeoil.fd"
	}
	return ovmf + "OVMF_VARS_4M.fd"
}

// processor is all that QEMU emulates, but for the two features that have a kernel copy and
// clear memory a byte at a time: hardware is quicker at that, emulation is not (of what a
// kernel takes until its first program runs, by an eighth).
const processor = "max,erms=off,fsrm=off"

// arguments is QEMU's command line. The accelerator is named: with a choice, QEMU takes a
// /dev/kvm that hangs the guest. One CPU, since with two the emulation of QEMU before 8.1
// can corrupt code that the kernel patches at run time.
func arguments(c Config, qmpFD, ordersFD, tpmFD int, cableFDs []int) ([]string, error) {
	machine := "q35"
	if c.Firmware == SecureBoot {
		machine += ",smm=on"
	}
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg", "-smp", "1", "-cpu", processor,
		"-machine", machine, "-m", strconv.Itoa(c.Memory),
		"-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	}
	if c.Orders {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=orders,fd=%d", ordersFD), "-serial", "chardev:orders")
	}
	if !c.Stay {
		a = append(a, "-no-reboot")
	}
	if c.Watchdog {
		a = append(a, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if c.TPM {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=tpm,fd=%d", tpmFD), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	boot, err := bootArguments(c)
	if err != nil {
		return nil, err
	}
	disks, err := diskArguments(c.Disks)
	if err != nil {
		return nil, err
	}
	a = append(append(append(a, boot...), disks...), networkArguments(c)...)
	return append(a, cableArguments(c, cableFDs)...), nil
}

func bootArguments(c Config) ([]string, error) {
	switch c.Firmware {
	case BIOS:
		return []string{"-device", "VGA"}, nil // whose text a BIOS writes at TextScreen
	case Direct:
		if c.Kernel == "" {
			return nil, errors.New("no firmware and no kernel given")
		}
		a := []string{"-kernel", c.Kernel}
		if c.Initrd != "" {
			a = append(a, "-initrd", c.Initrd)
		}
		if c.Append != "" {
			a = append(a, "-append", c.Append)
		}
		return a, nil
	case UEFI, SecureBoot:
	default:
		return nil, fmt.Errorf("unknown firmware %q", c.Firmware)
	}
	vars := filepath.Join(c.Dir, "nvram.fd")
	if _, err := os.Stat(vars); errors.Is(err, os.ErrNotExist) {
		if err := copyFile(vars, c.Vars); err != nil {
			return nil, fmt.Errorf("copying the NVRAM: %w", err)
		}
	}
	a := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + comma(codeOf(c.Firmware)),
		"-drive", "if=pflash,unit=1,format=raw,file=" + comma(vars),
	}
	if c.Firmware == SecureBoot {
		a = append(a, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return a, nil
}

func networkArguments(c Config) []string {
	if c.Card == "none" {
		return []string{"-nic", "none"}
	}
	net := "user,id=net0"
	for _, p := range c.Forward {
		net += fmt.Sprintf(",hostfwd=%s:127.0.0.1:0-:%d", p.Network, p.Number) // port 0: QEMU takes a free one
	}
	a := []string{"-netdev", net, "-device", c.Card + ",netdev=net0,romfile="} // nothing starts from the network
	if c.Capture {
		a = append(a, "-object", "filter-dump,id=dump0,netdev=net0,file="+comma(filepath.Join(c.Dir, "net.pcap")))
	}
	return a
}

// comma doubles commas, which part QEMU's options.
func comma(path string) string { return strings.ReplaceAll(path, ",", ",,") }

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
