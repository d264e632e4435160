// Package testneed says what a test needs from the machine. What is missing skips
// the test with a remedy; under CI=true it fails, so that nothing is skipped there.
package testneed

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// Program skips t unless the witness program is installed, and returns its path.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		Skip(t, "needs the program "+name+" as a witness: install it (Debian: "+debian(name)+")")
	}
	return path
}

func debian(program string) string {
	packages := map[string]string{
		"nft": "nftables", "wg": "wireguard-tools", "ip": "iproute2", "pki": "strongswan-pki",
		"conntrack": "conntrack", "openssl": "openssl", "tcpdump": "tcpdump", "curl": "curl",
		"isoinfo": "genisoimage", "mkfs.vfat": "dosfstools",
		"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "dpkg-deb": "dpkg", "systemd-analyze": "systemd", "sbverify": "sbsigntool", "md5sum": "coreutils", "sha256sum": "coreutils",
		"sfdisk": "fdisk", "fsck.vfat": "dosfstools", "mcopy": "mtools", "objcopy": "binutils", "modprobe": "kmod", "depmod": "kmod",
	}
	if p := packages[program]; p != "" {
		return p
	}
	return program
}

// Namespaces skips t unless user and network namespaces can be made without root.
func Namespaces(t testing.TB) {
	t.Helper()
	c := exec.Command("/proc/self/exe", "-test.run=^$")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	c.Env = append(os.Environ(), "LAZARET_TEST_PROBE=1")
	if err := c.Run(); err != nil {
		Skip(t, "needs user and network namespaces ("+err.Error()+"): allow them with sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0, or run as root")
	}
}

// Skip skips t, or fails it in CI, where everything must really run.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Root skips t unless it runs as root of the machine; why completes the sentence.
func Root(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root, "+why+": run it with sudo")
	}
}
