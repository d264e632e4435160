// Package kmod reads what kernel modules say of themselves, and chooses those an image
// takes along.
package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds one module's size, unpacked: the largest of Debian's is under 20 MB.
const maxModule = 64 << 20

// Info is what the .modinfo section of a module says. Names have underscores.
type Info struct {
	Name    string
	Depends []string
	Soft    []string // to load before, if it can be (softdep pre)
	Aliases []string
	Release string // of the kernel it was built for
	Signed  bool
}

// Read reads a module file: .ko, .ko.xz or .ko.zst.
func Read(name string, data []byte) (Info, error) {
	raw, err := unpack(name, data)
	if err != nil {
		return Info{}, fmt.Errorf("unpacking module %s: %w", name, err)
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return Info{}, fmt.Errorf("reading module %s: %w", name, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return Info{}, fmt.Errorf("reading module %s: no .modinfo", name)
	}
	text, err := section.Data()
	if err != nil {
		return Info{}, fmt.Errorf("reading module %s: %w", name, err)
	}
	info := parse(text)
	if info.Name == "" {
		info.Name = Name(name)
	}
	info.Signed = bytes.HasSuffix(raw, []byte("~Module signature appended~\n"))
	return info, nil
}

func unpack(name string, data []byte) ([]byte, error) {
	var r io.Reader
	switch path.Ext(name) {
	case ".ko":
		return data, nil
	case ".xz":
		x, err := xz.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		r = x
	case ".zst":
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("unknown compression %q", path.Ext(name))
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(raw) > maxModule {
		err = errors.New("it is too large")
	}
	return raw, err
}

// buses are those on which a machine finds its devices, as aliases begin.
var buses = []string{"pci:", "usb:", "vmbus:", "xen:"}

// drives says whether a module is a driver of devices that a machine may have.
func (i Info) drives() bool {
	return slices.ContainsFunc(i.Aliases, func(alias string) bool {
		return slices.ContainsFunc(buses, func(bus string) bool { return strings.HasPrefix(alias, bus) })
	})
}

// Plain is the path of a module's file once it is unpacked.
func Plain(file string) string {
	if strings.HasSuffix(file, ".ko") {
		return file
	}
	return strings.TrimSuffix(file, path.Ext(file))
}

// parse reads key=value strings, each ended by a zero byte.
func parse(text []byte) Info {
	var info Info
	for line := range bytes.SplitSeq(text, []byte{0}) {
		key, value, _ := strings.Cut(string(line), "=")
		switch key {
		case "name":
			info.Name = under(value)
		case "alias":
			if value != "" {
				info.Aliases = append(info.Aliases, value)
			}
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					info.Depends = append(info.Depends, under(d))
				}
			}
		case "softdep":
			if list, pre := strings.CutPrefix(value, "pre:"); pre {
				list, _, _ = strings.Cut(list, "post:")
				for d := range strings.FieldsSeq(list) {
					info.Soft = append(info.Soft, under(d))
				}
			}
		case "vermagic":
			info.Release, _, _ = strings.Cut(value, " ")
		}
	}
	return info
}

// Name is a module's name by its file's.
func Name(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return under(base)
}

func under(s string) string { return strings.ReplaceAll(s, "-", "_") }
