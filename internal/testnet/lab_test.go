package testnet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

// soon bounds what takes milliseconds where nothing is wrong.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newLab(t *testing.T, c Config) *Lab {
	t.Helper()
	testneed.Namespaces(t)
	c.Log = t.Output()
	l, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func newHost(t *testing.T, l *Lab, name string) *Host {
	t.Helper()
	h, err := l.AddHost(soon(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// members returns the processes in the process namespace ns, but for those that
// have ended and only wait for their parent to ask how.
func members(t *testing.T, ns string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for _, path := range all {
		if got, err := os.Readlink(path); err != nil || got != ns {
			continue // another's, or gone by now
		}
		status, err := os.ReadFile(filepath.Join(path, "../../status"))
		if err == nil && !strings.Contains(string(status), "\nState:\tZ") {
			in = append(in, path)
		}
	}
	return in
}

func namespaceOf(t *testing.T, pid int, kind string) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestLabComesAndGoes(t *testing.T) {
	for name, c := range map[string]Config{"as the user is": {}, "in a user namespace": {UserNamespace: true}} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			l := newLab(t, c)
			a, b := newHost(t, l, "a"), newHost(t, l, "b")
			if want := os.Geteuid() == 0 && !c.UserNamespace; l.Root() != want {
				t.Errorf("Root() = %v, want %v", l.Root(), want)
			}
			if _, err := a.Run(soon(t), "greet"); err != nil {
				t.Fatal(err)
			}
			pidA, pidB := pidOf(t, a), pidOf(t, b)
			for _, kind := range []string{"net", "mnt"} {
				own, ofA, ofB := namespaceOf(t, os.Getpid(), kind), namespaceOf(t, pidA, kind), namespaceOf(t, pidB, kind)
				if own == ofA || ofA == ofB {
					t.Errorf("%s namespaces are shared: ours %s, a %s, b %s", kind, own, ofA, ofB)
				}
			}
			ns := namespaceOf(t, pidA, "pid")
			if got := len(members(t, ns)); got != 4 { // first process, two agents, one role
				t.Errorf("%d processes in the lab, want 4", got)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if left := members(t, ns); len(left) > 0 {
				t.Errorf("left behind after Close: %v", left)
			}
			if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("directory after Close: %v", err)
			}
			if took := time.Since(begin); took > 15*time.Second {
				t.Errorf("the lab took %v", took)
			}
			if _, err := a.Run(soon(t), "greet"); err == nil {
				t.Error("a process was started in a lab that is gone")
			}
		})
	}
}

