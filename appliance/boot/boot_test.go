package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// fake notes what it was asked for; what begins with a key of fails gets that error.
type fake struct {
	root  string
	asked []string
	fails map[string]error
}

func (f *fake) note(format string, args ...any) error {
	s := strings.ReplaceAll(fmt.Sprintf(format, args...), f.root, "")
	f.asked = append(f.asked, s)
	for prefix, err := range f.fails {
		if strings.HasPrefix(s, prefix) {
			return err
		}
	}
	return nil
}

func (f *fake) Mount(source, target, kind string, flags uintptr, data string) error {
	var names []string
	for _, n := range []struct {
		bit  uintptr
		name string
	}{{unix.MS_REMOUNT, "remount"}, {unix.MS_BIND, "bind"}, {unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}} {
		if flags&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	return f.note("mount %s %s %s %s", kind, target, strings.Join(names, ","), data)
}
func (f *fake) Unmount(target string, _ int) error { return f.note("unmount %s", target) }
func (f *fake) Limit(resource int, to unix.Rlimit) error {
	return f.note("limit %d %d %d", resource, to.Cur, to.Max)
}
func (f *fake) Loopback() error      { return running{}.Loopback() }
func (f *fake) Sync()                { _ = f.note("sync") }
func (f *fake) Reboot(cmd int) error { return f.note("reboot %#x", cmd) }

func newFake(t *testing.T, files map[string]string) (Config, *fake) {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	f := &fake{root: root, fails: map[string]error{}}
	return Config{Log: slog.New(slog.DiscardHandler), Root: root, kernel: f}, f
}

func TestMount(t *testing.T) {
	c, f := newFake(t, nil)
	f.fails["mount devtmpfs"], f.fails["mount pstore"] = unix.EBUSY, unix.ENODEV
	if err := c.Mount(); err != nil {
		t.Fatal(err)
	}
	for _, m := range f.asked {
		if !strings.Contains(m, "nosuid") || !strings.Contains(m, "noexec") || (!strings.Contains(m, "nodev") && !strings.Contains(m, " /dev ")) {
			t.Error("offers too much:", m)
		}
		if strings.Contains(m, "tmpfs /run") && !strings.Contains(m, "size=") {
			t.Error("without a bound:", m)
		}
	}
	if !slices.Contains(f.asked, "mount proc /proc nosuid,nodev,noexec hidepid=invisible") {
		t.Error("/proc:", f.asked)
	}
	run, own := slices.IndexFunc(f.asked, func(s string) bool { return strings.HasPrefix(s, "mount tmpfs /run ") }),
		slices.Index(f.asked, "mount tmpfs /run/lazaret nosuid,nodev,noexec mode=0755,uid=902,gid=902,size=1m,nr_inodes=64")
	if run < 0 || own < run {
		t.Error("the data plane has no place of its own:", f.asked)
	}
	f.fails["mount sysfs"] = unix.EPERM
	if err := c.Mount(); !errors.Is(err, unix.EPERM) {
		t.Error("without /sys:", err)
	}
}

// TestSealRootTries: a root that can be written to after all is an error, whatever the
// kernel said.
func TestSealRootTries(t *testing.T) {
	c, f := newFake(t, nil)
	if err := c.SealRoot(); err == nil || !strings.Contains(err.Error(), "could still be made") {
		t.Error("a root that is not sealed:", err)
	}
	if want := []string{"mount  / remount,ro,nosuid,nodev ", "mount  / remount,bind,ro,nosuid,nodev "}; !slices.Equal(trimmed(f.asked), want) {
		t.Errorf("%q, want %q", trimmed(f.asked), want)
	}
	if _, err := os.Stat(filepath.Join(f.root, ".sealed")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("left a file behind")
	}
	f.fails["mount"] = unix.EINVAL
	if err := c.SealRoot(); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

func trimmed(asked []string) (out []string) {
	for _, s := range asked {
		out = append(out, strings.Replace(s, "mount   ", "mount  / ", 1))
	}
	return out
}

func TestHarden(t *testing.T) {
	files := map[string]string{"sys/kernel/security/lockdown": "[none] integrity confidentiality\n", "proc/self/oom_score_adj": "0\n"}
	for _, s := range settings {
		files["proc/sys/"+s.name] = ""
	}
	delete(files, "proc/sys/kernel/unprivileged_userns_clone") // others than Debian's have none
	c, f := newFake(t, files)
	if err := c.Harden(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"proc/sys/kernel/kptr_restrict": "2", "proc/sys/kernel/kexec_load_disabled": "1", "proc/sys/kernel/yama/ptrace_scope": "3",
		"proc/sys/kernel/panic_on_oops": "1", "proc/sys/vm/panic_on_oom": "0", "proc/self/oom_score_adj": "-1000",
	} {
		if got, err := os.ReadFile(filepath.Join(f.root, name)); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%s is %q, want %q (%v)", name, got, want, err)
		}
	}
	if got, _ := os.ReadFile(filepath.Join(f.root, "sys/kernel/security/lockdown")); !strings.HasPrefix(string(got), "confidentiality") {
		t.Errorf("lockdown %q", got)
	}
	if want := []string{fmt.Sprintf("limit %d 0 0", unix.RLIMIT_CORE)}; !slices.Equal(f.asked, want) {
		t.Errorf("asked %q", f.asked)
	}
	f.fails["limit"] = unix.EPERM
	if err := c.Harden(); !errors.Is(err, unix.EPERM) {
		t.Error("a setting that was refused:", err)
	}
}

func TestSaveCrash(t *testing.T) {
	c, f := newFake(t, map[string]string{"sys/fs/pstore/dmesg-efi_pstore-1": "Oops", "sys/fs/pstore/dmesg-efi_pstore-2": strings.Repeat("x", crashSize+1)})
	dir := filepath.Join(f.root, "data/machine/crash")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range crashFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("2020%04d-old", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	saved, err := c.SaveCrash(dir)
	if err != nil || len(saved) != 2 || !strings.HasSuffix(saved[0], "Z-dmesg-efi_pstore-1") {
		t.Fatal(saved, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, saved[0]))
	info, _ := os.Stat(filepath.Join(dir, saved[1]))
	if err != nil || string(text) != "Oops" || info.Size() != crashSize || info.Mode() != 0o600 {
		t.Errorf("%q %v %v", text, info, err)
	}
	left, _ := os.ReadDir(filepath.Join(f.root, "sys/fs/pstore"))
	all, _ := os.ReadDir(dir)
	if len(left) != 0 || len(all) != crashFiles || all[0].Name() != "20200002-old" {
		t.Errorf("%d left in pstore, %d kept, the oldest %s", len(left), len(all), all[0].Name())
	}
	if saved, err := c.SaveCrash(dir); err != nil || len(saved) != 0 {
		t.Error("nothing crashed:", saved, err)
	}
}

func TestEnd(t *testing.T) {
	const mountinfo = `22 1 0:20 / / ro,nosuid - rootfs rootfs ro
23 22 0:21 / /proc rw - proc proc rw
30 22 8:1 / /esp rw,relatime - vfat /dev/vda1 rw
31 22 253:0 / /data rw,nosuid shared:1 - ext4 /dev/mapper/data rw
32 31 253:1 / /data/a\040b rw - ext4 /dev/dm-1 rw
`
	c, f := newFake(t, map[string]string{"proc/self/mountinfo": mountinfo})
	f.fails["unmount /data"] = unix.EBUSY
	if err := c.End(Restart); err != nil {
		t.Fatal(err)
	}
	want := []string{"sync", "unmount /data/a b", "mount  /data/a b remount,ro ", "unmount /data", "mount  /data remount,ro ", "unmount /esp", "sync", "reboot 0x1234567"}
	if !slices.Equal(f.asked, want) {
		t.Errorf("%q\nwant %q", f.asked, want)
	}
	if err := c.End("sleep"); err == nil {
		t.Error("ended in a way that there is not")
	}
}

func TestWithEFIVariables(t *testing.T) {
	c, f := newFake(t, nil)
	if err := c.WithEFIVariables(nil); !errors.Is(err, ErrNoEFI) {
		t.Error("without EFI:", err)
	}
	c, f = newFake(t, map[string]string{efiVariables + "/x": ""})
	broken := errors.New("broken")
	if err := c.WithEFIVariables(func(dir string) error { return f.note("do %s", dir) }); err != nil {
		t.Fatal(err)
	}
	at := " " + efiVariables + " "
	want := []string{"mount efivarfs" + at + "ro,nosuid,nodev,noexec ", "mount " + at + "remount,nosuid,nodev,noexec ", "do" + strings.TrimSuffix(at, " "), "mount " + at + "remount,ro,nosuid,nodev,noexec "}
	if !slices.Equal(f.asked, want) {
		t.Errorf("%q\nwant %q", f.asked, want)
	}
	if err := c.WithEFIVariables(func(string) error { return broken }); !errors.Is(err, broken) || !strings.Contains(f.asked[len(f.asked)-1], "remount,ro") {
		t.Error("left open after an error:", err)
	}
}

// TestLoopback brings the link up in a namespace that has just begun.
func TestLoopback(t *testing.T) {
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "-test.run=^TestLoopbackInside$", "-test.v")
	c.Env = append(os.Environ(), "LAZARET_TEST_LOOPBACK=1")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestLoopbackInside") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestLoopbackInside(t *testing.T) {
	if os.Getenv("LAZARET_TEST_LOOPBACK") == "" {
		return // TestLoopback runs it
	}
	state := func() net.Flags {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		return lo.Flags & net.FlagUp
	}
	if state() != 0 {
		t.Fatal("the link is up already")
	}
	c, _ := newFake(t, nil)
	if err := c.Loopback(); err != nil || state() == 0 {
		t.Errorf("up: %v, %v", state(), err)
	}
}
