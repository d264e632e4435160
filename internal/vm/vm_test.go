package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		guest()
	}
	lone = os.Getenv("LAZARET_VM_LONE") != ""
	os.Exit(m.Run())
}

// guest is this test binary as the guest's init: it says what it finds and repeats what it
// is told.
func guest() {
	defer syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("MARK FAIL mounting /proc:", err)
	}
	line, err := os.ReadFile("/proc/cmdline")
	fmt.Printf("guest: up cmdline=%q error=%v\n", strings.TrimSpace(string(line)), err)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch word := in.Text(); word {
		case "off":
			fmt.Println("guest: off")
			return
		case "panic":
			fmt.Println("Kernel panic - not syncing: asked for")
		default:
			fmt.Printf("guest: heard <%s>\n", word)
		}
	}
}

// TestDirectBoot has a guest speak, listen, be reset, raise an alarm and turn itself off.
func TestDirectBoot(t *testing.T) {
	Needs(t, Direct)
	kernel, _ := Kernel(t, "cloud")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	v := Start(t, Config{
		Kernel: kernel, Initrd: Initrd(t, self), Append: "console=ttyS0 quiet panic=1 no_timer_check word=check",
		Card: "none", Memory: 256, Stay: true,
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	up := regexp.MustCompile(`guest: up cmdline="[^"]*word=(\w+)`)
	first := expect(ctx, t, v, up)
	if first.Groups[1] != "check" || first.At <= 0 {
		t.Errorf("the guest came up with %q after %v", first.Groups, first.At)
	}
	say(t, v, "hello\n")
	expect(ctx, t, v, regexp.MustCompile(`guest: heard <hello>`))
	if err := v.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if again := expect(ctx, t, v, up); again.At <= first.At {
		t.Errorf("the second start is said to come after %v, the first after %v", again.At, first.At)
	}
	say(t, v, "panic\n")
	if _, err := v.Expect(ctx, regexp.MustCompile(`never said`)); err == nil || !strings.Contains(err.Error(), "Kernel panic - not syncing: asked for") {
		t.Errorf("waiting beyond a panic: %v", err)
	}
	v.Alarm(nil)
	say(t, v, "off\n")
	expect(ctx, t, v, regexp.MustCompile(`guest: off`))
	if err := v.Wait(ctx); err != nil {
		t.Errorf("turning off: %v", err)
	}
	if _, err := v.Expect(ctx, up); err == nil || !strings.Contains(err.Error(), "the machine has ended") {
		t.Errorf("waiting for a machine that is off: %v", err)
	}
	t.Logf("direct boot to a Go program: %v", first.At)
}

func expect(ctx context.Context, t *testing.T, v *VM, re *regexp.Regexp) Said {
	t.Helper()
	s, err := v.Expect(ctx, re)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func say(t *testing.T, v *VM, text string) {
	t.Helper()
	if err := v.Type(text); err != nil {
		t.Fatal(err)
	}
}

// TestFirmwareAndDevices starts every firmware with every bus and card: QEMU takes the
// command line, forwards ports that are free, and dies when told.
func TestFirmwareAndDevices(t *testing.T) {
	for _, c := range []struct {
		firmware  Firmware
		bus, card string
		tpm       bool
	}{
		{UEFI, "virtio", "virtio-net-pci", true}, {SecureBoot, "scsi", "e1000", false},
		{BIOS, "nvme", "vmxnet3", false}, {BIOS, "ahci", "e1000e", false},
	} {
		t.Run(string(c.firmware)+" "+c.bus+" "+c.card, func(t *testing.T) {
			Needs(t, c.firmware)
			forward := []Port{{"tcp", 443}, {"udp", 51820}}
			v := Start(t, Config{
				Firmware: c.firmware, Card: c.card, Forward: forward, Capture: true, Watchdog: true, TPM: c.tpm,
				Disks: []Disk{{Path: Empty(t, 1<<20), Bus: c.bus}, {Path: Empty(t, 1<<20), Bus: "cdrom"}},
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if a, b := v.Port("tcp", 443), v.Port("udp", 51820); a.Port() == 0 || b.Port() == 0 {
				t.Errorf("forwarded to %v and %v", a, b)
			}
			for _, step := range []func() error{
				func() error { return v.Pause(ctx) }, func() error { return v.Continue(ctx) },
				func() error { return v.Link(ctx, false) }, func() error { return v.Throttle(ctx, 0, 1000) },
			} {
				if err := step(); err != nil {
					t.Error(err)
				}
			}
			if _, err := v.Do(ctx, "no-such-command", nil); err == nil || !strings.Contains(err.Error(), "CommandNotFound") {
				t.Errorf("an unknown command: %v", err)
			}
			v.Kill()
			if err := syscall.Kill(v.PID(), 0); err != syscall.ESRCH {
				t.Errorf("QEMU is still there: %v", err)
			}
		})
	}
}

// TestCopyLeavesTheImage: what a guest writes goes to the copy, raw or not.
func TestCopyLeavesTheImage(t *testing.T) {
	image := t.TempDir() + "/image.raw"
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	const size = 4 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("in the middle"), 2<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	to := Copy(t, image, 8<<20)
	got, err := os.ReadFile(to)
	if err != nil || len(got) != 8<<20 || string(got[2<<20:2<<20+13]) != "in the middle" || strings.Trim(string(got), "\x00") != "in the middle" {
		t.Errorf("the copy has %d bytes and holds something else (%v)", len(got), err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(to, &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("the copy takes %d bytes on the disk (%v)", st.Blocks*512, err)
	}
}

// TestTranscript checks times, cursor and bounds without a machine.
func TestTranscript(t *testing.T) {
	r := newTranscript(DefaultAlarm)
	v := &VM{t: t, serial: r}
	for _, s := range []string{"one\r\ntw", "o\r\n\x1b[2Jthree code=AB", "CD\n"} {
		if _, err := io.WriteString(r, s); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.lines) != 3 {
		t.Errorf("counted %d lines", len(r.lines))
	}
	s, err := v.Expect(t.Context(), regexp.MustCompile(`code=(\w+)`))
	if err != nil || s.Groups[1] != "ABCD" {
		t.Errorf("found %q, %v", s.Groups, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Expect(ctx, regexp.MustCompile(`one`)); err == nil || !strings.Contains(err.Error(), "three code=ABCD") {
		t.Errorf("what was passed is found again, or the tail is missing: %v", err)
	}
	if text := v.Transcript(); strings.ContainsAny(text, "\x1b\r") || strings.Count(text, "\n") != 3 {
		t.Errorf("transcript %q", text)
	}
}

var lone bool // this is the child of TestNoOrphans

// TestNoOrphans kills a test process outright: its machine dies with it.
func TestNoOrphans(t *testing.T) {
	Needs(t, BIOS)
	if lone {
		v := Start(t, Config{Firmware: BIOS})
		fmt.Printf("machine %d\n", v.PID())
		select {}
	}
	c := exec.Command("/proc/self/exe", "-test.run=^TestNoOrphans$")
	c.Env = append(os.Environ(), "LAZARET_VM_LONE=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for in := bufio.NewScanner(out); pid == 0 && in.Scan(); {
		fmt.Sscanf(in.Text(), "machine %d", &pid)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("the child's machine, process %d: %v", pid, err)
	}
	defer unix.Close(fd)
	if err := errors.Join(c.Process.Kill(), ignore(c.Wait())); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	if err != nil || n != 1 {
		t.Errorf("the machine outlived the process that started it (%d, %v)", n, err)
	}
}

// ignore drops what Wait says of a process that was killed.
func ignore(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil
	}
	return err
}
