// Package button notices that the machine's power button is pressed. ACPI, keyboards and
// hypervisors tell so by input devices (Documentation/input/input.rst), and nobody but
// whoever reads those is told.
package button

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Config says where devices are.
type Config struct {
	Log     *slog.Logger    // required
	Changed <-chan struct{} // required: gets a value after devices have come; one may stand for many
	Dir     string          // optional, /dev/input: holds event0 and so on

	has func(*os.File) (bool, error) // optional: asks the kernel
}

// Of linux/input-event-codes.h and linux/input.h.
const (
	evKey     = 1
	keyPower  = 116
	keyMost   = 0x2ff
	eventSize = int(unsafe.Sizeof(unix.Timeval{})) + 8 // time, type, code, value
)

// watch holds the devices that are read.
type watch struct {
	c       Config
	pressed func()
	group   sync.WaitGroup

	mu   sync.Mutex
	open map[string]*os.File
}

// Run calls pressed, from several goroutines maybe, whenever a power key goes down, until ctx
// ends. Devices may come and go. It returns nil.
func Run(ctx context.Context, c Config, pressed func()) error {
	if c.Dir == "" {
		c.Dir = "/dev/input"
	}
	if c.has == nil {
		c.has = hasPower
	}
	w := &watch{c: c, pressed: pressed, open: map[string]*os.File{}}
	defer w.group.Wait()
	defer w.close()
	for {
		w.look()
		select {
		case <-ctx.Done():
			return nil
		case <-c.Changed:
		}
	}
}

// look reads from what devices with a power key there are and are not read yet.
func (w *watch) look() {
	names, _ := filepath.Glob(filepath.Join(w.c.Dir, "event*"))
	for _, name := range names {
		w.mu.Lock()
		known := w.open[name] != nil
		w.mu.Unlock()
		if known {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			w.c.Log.Warn("an input device cannot be opened", "device", name, "error", err)
			continue
		}
		if has, err := w.c.has(f); err != nil || !has {
			f.Close()
			continue
		}
		w.mu.Lock()
		w.open[name] = f
		w.mu.Unlock()
		w.c.Log.Info("listening to a power button", "device", name)
		w.group.Go(func() { w.read(name, f) })
	}
}

// read takes events until the device goes.
func (w *watch) read(name string, f *os.File) {
	defer func() {
		w.mu.Lock()
		delete(w.open, name)
		w.mu.Unlock()
		f.Close()
	}()
	b := make([]byte, 64*eventSize)
	for {
		n, err := io.ReadAtLeast(f, b, eventSize) // the kernel gives whole ones
		if err != nil {
			return
		}
		if presses(b[:n]) {
			w.pressed()
		}
	}
}

// presses says whether one of the events is that a power key goes down.
func presses(b []byte) bool {
	for ; len(b) >= eventSize; b = b[eventSize:] {
		e := b[eventSize-8 : eventSize]
		if binary.NativeEndian.Uint16(e) == evKey && binary.NativeEndian.Uint16(e[2:]) == keyPower && binary.NativeEndian.Uint32(e[4:]) == 1 {
			return true
		}
	}
	return false
}

func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.open {
		f.Close()
	}
}

// hasPower asks a device which keys it has (EVIOCGBIT).
func hasPower(f *os.File) (bool, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var keys [keyMost/8 + 1]byte
	const read = 2
	request := uintptr(read<<30 | len(keys)<<16 | 'E'<<8 | (0x20 + evKey))
	var errno unix.Errno
	failed := conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&keys)))
	})
	if errno != 0 {
		failed = errors.Join(failed, errno)
	}
	return keys[keyPower/8]&(1<<(keyPower%8)) != 0, failed
}
