package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/gpt"
	"lazaret/appliance/disk/mapper"
)

// Modules are those of the kernel's that Open needs, besides the disk's own driver.
var Modules = []string{"dm-mod", "dm-crypt", "ecb", "xts", "aesni-intel", "ext4", "crc32c_generic", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"}

// Names of the mapping, and of the key file on the EFI partition.
const (
	mapping = "lazaret-data"
	keyPath = "EFI/lazaret/data.key"
)

// Ioctls of <linux/blkpg.h> and <linux/fs.h>.
const (
	blkPG     = 0x1269
	blkReread = 0x125f
	pgAdd     = 1
	pgResize  = 3
)

// kernel is the system this machine runs.
type kernel struct {
	sys, dev   string
	mount, esp string
	shared     func(device string, change bool, do func(dir string) error) error // Config.WithESP
	log        *slog.Logger

	espPart string // device of the EFI partition
	mapped  *block.File
}

func (k *kernel) Disks() ([]drive, error) {
	names, err := os.ReadDir(filepath.Join(k.sys, "block"))
	if err != nil {
		return nil, err
	}
	var all []drive
	for _, n := range names {
		// What stands for a device has one below it; loops, RAM disks and mappings do not.
		if _, err := os.Stat(filepath.Join(k.sys, "block", n.Name(), "device")); err != nil {
			continue
		}
		f, err := block.Open(filepath.Join(k.dev, n.Name()))
		if err != nil {
			k.log.Debug("a disk cannot be opened", "disk", n.Name(), "error", err)
			continue
		}
		all = append(all, drive{f, n.Name(), f.Close})
	}
	return all, nil
}

// variable reads an EFI variable.
func (k *kernel) variable(name string) []byte {
	b, err := os.ReadFile(filepath.Join(k.sys, "firmware/efi/efivars", name))
	if err != nil || len(b) < 4 || len(b) > 1024 {
		return nil
	}
	return b[4:] // attributes
}

// Booted reads LoaderDevicePartUUID (Boot Loader Interface).
func (k *kernel) Booted() string {
	b := k.variable("LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		u = append(u, binary.LittleEndian.Uint16(b))
	}
	return strings.Trim(string(utf16.Decode(u)), "\x00")
}

func (k *kernel) SecureBoot() bool {
	b := k.variable("SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	return len(b) == 1 && b[0] == 1
}

// partition is the device of a disk's partition: vda2, nvme0n1p2.
func (k *kernel) partition(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		disk += "p"
	}
	return filepath.Join(k.dev, disk+strconv.Itoa(n))
}

func (k *kernel) Partition(d drive, t *gpt.Table, p gpt.Partition) (block.Device, error) {
	path := k.partition(d.Name, p.Number)
	off, size := t.Range(p)
	f, err := block.Open(path)
	if err == nil && f.Size() == size {
		return f, nil
	}
	if err == nil {
		f.Close()
	}
	if whole, ok := d.Device.(*block.File); ok {
		if err := tell(whole, p.Number, off, size); err != nil {
			return nil, fmt.Errorf("telling the kernel of partition %d: %w", p.Number, err)
		}
	}
	if f, err = block.Open(path); err != nil {
		return nil, err
	}
	if f.Size() != size {
		f.Close()
		return nil, fmt.Errorf("partition %d has %d bytes for the kernel, not %d", p.Number, f.Size(), size)
	}
	return f, nil
}

// tell has the kernel resize a partition that it knows, or else add it, or else read the
// whole table again.
func tell(d *block.File, number int, off, size int64) error {
	type partition struct {
		start, length int64
		number        int32
		_             [128]byte // names
	}
	type argument struct {
		op, flags, size int32
		data            *partition
	}
	p := partition{start: off, length: size, number: int32(number)}
	var first error
	for _, op := range []int32{pgResize, pgAdd} {
		a := argument{op: op, size: int32(unsafe.Sizeof(p)), data: &p}
		_, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), blkPG, uintptr(unsafe.Pointer(&a)))
		if e == 0 {
			return nil
		}
		first = errors.Join(first, e)
	}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), blkReread, 0); e != 0 {
		return errors.Join(first, e)
	}
	return nil
}

func (k *kernel) Map(part block.Device, m mapper.Crypt) (block.Device, error) {
	f, ok := part.(*block.File)
	if !ok {
		return nil, errors.New("that is no device of the kernel's")
	}
	m.Device = f.Name()
	c, err := mapper.Open(k.dev)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	path, err := c.Create(m)
	if err != nil {
		return nil, err
	}
	if k.mapped, err = block.Open(path); err != nil {
		return nil, errors.Join(err, c.Remove(m.Name))
	}
	return k.mapped, nil
}

func (k *kernel) Unmap() error {
	if k.mapped == nil {
		return nil
	}
	err := k.mapped.Close()
	k.mapped = nil
	c, open := mapper.Open(k.dev)
	if open != nil {
		return errors.Join(err, open)
	}
	return errors.Join(err, c.Remove(mapping), c.Close())
}

func (k *kernel) Mount(m block.Device) error { return ext4.Mount(k.mapped.Name(), k.mount, m.Size()) }
func (k *kernel) Unmount() error             { return ext4.Unmount(k.mount) }

func (k *kernel) Stat() (ext4.State, error) {
	if k.mapped == nil {
		return ext4.State{}, fs.ErrClosed
	}
	return ext4.Stat(k.mount, k.sys, k.mapped.Name())
}

func (k *kernel) Files(d drive, t *gpt.Table) error {
	p, ok := t.Find(appliance.ESPName)
	if !ok {
		return errors.New("there is no EFI partition")
	}
	k.espPart = k.partition(d.Name, p.Number)
	return nil
}

// withESP mounts the EFI partition for the time of do.
func (k *kernel) withESP(change bool, do func(path string) error) (err error) {
	if k.shared != nil {
		return k.shared(k.espPart, change, func(dir string) error { return do(filepath.Join(dir, keyPath)) })
	}
	flags := uintptr(unix.MS_RDONLY)
	if change {
		flags = 0
	}
	if err := os.MkdirAll(k.esp, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(k.espPart, k.esp, "vfat", flags|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "umask=0077"); err != nil {
		return fmt.Errorf("mounting EFI partition: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(k.esp, 0)) }()
	return do(filepath.Join(k.esp, keyPath))
}

func (k *kernel) ReadKey() (key []byte, err error) {
	err = k.withESP(false, func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() > 4096 {
			return fmt.Errorf("a key file of %d bytes", info.Size())
		}
		key, err = os.ReadFile(path)
		return err
	})
	return key, err
}

func (k *kernel) WriteKey(key []byte) error {
	return k.withESP(true, func(path string) error {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := os.Create(path + ".new")
		if err != nil {
			return err
		}
		_, err = f.Write(key)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
		unix.Sync()
		return nil
	})
}

// RemoveKey overwrites the file first: what is removed from a FAT file system stays on the disk.
func (k *kernel) RemoveKey() error {
	return k.withESP(true, func(path string) error {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			_, err = f.Write(make([]byte, info.Size()))
		}
		err = errors.Join(err, f.Sync(), f.Close(), os.Remove(path))
		unix.Sync()
		return err
	})
}
