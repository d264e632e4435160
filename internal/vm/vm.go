// Package vm runs virtual machines for tests: QEMU by its own emulation, under a hard time
// limit, with the serial line kept as a transcript, ports of the guest forwarded to
// loopback, and faults on demand (power cut, reset, pause). It needs no privilege, and no machine
// outlives the process that started it.
package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// Firmware is what starts the guest.
type Firmware string

// The firmwares. Direct is none: QEMU loads Kernel itself.
const (
	Direct     Firmware = ""
	UEFI       Firmware = "uefi"
	SecureBoot Firmware = "secureboot" // UEFI with Secure Boot on; Vars holds the keys enrolled
	BIOS       Firmware = "bios"
)

// Config says what a machine is made of. The zero Config is an empty machine of 512 MB.
type Config struct {
	Dir      string   // optional: where its state lies (NVRAM, TPM), kept from one power-on to the next; default a directory of the test's
	Firmware Firmware // optional: Direct
	Vars     string   // optional: what the NVRAM starts as; default the firmware's own. SecureBoot defaults to the snakeoil keys of Debian's ovmf
	Kernel   string   // required for Direct: a kernel
	Initrd   string   // optional
	Append   string   // optional: the kernel's command line; console=ttyS0 is not added
	Memory   int      // optional: MiB, 512
	Disks    []Disk   // optional; written as they are: see Copy
	Card     string   // optional: QEMU's network card, virtio-net-pci (e1000, vmxnet3); "none" for none
	Forward  []Port   // optional: ports of the guest that are reached on loopback
	Cables   int      // further cards of the kind Card, the cable of each ending in this process: see Cable
	Capture  bool     // keep what passes the network card in Dir/net.pcap
	Watchdog bool     // an i6300esb, which resets the guest when it is not fed
	Orders   bool     // a second serial line: see Order
	TPM      bool     // a TPM 2.0 of swtpm's, its state in Dir
	Stay     bool     // a reset starts the guest again; false: QEMU ends
	Limit    time.Duration
	// Alarm fails every Expect as soon as the guest says it. Optional: DefaultAlarm; what
	// never matches, like `[^\s\S]`, is none.
	Alarm *regexp.Regexp
}

// Port is a port of the guest's.
type Port struct {
	Network string // "tcp" or "udp"
	Number  uint16
}

// DefaultAlarm is what no guest that is well says.
var DefaultAlarm = regexp.MustCompile(`Kernel panic|Oops:|MARK FAIL|\bBUG:|\bpanic: |\bfatal error: `)

// DefaultLimit is how long a machine may run altogether.
const DefaultLimit = 5 * time.Minute

// VM is a machine that runs. Its methods may be called by several goroutines.
type VM struct {
	t      testing.TB
	config Config
	serial *transcript
	feed   *os.File // what is typed on its serial line
	orders orders
	qmp    *qmp
	qemu   *process
	tpm    *process
	ports  map[Port]netip.AddrPort
	cables []*Cable
}

// Needs skips t unless machines of that firmware can be run.
func Needs(t testing.TB, f Firmware) {
	t.Helper()
	testneed.Program(t, "qemu-system-x86_64")
	if f == UEFI || f == SecureBoot {
		for _, path := range []string{codeOf(f), varsOf(f)} {
			if _, err := os.Stat(path); err != nil {
				testneed.Skip(t, "needs the firmware "+path+": install it (Debian: ovmf)")
			}
		}
	}
}

// Start turns a machine on, and off at the end of t. Its transcript goes to the test's log
// when t failed.
func Start(t testing.TB, c Config) *VM {
	t.Helper()
	Needs(t, c.Firmware)
	c = completed(t, c)
	v := &VM{t: t, config: c, ports: map[Port]netip.AddrPort{}}
	if err := v.start(testneed.Program(t, "qemu-system-x86_64")); err != nil {
		t.Fatalf("starting a virtual machine: %v", err)
	}
	t.Cleanup(func() {
		v.Kill()
		if t.Failed() {
			t.Logf("serial line:\n%s", v.Transcript())
		}
	})
	t.Logf("QEMU by emulation (accel tcg, one CPU), process %d, %s", v.qemu.cmd.Process.Pid, describe(c))
	if err := v.findPorts(); err != nil {
		t.Fatalf("finding the forwarded ports: %v", err)
	}
	return v
}

