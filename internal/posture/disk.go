package posture

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// kept are the mount points beside the root that hold what a device keeps.
var kept = []string{"/", "/home", "/opt", "/root", "/srv", "/var"}

// errUnknown reports storage of which this package cannot tell whether it is encrypted.
var errUnknown = errors.New("cannot be told")

// disk says whether everything that the device keeps lies on dm-crypt: the root, the file
// systems of their own at the places in kept, and swap. One that cannot be told, as on ZFS
// or behind a network, makes the answer unknown, unless another is plainly not encrypted.
func disk(root fs.FS) (map[string]string, error) {
	text, err := readFile(root, "proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mounts: %w", err)
	}
	mounts := mountsOf(text)
	if mounts["/"].device == "" {
		return nil, errors.New("no root file system is mounted")
	}
	var unknown error
	for _, at := range kept {
		m, mounted := mounts[at]
		if !mounted || m.kind == "tmpfs" { // a tmpfs is memory, and swap is looked at below
			continue
		}
		ok, err := encryptedMount(root, m)
		if err != nil {
			unknown = errors.Join(unknown, fmt.Errorf("%s: %w", at, err))
		} else if !ok {
			return one("disk.encrypted", "false"), nil
		}
	}
	ok, err := encryptedSwap(root)
	if err == nil && !ok {
		return one("disk.encrypted", "false"), nil
	}
	if unknown = errors.Join(unknown, err); unknown != nil {
		return nil, unknown
	}
	return one("disk.encrypted", "true"), nil
}

// mount is one line of mountinfo.
type mount struct{ device, kind, source string }

// mountsOf reads proc_pid_mountinfo(5); of several mounts at one place the last one shows.
func mountsOf(text string) map[string]mount {
	out := map[string]mount{}
	for line := range strings.Lines(text) {
		own, super, ok := strings.Cut(line, " - ")
		f, s := strings.Fields(own), strings.Fields(super)
		if ok && len(f) >= 5 && len(s) >= 2 {
			out[f[4]] = mount{device: f[2], kind: s[0], source: s[1]}
		}
	}
	return out
}

func encryptedMount(root fs.FS, m mount) (bool, error) {
	if m.kind == "btrfs" { // has device numbers of its own, and perhaps several devices
		return encryptedBtrfs(root, m.source)
	}
	if strings.HasPrefix(m.device, "0:") {
		return false, fmt.Errorf("encryption of a file system of type %s %w", m.kind, errUnknown)
	}
	return encrypted(root, "sys/dev/block/"+m.device, 0)
}

// encryptedBtrfs looks at all devices of the file system that source belongs to.
func encryptedBtrfs(root fs.FS, source string) (bool, error) {
	name, err := blockName(root, source)
	if err != nil {
		return false, err
	}
	lists, err := fs.Glob(root, "sys/fs/btrfs/*/devices")
	if err != nil {
		return false, err
	}
	for _, l := range lists {
		list, err := fs.ReadDir(root, l)
		if err != nil {
			return false, fmt.Errorf("reading /%s: %w", l, err)
		}
		if !slices.ContainsFunc(list, func(e fs.DirEntry) bool { return e.Name() == name }) {
			continue
		}
		for _, e := range list {
			if ok, err := encrypted(root, "sys/class/block/"+e.Name(), 0); err != nil || !ok {
				return false, err
			}
		}
		return true, nil
	}
	return false, fmt.Errorf("the devices of btrfs on %s: %w", source, errUnknown)
}

// blockName is the kernel's name of a device file: the device mapper's files have others.
func blockName(root fs.FS, file string) (string, error) {
	name := strings.TrimPrefix(file, "/dev/")
	if mapped, ok := strings.CutPrefix(name, "mapper/"); ok {
		all, err := fs.Glob(root, "sys/class/block/dm-*/dm/name")
		if err != nil {
			return "", err
		}
		for _, f := range all {
			if readWord(root, f) == mapped {
				return path.Base(path.Dir(path.Dir(f))), nil
			}
		}
	}
	if name == file || strings.Contains(name, "/") || !fs.ValidPath(name) {
		return "", fmt.Errorf("the block device %s: %w", file, errUnknown)
	}
	return name, nil
}

// ciphers are the kinds of dm-crypt device that cryptsetup names in a UUID. CRYPT-VERITY,
// CRYPT-INTEGRITY and CRYPT-SUBDEV are its too, and encrypt nothing.
var ciphers = []string{"CRYPT-LUKS1-", "CRYPT-LUKS2-", "CRYPT-PLAIN-", "CRYPT-TCRYPT-", "CRYPT-BITLK-", "CRYPT-FVAULT2-", "CRYPT-LOOPAES-"}

// deepest bounds a stack of block devices.
const deepest = 8

// encrypted says whether a block device is dm-crypt, or lies wholly on such: of several
// devices below (RAID, volumes over several disks) all must.
func encrypted(root fs.FS, block string, depth int) (bool, error) {
	if depth > deepest {
		return false, fmt.Errorf("a stack of more than %d block devices: %w", deepest, errUnknown)
	}
	if there, err := exists(root, block); err != nil || !there {
		return false, errors.Join(fmt.Errorf("the block device /%s: %w", block, errUnknown), err)
	}
	uuid := readWord(root, block+"/dm/uuid")
	if slices.ContainsFunc(ciphers, func(c string) bool { return strings.HasPrefix(uuid, c) }) {
		return true, nil
	}
	if loop, err := exists(root, block+"/loop"); err != nil || loop {
		return false, errors.Join(fmt.Errorf("what lies below a loop device: %w", errUnknown), err)
	}
	below, err := fs.ReadDir(root, block+"/slaves")
	if err != nil && !absent(err) { // a partition has no such directory
		return false, fmt.Errorf("reading what lies below /%s: %w", block, err)
	}
	for _, b := range below {
		if ok, err := encrypted(root, block+"/slaves/"+b.Name(), depth+1); err != nil || !ok {
			return false, err
		}
	}
	return len(below) > 0, nil
}

// encryptedSwap says whether every swap partition is encrypted. A swap file lies on a file
// system, which is looked at; zram is memory.
func encryptedSwap(root fs.FS) (bool, error) {
	text, err := readFile(root, "proc/swaps")
	if absent(err) {
		return true, nil // a kernel without swap
	}
	if err != nil {
		return false, fmt.Errorf("reading the swaps: %w", err)
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != "partition" || strings.HasPrefix(f[0], "/dev/zram") {
			continue
		}
		name, err := blockName(root, f[0])
		if err != nil {
			return false, fmt.Errorf("swap: %w", err)
		}
		if ok, err := encrypted(root, "sys/class/block/"+name, 0); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}
