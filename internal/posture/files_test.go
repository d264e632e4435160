package posture

import (
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// tree makes a device's files; a name that ends in / is an empty directory.
func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			out[dir] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		} else {
			out[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
		}
	}
	return out
}

// scene is one device's files and what must be said of it: facts, and whether something
// must be named as missing.
type scene struct {
	name    string
	files   map[string]string
	want    map[string]string
	missing bool
}

func try(t *testing.T, read func(fs.FS) (map[string]string, error), scenes []scene) {
	t.Helper()
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			got, err := read(tree(s.files))
			maps.DeleteFunc(got, func(_, v string) bool { return v == "" }) // as Collect does
			if !maps.Equal(got, s.want) || (err != nil) != s.missing {
				t.Errorf("got %v and %v, want %v", got, err, s.want)
			}
		})
	}
}

func TestRelease(t *testing.T) {
	try(t, release, []scene{
		{"Debian", map[string]string{"etc/os-release": "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n", "etc/debian_version": "12.9\n", "proc/sys/kernel/osrelease": "6.1.0-30-amd64\n"},
			map[string]string{"os.name": "debian", "os.version": "12.9", "os.build": "6.1.0-30-amd64"}, false},
		{"Ubuntu", map[string]string{"etc/os-release": "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n", "etc/debian_version": "trixie/sid\n"},
			map[string]string{"os.name": "ubuntu", "os.version": "24.04"}, false},
		{"in /usr", map[string]string{"usr/lib/os-release": "ID='fedora'\nVERSION_ID=43\n"}, map[string]string{"os.name": "fedora", "os.version": "43"}, false},
		{"Debian testing", map[string]string{"etc/os-release": "ID=debian\n", "etc/debian_version": "forky/sid\n"}, map[string]string{"os.name": "debian"}, true},
		{"nothing", map[string]string{"proc/sys/kernel/osrelease": "6.12.0\n"}, map[string]string{"os.build": "6.12.0"}, true},
		{"too large", map[string]string{"etc/os-release": "ID=debian\n" + strings.Repeat("#", maxFile)}, map[string]string{}, true},
	})
}

func TestPatched(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	read := func(root fs.FS) (map[string]string, error) { return patched(root, zone) }
	const installs = "2026-11-21 09:00:00 install cowsay:all <none> 3.03\n2026-11-21 09:00:01 status installed cowsay:all 3.03\n"
	try(t, read, []scene{
		{"dpkg", map[string]string{"var/log/dpkg.log": "2026-11-19 10:11:12 upgrade libc6:amd64 2.36-9 2.36-10\n2026-11-20 00:11:12 upgrade openssl:amd64 3.0.15 3.0.17\n" + installs},
			map[string]string{"os.patched_at": "2026-11-19T23:11:12Z"}, false},
		{"dpkg, rotated yesterday", map[string]string{"var/log/dpkg.log": installs, "var/log/dpkg.log.1": "2026-10-31 12:00:00 upgrade bash:amd64 5.1 5.2\n"},
			map[string]string{"os.patched_at": "2026-10-31T11:00:00Z"}, false},
		{"a new package is no update", map[string]string{"var/log/dpkg.log": installs, "var/lib/dpkg/status": "Package: x\n"}, nil, true},
		{"dnf", map[string]string{"var/log/dnf.rpm.log": "2026-11-18T08:00:00+0100 INFO --- logging initialized ---\n2026-11-18T08:00:05+0100 SUBDEBUG Upgrade: openssl-libs-1:3.2.2-6.el9.x86_64\n2026-11-18T08:00:06+0100 SUBDEBUG Upgraded: openssl-libs-1:3.2.2-5.el9.x86_64\n2026-11-20T08:00:06+0100 SUBDEBUG Installed: jq-1.6.x86_64\n"},
			map[string]string{"os.patched_at": "2026-11-18T07:00:05Z"}, false},
		{"pacman", map[string]string{"var/log/pacman.log": "[2026-11-17T21:00:00+0000] [PACMAN] starting full system upgrade\n[2026-11-17T21:00:10+0000] [ALPM] upgraded linux (6.17.7.arch1-1 -> 6.17.8.arch1-1)\n[2026-11-18T21:00:10+0000] [ALPM] installed vim (9.1)\n"},
			map[string]string{"os.patched_at": "2026-11-17T21:00:10Z"}, false},
		{"a long log", map[string]string{"var/log/dpkg.log": strings.Repeat("2026-11-19 10:11:12 status unpacked x:all 1\n", 40000) + "2026-11-20 10:11:12 upgrade x:all 1 2\n"},
			map[string]string{"os.patched_at": "2026-11-20T09:11:12Z"}, false},
		{"none", nil, nil, true},
	})
}

