// Package mapper has the kernel encrypt a device (dm-crypt), by the ioctls of
// <linux/dm-ioctl.h>.
package mapper

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands, flags and sizes of <linux/dm-ioctl.h>.
const (
	devCreate  = 3
	devRemove  = 4
	devSuspend = 6 // and resume
	tableLoad  = 9

	secureData = 1 << 15 // the kernel forgets what it was told
	headSize   = 312
	specSize   = 40
)

// Control is the device-mapper's control device.
type Control struct {
	f   *os.File
	dev string // where devices are: /dev
}

// Open opens <dev>/mapper/control, which it makes where there is none (device 10:236).
func Open(dev string) (*Control, error) {
	path := filepath.Join(dev, "mapper/control")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 236))); err != nil {
			return nil, fmt.Errorf("making %s: %w", path, err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening device-mapper: %w", err)
	}
	return &Control{f, dev}, nil
}

// Close lets go of the control device; mappings stay.
func (c *Control) Close() error { return c.f.Close() }

// Crypt is a mapping.
type Crypt struct {
	Name   string // of the mapping
	Device string // what is below: /dev/vda2
	Offset int64  // of the data in it, bytes
	Size   int64  // of the mapping, bytes
	Sector int    // of the cipher: 512 or 4096 bytes
	Key    []byte // 64 bytes
}

// table is the mapping in dm-crypt's words. Discards are not let through: they would tell
// whoever has the disk which of it is in use.
func (m Crypt) table(key string) string {
	t := fmt.Sprintf("aes-xts-plain64 %s 0 %s %d", key, m.Device, m.Offset/512)
	if m.Sector == 4096 {
		t += " 1 sector_size:4096"
	}
	return t
}

// Create makes a mapping and returns its device. The key goes to the kernel by its keyring,
// where nobody can read it, not even in the mapping's table; where the kernel has no
// keyrings, in the table.
func (c *Control) Create(m Crypt) (string, error) {
	b, err := c.do(devCreate, m.Name, 0, nil)
	if err != nil {
		return "", fmt.Errorf("making mapping %s: %w", m.Name, err)
	}
	path := filepath.Join(c.dev, fmt.Sprintf("dm-%d", unix.Minor(binary.NativeEndian.Uint64(b[40:]))))
	err = c.load(m)
	if err == nil {
		_, err = c.do(devSuspend, m.Name, 0, nil) // without the flag: resume
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("loading mapping %s: %w", m.Name, err), c.Remove(m.Name))
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(binary.NativeEndian.Uint64(b[40:]))); err != nil {
			return "", errors.Join(fmt.Errorf("making %s: %w", path, err), c.Remove(m.Name))
		}
	}
	return path, nil
}

// Remove takes a mapping away, and with it the key out of the kernel.
func (c *Control) Remove(name string) error {
	if _, err := c.do(devRemove, name, 0, nil); err != nil {
		return fmt.Errorf("removing mapping %s: %w", name, err)
	}
	return nil
}

// load gives the kernel the table.
func (c *Control) load(m Crypt) error {
	err := c.loadByKeyring(m)
	if err == nil {
		return nil
	}
	spec := target(uint64(m.Size/512), m.table(hex.EncodeToString(m.Key)))
	defer clear(spec)
	if _, again := c.do(tableLoad, m.Name, 1, spec); again != nil {
		return errors.Join(err, again)
	}
	return nil
}

// loadByKeyring puts the key into this thread's keyring for as long as dm-crypt takes to
// fetch it.
func (c *Control) loadByKeyring(m Crypt) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	name := "lazaret:" + m.Name
	id, err := unix.AddKey("logon", name, m.Key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("adding key to the kernel's keyring: %w", err)
	}
	spec := target(uint64(m.Size/512), m.table(fmt.Sprintf(":%d:logon:%s", len(m.Key), name)))
	_, err = c.do(tableLoad, m.Name, 1, spec)
	if _, gone := unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0); gone != nil {
		return errors.Join(err, fmt.Errorf("taking key out of the kernel's keyring: %w", gone))
	}
	return err
}

// target is struct dm_target_spec and its parameters.
func target(sectors uint64, params string) []byte {
	b := make([]byte, specSize, specSize+len(params)+8)
	binary.NativeEndian.PutUint64(b[8:], sectors)
	copy(b[24:40], "crypt")
	b = append(b, params...)
	return append(b, make([]byte, 8-len(params)%8)...) // ends with a zero
}

// do runs one command and returns the struct dm_ioctl it left.
func (c *Control) do(command uintptr, name string, targets uint32, data []byte) ([]byte, error) {
	if len(name) > 127 || strings.ContainsAny(name, "/\x00") {
		return nil, fmt.Errorf("a mapping cannot be called %q", name)
	}
	b := head(name, targets, len(data))
	b = append(b, data...)
	defer clear(b[headSize:])
	request := 3<<30 | uintptr(headSize)<<16 | 0xfd<<8 | command // _IOWR(0xfd, command, struct dm_ioctl)
	_, _, e := unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), request, uintptr(unsafe.Pointer(&b[0])))
	if e != 0 {
		return nil, e
	}
	return bytes.Clone(b[:headSize]), nil
}

// head is struct dm_ioctl.
func head(name string, targets uint32, data int) []byte {
	b := make([]byte, headSize)
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], 4) // version 4.0.0: what every kernel has
	ne.PutUint32(b[12:], uint32(headSize+data))
	ne.PutUint32(b[16:], headSize)
	ne.PutUint32(b[20:], targets)
	if data > 0 {
		ne.PutUint32(b[28:], secureData)
	}
	copy(b[48:], name)
	return b
}
