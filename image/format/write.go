package format

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Kind is a form, by the ending of its files.
type Kind string

// The forms that Write knows.
const (
	KindQCOW2 Kind = "qcow2"
	KindVMDK  Kind = "vmdk"
	KindOVA   Kind = "ova"
	KindVHDX  Kind = "vhdx"
	KindZstd  Kind = "raw.zst"
)

// Kinds are all of them.
var Kinds = []Kind{KindQCOW2, KindVMDK, KindOVA, KindVHDX, KindZstd}

// Write makes the file path, which is whole or not there; a file of that name is replaced.
func Write(ctx context.Context, kind Kind, d *Disk, path string, m Machine) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".format-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	w := contextWriter{ctx, f}
	switch kind {
	case KindQCOW2:
		err = QCOW2(w, d)
	case KindVMDK:
		err = VMDK(w, d, filepath.Base(path))
	case KindOVA:
		err = writeWithScratch(ctx, f, d, m)
	case KindVHDX:
		err = VHDX(w, d)
	case KindZstd:
		err = Zstd(w, d)
	default:
		err = fmt.Errorf("%q is no form of a disk: choose from %v", kind, Kinds)
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Sync())
}

// writeWithScratch keeps the vmdk beside the OVA while that is made.
func writeWithScratch(ctx context.Context, f *os.File, d *Disk, m Machine) (err error) {
	scratch, err := os.CreateTemp(filepath.Dir(f.Name()), ".format-*")
	if err != nil {
		return fmt.Errorf("making a scratch file: %w", err)
	}
	defer func() { err = errors.Join(err, scratch.Close(), os.Remove(scratch.Name())) }()
	return OVA(ctx, f, d, m, scratch)
}