func TestPending(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"\nExpanded Security Maintenance for Applications is not enabled.\n\n42 updates can be applied immediately.\n31 of these updates are standard security updates.\n": "42",
		"0 updates can be applied immediately.\n": "0",
		"1 update can be applied immediately.\n":  "1",
		"7 packages can be updated.\n":            "7",
		"several updates can be applied\n":        "",
		"":                                        "",
	} {
		root := tree(map[string]string{"var/lib/update-notifier/updates-available": text})
		root["var/lib/update-notifier/updates-available"].ModTime = now.Add(-24 * time.Hour)
		got, err := pending(root, now)
		if got["os.updates_pending"] != want || (err == nil) != (want != "") {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if got, err := pending(root, now.Add(8*24*time.Hour)); err == nil || got != nil {
			t.Errorf("a count of nine days ago was taken: %v", got)
		}
	}
}

// diskOf are the files of a device with these mounts, beside block devices.
func diskOf(mounts string, more map[string]string) map[string]string {
	files := map[string]string{"proc/self/mountinfo": "22 1 0:21 / /proc rw,nosuid - proc proc rw\n" + mounts}
	maps.Copy(files, more)
	return files
}

func TestDisk(t *testing.T) {
	encrypted, plain := map[string]string{"disk.encrypted": "true"}, map[string]string{"disk.encrypted": "false"}
	const luks = "CRYPT-LUKS2-0123456789abcdef-sda3_crypt\n"
	const root = "23 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n"
	try(t, disk, []scene{
		{"partition", diskOf("23 1 8:2 / / rw shared:1 - ext4 /dev/sda2 rw\n", map[string]string{"sys/dev/block/8:2/partition": "2\n"}), plain, false},
		{"LUKS", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": luks, "sys/dev/block/253:0/slaves/sda3/partition": "3\n"}), encrypted, false},
		{"LVM on LUKS", diskOf(root, map[string]string{"sys/dev/block/253:1/dm/uuid": "LVM-abc\n", "sys/dev/block/253:1/slaves/dm-0/dm/uuid": luks}), encrypted, false},
		{"LVM", diskOf(root, map[string]string{"sys/dev/block/253:1/dm/uuid": "LVM-abc\n", "sys/dev/block/253:1/slaves/sda3/partition": "3\n"}), plain, false},
		{"RAID of two LUKS", diskOf("23 1 9:0 / / rw - ext4 /dev/md0 rw\n", map[string]string{"sys/dev/block/9:0/slaves/dm-0/dm/uuid": luks, "sys/dev/block/9:0/slaves/dm-1/dm/uuid": "CRYPT-LUKS1-ff-x\n"}), encrypted, false},
		{"RAID of one LUKS and one plain", diskOf("23 1 9:0 / / rw - ext4 /dev/md0 rw\n", map[string]string{"sys/dev/block/9:0/slaves/dm-0/dm/uuid": luks, "sys/dev/block/9:0/slaves/sdb1/partition": "1\n"}), plain, false},
		{"dm-verity is no encryption", diskOf("23 1 253:0 / / ro - squashfs /dev/mapper/root ro\n", map[string]string{"sys/dev/block/253:0/dm/uuid": "CRYPT-VERITY-abc-root\n", "sys/dev/block/253:0/slaves/sda3/partition": "3\n"}), plain, false},
		{"dm-integrity is no encryption", diskOf("23 1 253:0 / / rw - ext4 /dev/mapper/root rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": "CRYPT-INTEGRITY-root\n", "sys/dev/block/253:0/slaves/sda3/partition": "3\n"}), plain, false},
		{"btrfs on LUKS", diskOf("23 1 0:30 /@ / rw - btrfs /dev/mapper/luks rw,subvol=/@\n", map[string]string{"sys/class/block/dm-0/dm/name": "luks\n", "sys/class/block/dm-0/dm/uuid": luks, "sys/fs/btrfs/1-2/devices/dm-0/size": "9\n"}), encrypted, false},
		{"btrfs over LUKS and a plain disk", diskOf("23 1 0:30 /@ / rw - btrfs /dev/mapper/luks rw\n", map[string]string{"sys/class/block/dm-0/dm/name": "luks\n", "sys/class/block/dm-0/dm/uuid": luks, "sys/class/block/sdb/size": "9\n",
			"sys/fs/btrfs/1-2/devices/dm-0/size": "9\n", "sys/fs/btrfs/1-2/devices/sdb/size": "9\n"}), plain, false},
		{"plain home", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n24 23 8:4 / /home rw - ext4 /dev/sda4 rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": luks, "sys/dev/block/8:4/partition": "4\n"}), plain, false},
		{"plain swap", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": luks, "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n/dev/sda5                               partition\t999420\t0\t-2\n", "sys/class/block/sda5/partition": "5\n"}), plain, false},
		{"swap in memory and in a file", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": luks, "proc/swaps": "Filename\tType\n/dev/zram0 partition 1 0 100\n/swapfile file 1 0 -2\n"}), encrypted, false},
		{"ZFS", diskOf("23 1 0:27 / / rw - zfs rpool/ROOT rw\n", nil), nil, true},
		{"overlay", diskOf("23 1 0:40 / / rw - overlay overlay rw\n", nil), nil, true},
		{"hidden block devices", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n", nil), nil, true},
		{"file on a loop device", diskOf("23 1 7:0 / / rw - ext4 /dev/loop0 rw\n", map[string]string{"sys/dev/block/7:0/loop/backing_file": "/x\n"}), nil, true},
		{"unknown home, plain root", diskOf("23 1 8:2 / / rw - ext4 /dev/sda2 rw\n24 1 0:50 / /home rw - nfs4 srv:/home rw\n", map[string]string{"sys/dev/block/8:2/partition": "2\n"}), plain, false},
		{"unknown home, encrypted root", diskOf("23 1 253:0 / / rw - xfs /dev/mapper/luks rw\n24 1 0:50 / /home rw - nfs4 srv:/home rw\n", map[string]string{"sys/dev/block/253:0/dm/uuid": luks}), nil, true},
		{"no mounts", nil, nil, true},
	})
	deep := "sys/dev/block/253:1/"
	for range 12 {
		deep += "slaves/dm-0/"
	}
	if got, err := disk(tree(diskOf(root, map[string]string{deep + "dm/uuid": luks}))); err == nil {
		t.Errorf("a stack of twelve: %v", got)
	}
}

func TestHardwareAndBoot(t *testing.T) {
	try(t, hardware, []scene{
		{"DMI", map[string]string{"sys/class/dmi/id/sys_vendor": "LENOVO\n", "sys/class/dmi/id/product_name": "21CB000000\n", "sys/class/dmi/id/product_serial": "PF0ABCDE\n"},
			map[string]string{"device.manufacturer": "LENOVO", "device.model": "21CB000000", "device.serial": "PF0ABCDE"}, false},
		{"not filled in", map[string]string{"sys/class/dmi/id/sys_vendor": "QEMU\n", "sys/class/dmi/id/product_name": "To Be Filled By O.E.M.\n", "sys/class/dmi/id/product_serial": "Default string\n"},
			map[string]string{"device.manufacturer": "QEMU"}, false},
		{"device tree", map[string]string{"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\x00", "proc/device-tree/serial-number": "10000000abcdef01\x00"},
			map[string]string{"device.model": "Raspberry Pi 4 Model B Rev 1.4", "device.serial": "10000000abcdef01"}, false},
		{"nothing", nil, nil, true},
	})
	const dir = "sys/firmware/efi/efivars/"
	efi := func(secure, setup, shim string) map[string]string {
		files := map[string]string{dir + "BootOrder" + efiGlobal: "\x07\x00\x00\x00\x00\x00"}
		for name, v := range map[string]string{"SecureBoot" + efiGlobal: secure, "SetupMode" + efiGlobal: setup, "MokSBStateRT" + efiShim: shim} {
			if v != "" {
				files[dir+name] = "\x06\x00\x00\x00" + v
			}
		}
		return files
	}
	is := func(v string) map[string]string { return map[string]string{"boot.secure": v} }
	try(t, boot, []scene{
		{"on", efi("\x01", "\x00", ""), is("true"), false},
		{"off", efi("\x00", "\x00", ""), is("false"), false},
		{"setup mode", efi("\x01", "\x01", ""), is("false"), false},
		{"shim checks nothing", efi("\x01", "\x00", "\x01"), is("false"), false},
		{"shim checks", efi("\x01", "\x00", "\x00"), is("true"), false},
		{"firmware without it", efi("", "", ""), is("false"), false},
		{"variables hidden", map[string]string{"sys/firmware/efi/efivars/": ""}, nil, true},
		{"odd variable", efi("\x01\x01", "\x00", ""), nil, true},
		{"no EFI", map[string]string{"sys/firmware/": ""}, nil, true},
	})
	try(t, chip, []scene{
		{"2.0", map[string]string{"sys/class/tpm/tpm0/tpm_version_major": "2\n"}, map[string]string{"tpm.present": "true"}, false},
		{"1.2", map[string]string{"sys/class/tpm/tpm0/tpm_version_major": "1\n"}, map[string]string{"tpm.present": "false"}, false},
		{"none", map[string]string{"sys/class/": ""}, map[string]string{"tpm.present": "false"}, false},
		{"hidden", nil, nil, true},
	})
}
