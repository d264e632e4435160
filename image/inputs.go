package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"lazaret/appliance"
	"lazaret/image/deb"
	"lazaret/image/kmod"
	"lazaret/image/packages"
)

// target is what depends on the architecture.
type target struct {
	stub, loader string // files of package systemd-boot-efi, below its directory
	boot         string // the name firmware looks for (UEFI 2.10, 3.5.1.1)
	consoles     string
}

var targets = map[string]target{
	"amd64": {"linuxx64.efi.stub", "systemd-bootx64.efi", "BOOTX64.EFI", "console=tty0 console=ttyS0,115200"},
	"arm64": {"linuxaa64.efi.stub", "systemd-bootaa64.efi", "BOOTAA64.EFI", "console=tty0 console=ttyS0,115200 console=ttyAMA0,115200"},
}

const bootDir = "usr/lib/systemd/boot/efi/"

// maxFile bounds one file taken out of a package.
const maxFile = 256 << 20

// inputs are all that an image is made of.
type inputs struct {
	packages                     []packages.Package
	kernelPkg, bootPkg, trustPkg packages.Package
	release                      string
	kernel, stub, loader         []byte
	trust                        []byte // certificates of public authorities, PEM
	program                      []byte
	floor                        time.Time
	index                        *appliance.ModuleIndex
	modules                      map[string][]byte // by path below /lib/modules/<release>
}

// Needs returns the packages an image takes files from: kernel, boot loader, trust.
func Needs(list []packages.Package, arch, flavour string) ([]packages.Package, error) {
	kernel, err := packages.Kernel(list, arch, flavour)
	boot, err2 := packages.Find(list, "systemd-boot-efi", arch)
	trust, err3 := packages.Find(list, "ca-certificates", arch)
	return []packages.Package{kernel, boot, trust}, errors.Join(err, err2, err3)
}

// floor is the time before which the machine's clock never is: when the image was built, and
// no earlier than the table of packages. So there always is one that is of use.
func (c *Config) floor() (time.Time, error) {
	day, err := packages.Day()
	if err == nil && c.Time.After(day) {
		return c.Time, nil
	}
	return day, err
}

func (c *Config) gather(ctx context.Context) (*inputs, error) {
	need, err := Needs(c.Packages, c.Arch, c.Flavour)
	if err != nil {
		return nil, err
	}
	in := &inputs{packages: need, kernelPkg: need[0], bootPkg: need[1], trustPkg: need[2]}
	if in.floor, err = c.floor(); err != nil {
		return nil, err
	}
	if in.program, err = os.ReadFile(c.Program); err != nil {
		return nil, fmt.Errorf("reading program: %w", err)
	}
	var files []string
	var errs []error
	for _, p := range in.packages { // all of them, so that one run tells all that is missing
		name, err := c.Store.Get(ctx, p)
		errs = append(errs, err)
		files = append(files, name)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := in.takeBoot(files[1], targets[c.Arch]); err != nil {
		return nil, err
	}
	if err := in.takeTrust(files[2]); err != nil {
		return nil, err
	}
	wanted := c.Modules
	if wanted == nil {
		wanted = Modules(c.Arch, c.Flavour)
	}
	return in, in.takeKernel(ctx, files[0], wanted)
}

// takeKernel reads the kernel, and of its modules those that are wanted.
func (in *inputs) takeKernel(ctx context.Context, file string, wanted []string) error {
	in.release = strings.TrimPrefix(in.kernelPkg.Name, "linux-image-")
	tree := kmod.NewTree(in.release)
	err := deb.WalkFile(file, func(name string, h *tar.Header, r io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		module := name
		for _, root := range []string{"usr/", "lib/modules/", in.release + "/"} {
			module = strings.TrimPrefix(module, root)
		}
		switch {
		case name == "boot/vmlinuz-"+in.release:
			return take(&in.kernel, h, r)
		case strings.Contains(name, "lib/modules/"+in.release+"/") && kmod.Wants(module):
			var data []byte
			if err := take(&data, h, r); err != nil {
				return err
			}
			tree.Add(module, data)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if in.kernel == nil {
		return fmt.Errorf("package %s has no kernel %s", in.kernelPkg.Name, in.release)
	}
	in.index, in.modules, err = tree.Choose(wanted)
	return err
}

func (in *inputs) takeBoot(file string, t target) error {
	err := deb.WalkFile(file, func(name string, h *tar.Header, r io.Reader) error {
		switch name {
		case bootDir + t.stub:
			return take(&in.stub, h, r)
		case bootDir + t.loader:
			return take(&in.loader, h, r)
		}
		return nil
	})
	if err == nil && (in.stub == nil || in.loader == nil) {
		err = fmt.Errorf("package %s lacks %s or %s", in.bootPkg.Name, t.stub, t.loader)
	}
	return err
}

// takeTrust puts the certificates of public authorities into one file, as
// update-ca-certificates(8) does, in the package's order.
func (in *inputs) takeTrust(file string) error {
	certs := map[string][]byte{}
	err := deb.WalkFile(file, func(name string, h *tar.Header, r io.Reader) error {
		if !strings.HasPrefix(name, "usr/share/ca-certificates/mozilla/") || path.Ext(name) != ".crt" {
			return nil
		}
		var data []byte
		if err := take(&data, h, r); err != nil {
			return err
		}
		certs[name] = data
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range sorted(certs) {
		in.trust = append(in.trust, certs[name]...)
	}
	if len(certs) == 0 {
		return fmt.Errorf("package %s has no certificates", in.trustPkg.Name)
	}
	return nil
}

func take(to *[]byte, h *tar.Header, r io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return errors.New("it is a link")
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = errors.New("it is too large")
	}
	*to = data
	return err
}