func completed(t testing.TB, c Config) Config {
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Memory == 0 {
		c.Memory = 512
	}
	if c.Card == "" {
		c.Card = "virtio-net-pci"
	}
	if c.Limit == 0 {
		c.Limit = DefaultLimit
	}
	if c.Alarm == nil {
		c.Alarm = DefaultAlarm
	}
	if c.Vars == "" {
		c.Vars = varsOf(c.Firmware)
	}
	return c
}

func describe(c Config) string {
	how := string(c.Firmware)
	if how == "" {
		how = "kernel loaded directly"
	}
	return fmt.Sprintf("%s, %d MB, card %s", how, c.Memory, c.Card)
}

// Port returns where on loopback a forwarded port is reached.
func (v *VM) Port(network string, number uint16) netip.AddrPort {
	v.t.Helper()
	at, ok := v.ports[Port{network, number}]
	if !ok {
		v.t.Fatalf("port %s/%d is not forwarded", network, number)
	}
	return at
}

// PID is QEMU's process.
func (v *VM) PID() int { return v.qemu.cmd.Process.Pid }

// CPU is the processor time that QEMU took, once it has ended: what other jobs do meanwhile
// changes it less than the clock on the wall.
func (v *VM) CPU() time.Duration {
	select {
	case <-v.qemu.done:
	default:
		return 0
	}
	if s := v.qemu.cmd.ProcessState; s != nil {
		return s.UserTime() + s.SystemTime()
	}
	return 0
}

// Capture is the path of the pcap file of its network card.
func (v *VM) Capture() string { return filepath.Join(v.config.Dir, "net.pcap") }

// Kill takes the machine's power at once, and waits until its process is gone. Disks keep
// what was written to them.
func (v *VM) Kill() {
	v.qemu.kill()
	<-v.qemu.done
	v.qmp.close()
	v.feed.Close()
	v.orders.close()
	for _, c := range v.cables {
		c.conn.Close()
	}
	if v.tpm != nil {
		v.tpm.kill()
		<-v.tpm.done
	}
}

// Wait waits until the machine has turned itself off (or reset, unless it stays).
func (v *VM) Wait(ctx context.Context) error {
	select {
	case <-v.qemu.done:
		return v.qemu.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the machine to end: %w", context.Cause(ctx))
	}
}

// Reset presses the reset button.
func (v *VM) Reset(ctx context.Context) error { return v.do(ctx, "system_reset") }

// PowerDown presses the power button.
func (v *VM) PowerDown(ctx context.Context) error { return v.do(ctx, "system_powerdown") }

// Pause stops the guest's processor and its clocks; Continue lets it go on.
func (v *VM) Pause(ctx context.Context) error { return v.do(ctx, "stop") }

// Continue ends a Pause.
func (v *VM) Continue(ctx context.Context) error { return v.do(ctx, "cont") }

// Link plugs the network cable in or out.
func (v *VM) Link(ctx context.Context, up bool) error { return v.link(ctx, "net0", up) }

func (v *VM) link(ctx context.Context, name string, up bool) error {
	_, err := v.Do(ctx, "set_link", map[string]any{"name": name, "up": up})
	return err
}

// Throttle bounds the bytes a disk moves in a second; 0 lifts it. The number is the disk's
// place in Config.Disks.
func (v *VM) Throttle(ctx context.Context, disk int, bytes int64) error {
	_, err := v.Do(ctx, "block_set_io_throttle", map[string]any{
		"device": fmt.Sprintf("disk%d-file", disk), "bps": bytes,
		"bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
	})
	return err
}

func (v *VM) do(ctx context.Context, command string) error {
	_, err := v.Do(ctx, command, nil)
	return err
}

// Do gives QEMU a command of its machine protocol (QMP) and returns its answer.
func (v *VM) Do(ctx context.Context, command string, arguments map[string]any) (json.RawMessage, error) {
	answer, err := v.qmp.do(ctx, command, arguments)
	if err != nil {
		return nil, fmt.Errorf("telling QEMU %s: %w", command, err)
	}
	return answer, nil
}
