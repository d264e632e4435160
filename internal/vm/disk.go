package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// Disk is a file that the guest sees as a disk.
type Disk struct {
	Path     string
	Format   string // optional: by the name's end, .qcow2, .vmdk, .vhdx or raw
	Bus      string // optional: virtio (also scsi, nvme, ahci, usb, cdrom)
	ReadOnly bool
	// Faults is a file of rules for QEMU's blkdebug driver, which fails chosen reads and
	// writes. Optional.
	Faults string
}

func diskArguments(disks []Disk) ([]string, error) {
	var a []string
	controllers, ports := map[string]bool{}, 0 // of AHCI: one disk on each port
	for i, d := range disks {
		format := d.Format
		if format == "" {
			format = formatOf(d.Path)
		}
		id := fmt.Sprintf("disk%d", i)
		drive := fmt.Sprintf("if=none,id=%s-file,format=%s,cache=writeback,discard=unmap,", id, format)
		if d.ReadOnly || d.Bus == "cdrom" {
			drive += "readonly=on,"
		}
		if d.Faults == "" {
			drive += "file=" + comma(d.Path)
		} else {
			drive += "file=blkdebug:" + comma(d.Faults) + ":" + comma(d.Path)
		}
		a = append(a, "-drive", drive)
		controller := map[string]string{"scsi": "virtio-scsi-pci", "usb": "qemu-xhci"}[d.Bus]
		if controller != "" && !controllers[d.Bus] {
			controllers[d.Bus] = true
			a = append(a, "-device", controller+",id="+d.Bus+"0")
		}
		device, ok := map[string]string{
			"": "virtio-blk-pci", "virtio": "virtio-blk-pci", "scsi": "scsi-hd,bus=scsi0.0", "usb": "usb-storage,bus=usb0.0",
			"nvme": "nvme,serial=" + id, "ahci": "ide-hd", "cdrom": "ide-cd",
		}[d.Bus]
		if !ok {
			return nil, fmt.Errorf("unknown bus %q of disk %s", d.Bus, d.Path)
		}
		if d.Bus == "ahci" || d.Bus == "cdrom" {
			device += fmt.Sprintf(",bus=ide.%d", ports)
			ports++
		}
		if d.Bus != "cdrom" {
			device += fmt.Sprintf(",bootindex=%d", i)
		}
		a = append(a, "-device", device+",drive="+id+"-file,id="+id)
	}
	return a, nil
}

func formatOf(path string) string {
	switch filepath.Ext(path) {
	case ".qcow2":
		return "qcow2"
	case ".vmdk":
		return "vmdk"
	case ".vhdx":
		return "vhdx"
	}
	return "raw"
}

// Copy makes a disk of the test's own from an image, which stays as it is: a sparse copy of
// a raw one, an overlay over any other. It has size bytes, if that is more than the image
// has.
func Copy(t testing.TB, image string, size int64) string {
	t.Helper()
	format := formatOf(image)
	if format == "raw" {
		path := filepath.Join(t.TempDir(), "disk.raw")
		if err := sparseCopy(path, image, size); err != nil {
			t.Fatalf("copying %s: %v", image, err)
		}
		return path
	}
	full, err := filepath.Abs(image)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	program := testneed.Program(t, "qemu-img")
	run(t, program, "create", "-q", "-f", "qcow2", "-b", full, "-F", format, path)
	if size > 0 {
		run(t, program, "resize", "-q", path, fmt.Sprint(size))
	}
	return path
}

// Empty makes a raw disk of zeros.
func Empty(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// sparseCopy copies what is not a hole (lseek(2), SEEK_DATA).
func sparseCopy(to, from string, size int64) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := out.Truncate(max(size, info.Size())); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		start, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // holes to the end
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(in.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, start), io.NewSectionReader(in, start, end-start)); err != nil {
			return err
		}
		at = end
	}
	return out.Close()
}
