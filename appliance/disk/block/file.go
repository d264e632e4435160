package block

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ioctls of <linux/fs.h>.
const (
	blkSectorSize = 0x1268     // BLKSSZGET: logical sector, bytes
	blkSize       = 0x80081272 // BLKGETSIZE64
	blkDiscard    = 0x1277     // BLKDISCARD: {offset, length}
)

// File is a block device or a plain file as a Device.
type File struct {
	*os.File
	size   int64
	sector int
}

// Open opens a block device, or a plain file, for reading and writing.
func Open(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening device: %w", err)
	}
	d := &File{File: f, sector: 512}
	if err := d.measure(); err != nil {
		f.Close()
		return nil, fmt.Errorf("measuring %s: %w", path, err)
	}
	return d, nil
}

func (d *File) measure() error {
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeDevice == 0 {
		d.size = info.Size()
		return nil
	}
	var size uint64
	if err := d.ioctl(blkSize, unsafe.Pointer(&size)); err != nil {
		return err
	}
	d.size = int64(size)
	d.sector, err = unix.IoctlGetInt(int(d.Fd()), blkSectorSize)
	if err == nil && (d.sector < 512 || d.sector > 65536 || d.sector&(d.sector-1) != 0) {
		err = fmt.Errorf("sectors of %d bytes", d.sector)
	}
	return err
}

// Size is the device's, in bytes, when it was opened.
func (d *File) Size() int64 { return d.size }

// SectorSize is the device's logical sector, in bytes.
func (d *File) SectorSize() int { return d.sector }

// Discard tells the device that the bytes [off, off+length) are not wanted any more. Many
// devices cannot be told; that is an error which does no harm.
func (d *File) Discard(off, length int64) error {
	what := [2]uint64{uint64(off), uint64(length)}
	if err := d.ioctl(blkDiscard, unsafe.Pointer(&what)); err != nil {
		return fmt.Errorf("discarding: %w", err)
	}
	return nil
}

func (d *File) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

var (
	_ Device      = (*File)(nil)
	_ Discarder   = (*File)(nil)
	_ io.ReaderAt = (*File)(nil)
)
