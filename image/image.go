// Package image makes the disk image of the appliance out of the gateway's program and
// pinned Debian packages: a GUID partition table, an EFI system partition with the boot
// loader and one slot, and an empty data partition that the machine makes its own when it
// first boots. It needs no root, no mounts and no other program, and the same inputs make
// the same bytes.
package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/update"
	"lazaret/image/packages"
)

// Config says what to build.
type Config struct {
	Arch     string             // amd64 or arm64; required
	Flavour  string             // cloud or metal: which of Debian's kernels; required
	Version  string             // like 1.2.3; required
	Program  string             // path of the static lazaretd binary for Arch; required
	Packages []packages.Package // to choose from; required, packages.Pinned has them
	Store    *packages.Store    // where they are; required
	Modules  []string           // wanted modules; nil: Modules(Arch, Flavour)
	Out      string             // directory for the files made; required, made if it is not there
	Size     int64              // of the disk, bytes; 0: DefaultSize
	Keys     []byte             // public keys that updates are signed with (update.ParseKeys); required
	// Authorities are certificates that the image believes besides those of public
	// authorities, as PEM blocks and nothing between them: of whoever vouches for an update
	// channel of one's own. Every TLS connection that the gateway makes by the system's
	// trust believes them, not that to the channel alone. Optional.
	Authorities []byte
	Time        time.Time    // dates the files on the EFI partition; zero: 1980. See floor
	Log         *slog.Logger // required

	// Sign signs an EFI program for Secure Boot (package sign); nil: nothing is signed.
	Sign func(program []byte) ([]byte, error)
}

// Sizes of the disk's parts, in bytes. The data partition takes in the rest of the disk when
// the machine first boots.
const (
	MiB         = 1 << 20
	DefaultSize = 4 << 30
	ESPSize     = 512 * MiB
	dataSize    = MiB
	gap         = MiB // before the first partition, and at the end for the backup table
	leastSize   = gap + ESPSize + dataSize + gap
)

// Part is one thing that went into an image: for inventories.
type Part struct {
	Name    string // of a package, program or file
	Version string
	Path    string // in the image: "uki:..." in the slot, "esp:..." on the EFI partition
	Source  string // package's path below Debian's archive, or empty for our own
	SHA256  string // of the package, or of the file itself where there is none
	Size    int64  // bytes in the image
}

// Result is what Build made.
type Result struct {
	Raw      string // path of the disk image: sparse, read it by its data (SEEK_DATA)
	RawSize  int64  // bytes, holes included
	UKI      string // path of the slot's file, for update bundles
	Release  string // of the kernel
	Packages []packages.Package
	Parts    []Part                 // sorted by path
	Modules  *appliance.ModuleIndex // in the slot
}

// Name is what the files of an image are called, without an ending.
func (c *Config) Name() string { return "lazaret-" + c.Version + "-" + c.Arch + "-" + c.Flavour }

func (c *Config) check() error {
	var errs []error
	if _, ok := targets[c.Arch]; !ok {
		errs = append(errs, fmt.Errorf("architecture %q is neither amd64 nor arm64", c.Arch))
	}
	if c.Flavour != "cloud" && c.Flavour != "metal" {
		errs = append(errs, fmt.Errorf("flavour %q is neither cloud nor metal", c.Flavour))
	}
	if err := update.CheckVersion(c.Version); err != nil { // the boot loader, file names and updates carry it
		errs = append(errs, err)
	}
	if c.Program == "" || c.Out == "" || c.Store == nil || c.Log == nil || len(c.Packages) == 0 {
		errs = append(errs, errors.New("program, output directory, packages, their store and a log are required"))
	}
	if _, err := update.ParseKeys(c.Keys); err != nil {
		errs = append(errs, err)
	}
	var err error
	if c.Authorities, err = authorities(c.Authorities); err != nil {
		errs = append(errs, err)
	}
	if c.Size == 0 {
		c.Size = DefaultSize
	}
	if c.Size < leastSize || c.Size%MiB != 0 {
		errs = append(errs, fmt.Errorf("a disk of %d bytes cannot be: at least %d, and whole megabytes", c.Size, leastSize))
	}
	return errors.Join(errs...)
}

// authorities wants certificates of authorities, and nothing else: nothing between the
// blocks, either, where a key might be that somebody put in by mistake. It returns the
// certificates that it has read, written anew.
func authorities(text []byte) ([]byte, error) {
	begin := []byte("-----BEGIN CERTIFICATE-----")
	var out []byte
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, behind := pem.Decode(rest) // passes over what it cannot read, up to a block that it can
		taken := rest[:len(rest)-len(behind)]
		if block == nil || !bytes.HasPrefix(rest, begin) || bytes.Count(taken, []byte("-----BEGIN")) != 1 || len(block.Headers) > 0 {
			return nil, errors.New("something among the authorities is no PEM block of a certificate")
		}
		rest = behind
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading an authority: %w", err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("the certificate of %s is no authority's", cert.Subject)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return out, nil
}

// Build makes the image and returns where it lies. Files of an earlier build of the same
// version are replaced, each at once when it is whole.
func Build(ctx context.Context, c Config) (Result, error) {
	if err := c.check(); err != nil {
		return Result{}, fmt.Errorf("building image: %w", err)
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return Result{}, fmt.Errorf("making output directory: %w", err)
	}
	in, err := c.gather(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("gathering what the image is made of: %w", err)
	}
	slot, parts, err := c.slot(in)
	if err != nil {
		return Result{}, fmt.Errorf("making slot: %w", err)
	}
	if slot, in.loader, err = c.signed(slot, in.loader); err != nil {
		return Result{}, err
	}
	r := Result{RawSize: c.Size, Release: in.release, Packages: in.packages, Parts: parts, Modules: in.index}
	if r.UKI, err = c.place(".efi", func(f *os.File) error { _, err := f.Write(slot); return err }); err != nil {
		return Result{}, err
	}
	files := c.esp(in, slot)
	if r.Raw, err = c.place(".raw", func(f *os.File) error { return c.disk(f, files) }); err != nil {
		return Result{}, err
	}
	r.Parts = append(r.Parts, espParts(in, files)...)
	sortParts(r.Parts)
	return r, nil
}

// place makes one output file: beside its name first, then under it.
func (c *Config) place(ending string, write func(*os.File) error) (string, error) {
	f, err := os.CreateTemp(c.Out, ".making-*")
	if err != nil {
		return "", fmt.Errorf("making image: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := write(f); err != nil {
		return "", fmt.Errorf("making image: %w", err)
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return "", fmt.Errorf("making image: %w", err)
	}
	name := filepath.Join(c.Out, c.Name()+ending)
	if err := os.Rename(f.Name(), name); err != nil {
		return "", fmt.Errorf("making image: %w", err)
	}
	return name, nil
}