func pidOf(t *testing.T, h *Host) int {
	t.Helper()
	pid, err := h.PID()
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// A supervisor that is killed cannot clean up, and need not.
func TestLabEndsWithSupervisor(t *testing.T) {
	testneed.Namespaces(t)
	dir := t.TempDir()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"=keep", "KEEP_DIR="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	ns := namespaceOf(t, first, "pid_for_children")
	if got := len(members(t, ns)); got != 2 {
		t.Fatalf("%d processes in the lab, want 2", got)
	}
	fd, err := unix.PidfdOpen(first, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// A process descriptor is readable when the process has ended, which the first
	// of a namespace has only when all the others have.
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	}
	if n != 1 || err != nil {
		t.Fatalf("the lab outlived its supervisor: %d, %v", n, err)
	}
	if left := members(t, ns); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	_ = cmd.Wait()
}

func TestLabEndsWithContext(t *testing.T) {
	testneed.Namespaces(t)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Start(ctx, Config{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-l.Done():
	case <-time.After(10 * time.Second):
		t.Error("the lab outlived its context")
	}
	l.Close()
}

func TestHostIsAlone(t *testing.T) {
	l := newLab(t, Config{})
	a, b := newHost(t, l, "a"), newHost(t, l, "b")
	p, err := a.Command(soon(t), "/bin/sh", "-c", "echo secret >/run/a; echo secret >/var/run/wireguard/a; hostname; ls /sys/class/net >/dev/null; cat /proc/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(p.Output(), "eth0") || !strings.Contains(p.Output(), "lo:") {
		t.Errorf("interfaces of a new host: %s", p.Output())
	}
	p, err = b.Command(soon(t), "/bin/sh", "-c", "ls /run/a /var/run/wireguard/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); !errors.Is(err, ErrExit) {
		t.Errorf("one host sees the /run of another: %v", p.Output())
	}
	if _, err := os.Stat("/run/a"); err == nil {
		t.Error("the machine sees the /run of a host")
	}
}

func TestLinkConfigure(t *testing.T) {
	l := newLab(t, Config{})
	a, b := newHost(t, l, "a"), newHost(t, l, "b")
	for h, addr := range map[*Host]string{a: "10.1.0.1/24", b: "10.1.0.2/24"} {
		if err := l.Link(soon(t), h, "net", "eth0", netip.MustParsePrefix(addr)); err != nil {
			t.Fatal(err)
		}
	}
	to := netip.MustParseAddrPort("10.1.0.2:0")
	probe := func(want Outcome) ProbeResult {
		return mustProbe(t, a, ProbeSpec{Proto: ICMP, To: to, Timeout: within(want)})
	}
	if r := probe(Echoed); r.Outcome != Echoed {
		t.Fatalf("before: %+v", r)
	}
	hole := NetConfig{
		Routes: []Route{{To: netip.MustParsePrefix("10.1.0.2/32"), Blackhole: true, Table: 77}},
		Rules:  []Rule{{Priority: 10, To: netip.MustParsePrefix("10.1.0.0/24"), Table: 77}},
	}
	if err := a.Configure(soon(t), hole); err != nil {
		t.Fatal(err)
	}
	if r := probe(NotSent); r.Outcome != NotSent {
		t.Errorf("with a hole in the own routing: %+v", r)
	}
	if err := a.Unconfigure(soon(t), hole); err != nil {
		t.Fatal(err)
	}
	if r := probe(Echoed); r.Outcome != Echoed {
		t.Errorf("after: %+v", r)
	}
	if err := b.Configure(soon(t), NetConfig{Links: []LinkConfig{{Name: "eth0", Down: true}}}); err != nil {
		t.Fatal(err)
	}
	if r := probe(Silent); r.Passed() {
		t.Errorf("through a link that is down: %+v", r)
	}
	if err := a.Configure(soon(t), NetConfig{Sysctls: map[string]string{"../../etc/passwd": "x"}}); err == nil {
		t.Error("a setting outside /proc/sys was written")
	}
}

func TestRefusalNamesSetting(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s + "\n")} }
	cause := errors.New("operation not permitted")
	for _, c := range []struct {
		name string
		fs   fstest.MapFS
		uid  int
		want []string
		not  string
	}{
		{"limit", fstest.MapFS{"proc/sys/user/max_user_namespaces": file("0")}, 1000, []string{"user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=", "sudo"}, ""},
		{"debian", fstest.MapFS{"proc/sys/kernel/unprivileged_userns_clone": file("0")}, 1000, []string{"kernel.unprivileged_userns_clone is 0"}, ""},
		{"ubuntu", fstest.MapFS{"proc/sys/kernel/apparmor_restrict_unprivileged_userns": file("1"), "proc/sys/user/max_user_namespaces": file("5000")}, 1000, []string{"kernel.apparmor_restrict_unprivileged_userns is 1", "sudo"}, "max_user_namespaces"},
		{"container", fstest.MapFS{"proc/self/status": file("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1")}, 0, []string{"system call filter", "runs as root already"}, "sudo"},
		{"nothing known", fstest.MapFS{}, 1000, []string{"no setting", "sudo"}, "system call filter"},
	} {
		err := explainRefusal(c.fs, c.uid, cause)
		if !errors.Is(err, cause) {
			t.Errorf("%s: the cause is lost: %v", c.name, err)
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q lacks %q", c.name, err, want)
			}
		}
		if c.not != "" && strings.Contains(err.Error(), c.not) {
			t.Errorf("%s: %q blames %q", c.name, err, c.not)
		}
	}
}

// The same with a kernel that refuses: in a user namespace of one's own, the
// limits can be set.
func TestRefusalOfTheKernel(t *testing.T) {
	for _, setting := range []string{"max_net_namespaces", "max_user_namespaces"} {
		h := newHost(t, newLab(t, Config{UserNamespace: true}), "a")
		p, err := h.Run(soon(t), "refused", setting)
		if err != nil {
			t.Fatal(err)
		}
		var said string
		if err := p.Next(soon(t), &said); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(said, "user."+setting+" is 0 (to allow: sysctl -w user."+setting) {
			t.Errorf("%s: %s", setting, said)
		}
	}
}
