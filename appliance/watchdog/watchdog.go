// Package watchdog keeps a watchdog quiet for as long as the machine's own process is
// well. When it is not, or the kernel is not, the watchdog restarts the machine, and the
// boot loader counts the attempt.
//
// A hardware watchdog is taken before the kernel's own (softdog), which a hanging kernel
// takes down with it. Nothing disarms the watchdog but Close; when the process ends
// without, it stays armed (the magic close of watchdog-api.rst is not made).
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Config is what Open needs.
type Config struct {
	Log     *slog.Logger            // required
	Load    func(name string) error // required: loads a kernel module by name
	Timeout time.Duration           // optional: without a sign of life for so long, the machine restarts; default 30s
	Dev     string                  // optional: default /dev
	Sys     string                  // optional: default /sys
}

// soft is the kernel's own watchdog.
const soft = "softdog"

// softNames are what watchdogs that are only software call themselves.
var softNames = []string{"Software Watchdog", soft}

// device is an open watchdog.
type device interface {
	setTimeout(seconds int) (int, error) // and returns what it is now
	feed() error
	disarm() error
	close() error
}

// Dog is an armed watchdog.
type Dog struct {
	mu      sync.Mutex
	dev     device // nil after Close or Last
	name    string
	timeout time.Duration
	c       Config
}

// Open arms a watchdog: hardware where there is one (its module must be loaded by then, or
// Run takes it later), the kernel's own where there is none.
func Open(c Config) (*Dog, error) {
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.Dev == "" {
		c.Dev = "/dev"
	}
	if c.Sys == "" {
		c.Sys = "/sys"
	}
	path, identity := c.choose()
	if path == "" || slices.Contains(softNames, identity) {
		if err := c.Load(soft); err != nil && path == "" {
			return nil, fmt.Errorf("there is no watchdog, and the kernel's own cannot be loaded: %w", err)
		}
		if path, identity = c.choose(); path == "" {
			return nil, errors.New("there is no watchdog")
		}
	}
	d := &Dog{c: c}
	if err := d.arm(path, identity); err != nil {
		return nil, err
	}
	return d, nil
}

// arm takes a watchdog, and lets go the one before.
func (d *Dog) arm(path, identity string) error {
	dev, err := openDevice(path)
	if err != nil {
		return fmt.Errorf("arming the watchdog %s: %w", identity, err)
	}
	timeout, err := set(dev, d.c.Timeout)
	if err != nil {
		return errors.Join(err, dev.close())
	}
	before := d.dev
	d.dev, d.name, d.timeout = dev, identity, timeout
	d.c.Log.Info("watchdog armed", "watchdog", identity, "timeout", timeout.String())
	if before != nil {
		return errors.Join(before.disarm(), before.close())
	}
	return nil
}

// improve takes the hardware's watchdog in place of the kernel's, once its module is there.
func (d *Dog) improve() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil || !slices.Contains(softNames, d.name) {
		return nil
	}
	path, identity := d.c.choose()
	if path == "" || slices.Contains(softNames, identity) {
		return nil
	}
	return d.arm(path, identity)
}

// choose finds the watchdog to take: hardware first, then by name.
func (c Config) choose() (path, identity string) {
	names, _ := filepath.Glob(filepath.Join(c.Sys, "class/watchdog/watchdog*"))
	best := -1
	for _, dir := range names {
		text, err := os.ReadFile(filepath.Join(dir, "identity"))
		dev := filepath.Join(c.Dev, filepath.Base(dir))
		if _, exists := os.Stat(dev); err != nil || errors.Is(exists, fs.ErrNotExist) {
			continue
		}
		worth, name := 1, strings.TrimSpace(string(text))
		if slices.Contains(softNames, name) {
			worth = 0
		}
		if worth > best {
			best, path, identity = worth, dev, name
		}
	}
	return path, identity
}

// set sets the timeout, or the longest that the hardware can where that is less, and feeds.
func set(dev device, timeout time.Duration) (time.Duration, error) {
	var got int
	err := errors.New("no timeout")
	for want := max(int(timeout/time.Second), 1); want >= 1; want /= 2 {
		if got, err = dev.setTimeout(want); err == nil {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("setting the watchdog's timeout: %w", err)
	}
	return time.Duration(got) * time.Second, dev.feed()
}

// Name says which watchdog it is, and its timeout, like "iTCO_wdt, 30s".
func (d *Dog) Name() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%s, %s", d.name, d.timeout)
}

// Hardware says whether it still bites when the kernel hangs.
func (d *Dog) Hardware() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !slices.Contains(softNames, d.name)
}

// Run feeds the dog four times in each timeout, each time only after alive has returned
// nil, until ctx ends; then it stays armed. alive asks the main loop for an answer; its
// context ends before the timeout does, and an alive that does not end is not asked twice.
// When hardware turns up after the kernel's own watchdog was armed, it takes over.
func (d *Dog) Run(ctx context.Context, alive func(context.Context) error) error {
	d.mu.Lock()
	every := d.timeout / 4
	d.mu.Unlock()
	tick := time.NewTicker(max(every, time.Millisecond))
	defer tick.Stop()
	for {
		asking, done := context.WithTimeout(ctx, 3*every)
		err := alive(asking)
		done()
		if err == nil {
			err = errors.Join(d.feed(), d.improve())
		}
		if err != nil && ctx.Err() == nil {
			d.c.Log.Error("the watchdog is not as it should be", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (d *Dog) feed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return errors.New("the watchdog was let go")
	}
	return d.dev.feed()
}

// Last sets a final timeout for an orderly shutdown, feeds once and lets go without
// disarming: a shutdown that hangs is cut short by it.
func (d *Dog) Last(timeout time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil
	}
	_, err := set(d.dev, timeout)
	d.dev = nil // stays open, and armed, until the machine is gone
	return err
}

// Close disarms the watchdog, where the driver lets it be.
func (d *Dog) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dev == nil {
		return nil
	}
	err := errors.Join(d.dev.disarm(), d.dev.close())
	d.dev = nil
	if err != nil {
		return fmt.Errorf("disarming the watchdog: %w", err)
	}
	return nil
}

// openDevice arms the device; tests have one of their own.
var openDevice = func(path string) (device, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return file(fd), nil
}

// file is a watchdog's file (watchdog-api.rst).
type file int

func (f file) setTimeout(seconds int) (int, error) {
	v := int32(seconds)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(f), unix.WDIOC_SETTIMEOUT, uintptr(unsafe.Pointer(&v))); errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

func (f file) feed() error {
	_, err := unix.Write(int(f), []byte{0})
	return err
}

func (f file) disarm() error {
	_, err := unix.Write(int(f), []byte{'V'})
	return err
}

func (f file) close() error { return unix.Close(int(f)) }
