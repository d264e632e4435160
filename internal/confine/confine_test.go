package confine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "confined" {
		confined(Profile(os.Args[2]), os.Args[3], os.Args[4])
		os.Exit(0)
	}
	if code, done := testneed.WithoutCgo(); done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// confined is a process that confines itself to dir, with threads of its own by then, and
// prints how one attempt fares.
func confined(p Profile, dir, attempt string) {
	var ready sync.WaitGroup
	work := make(chan func())
	for range 4 { // threads that were there before
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			for do := range work {
				do()
			}
		}()
	}
	ready.Wait()
	try := attempts[attempt]
	if try == nil {
		fmt.Println("no such attempt")
		return
	}
	paths := Paths{ReadOnly: []string{filepath.Join(dir, "read"), "/no/such/place"}, ReadWrite: []string{filepath.Join(dir, "write")}}
	if err := Enter(p, paths); err != nil {
		fmt.Println("not confined:", err)
		return
	}
	done := make(chan struct{})
	for range 2 { // on threads that were there
		work <- func() { fmt.Println(outcome(try(dir))); done <- struct{}{} }
		<-done
	}
	fmt.Println(outcome(try(dir)))
}

func outcome(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func call(n uintptr, args ...uintptr) error {
	a := append(args, make([]uintptr, 6)...)
	if _, _, errno := syscall.Syscall6(n, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func open(path string) error {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return err
}

func socketOf(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

var attempts = map[string]func(dir string) error{
	"read what may be read":     func(dir string) error { return open(dir + "/read/file") },
	"list what may be read":     func(dir string) error { _, err := os.ReadDir(dir + "/read"); return err },
	"write what may be read":    func(dir string) error { return os.WriteFile(dir+"/read/file", nil, 0o600) },
	"remove what may be read":   func(dir string) error { return os.Remove(dir + "/read/file") },
	"write what may be written": func(dir string) error { return os.WriteFile(dir+"/write/new", []byte("x"), 0o600) },
	"move between directories": func(dir string) error {
		_ = os.Mkdir(dir+"/write/sub", 0o700)
		err := os.WriteFile(dir+"/write/sub/a", nil, 0o600)
		return errors.Join(err, os.Rename(dir+"/write/sub/a", dir+"/write/a"))
	},
	"read what is another's": func(dir string) error { return open(dir + "/secret") },
	"climb out":              func(dir string) error { return open(dir + "/read/../secret") },
	"follow a link out":      func(dir string) error { return open(dir + "/read/link") },
	"read /etc/passwd":       func(string) error { return open("/etc/passwd") },
	"read /proc/1/status":    func(string) error { return open("/proc/1/status") },
	"look at itself":         func(string) error { return open("/proc/self/status") },
	"make a device":          func(dir string) error { return unix.Mknod(dir+"/write/null", unix.S_IFCHR|0o600, 0x103) },
	"serve over TCP":         func(string) error { return serve("tcp", "127.0.0.1:0") },
	"serve over UDP":         func(string) error { return serve("udp", "127.0.0.1:0") },
	"serve locally":          func(dir string) error { defer os.Remove(dir + "/write/s"); return serve("unix", dir+"/write/s") },
	"connect over TCP": func(string) error {
		c, err := net.Dial("tcp4", "127.0.0.1:1")
		if err == nil {
			c.Close()
		}
		return err
	},
	"connect a plain socket": func(string) error { return plain(unix.Connect, 1) },
	"bind a plain socket":    func(string) error { return plain(unix.Bind, 41999) },
	"bind to any port":       func(string) error { return plain(unix.Bind, 0) },
	"raw socket":             func(string) error { return socketOf(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"packet socket":          func(string) error { return socketOf(unix.AF_PACKET, unix.SOCK_RAW, 0) },
	"vsock":                  func(string) error { return socketOf(unix.AF_VSOCK, unix.SOCK_STREAM, 0) },
	"kernel crypto":          func(string) error { return socketOf(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) },
	"route netlink":          func(string) error { return socketOf(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) },
	"firewall netlink":       func(string) error { return socketOf(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER) },
	"generic netlink": func(string) error {
		return socketOf(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	},
	"audit netlink": func(string) error { return socketOf(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT) },
	"signal init":   func(string) error { return unix.Kill(1, 0) },
	"signal parent": func(string) error { return unix.Kill(os.Getppid(), 0) },
	"signal itself": func(string) error { return unix.Kill(os.Getpid(), 0) },
	"memory to run from": func(string) error {
		_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		return err
	},
	"memory turned to code": func(string) error {
		b, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return unix.Mprotect(b, unix.PROT_READ|unix.PROT_EXEC)
	},
	"push into the terminal": func(string) error { return unix.IoctlSetInt(0, unix.TIOCSTI, 0) },
	"another filter":         func(string) error { return call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, 0) },
	"memory file":            func(string) error { _, err := unix.MemfdCreate("x", 0); return err },
	"another user":           func(string) error { return call(unix.SYS_SETUID, 0) },
	"set capabilities":       func(string) error { return call(unix.SYS_CAPSET) },
	"ptrace":                 func(string) error { return call(unix.SYS_PTRACE, unix.PTRACE_TRACEME) },
	"mount":                  func(string) error { return unix.Mount("none", "/", "tmpfs", 0, "") },
	"new namespace":          func(string) error { return unix.Unshare(unix.CLONE_NEWUSER) },
	"load a module":          func(string) error { return call(unix.SYS_FINIT_MODULE, ^uintptr(0)) },
	"kexec":                  func(string) error { return call(unix.SYS_KEXEC_LOAD) },
	"bpf":                    func(string) error { return call(unix.SYS_BPF, ^uintptr(0)) },
	"keys":                   func(string) error { return call(unix.SYS_KEYCTL, ^uintptr(0)) },
	"fault handler":          func(string) error { return call(unix.SYS_USERFAULTFD, ^uintptr(0)) },
	"io_uring":               func(string) error { return call(unix.SYS_IO_URING_SETUP, 1) },
	"set the clock":          func(string) error { return call(unix.SYS_CLOCK_SETTIME, ^uintptr(0)) },
	"restart the machine":    func(string) error { return call(unix.SYS_REBOOT) },
	"another process's memory": func(string) error {
		return call(unix.SYS_PROCESS_VM_READV, uintptr(os.Getppid()))
	},
	"run a program": func(string) error {
		path, _ := unix.BytePtrFromString("/proc/self/exe")
		return call(unix.SYS_EXECVE, uintptr(unsafe.Pointer(path)))
	},
	"threads": func(string) error {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { runtime.LockOSThread() }) // each ends with a thread
		}
		all.Wait()
		return nil
	},
	"show": func(string) error {
		text, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		var all []string
		for line := range strings.Lines(string(text)) {
			for _, want := range []string{"NoNewPrivs:", "Seccomp:", "CapEff:", "CapPrm:", "CapAmb:", "CapInh:"} {
				if value, ok := strings.CutPrefix(line, want); ok {
					all = append(all, strings.TrimSpace(value))
				}
			}
		}
		return errors.New(strings.Join(all, " "))
	},
}

// plain does something with a TCP socket and a port of this machine.
func plain(do func(int, unix.Sockaddr) error, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return do(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
}

func serve(network, address string) error {
	if network == "udp" {
		c, err := net.ListenPacket(network, address)
		if err == nil {
			c.Close()
		}
		return err
	}
	l, err := net.Listen(network, address)
	if err == nil {
		l.Close()
	}
	return err
}

// killed is the outcome of what ends the process.
const killed = "killed"

// TestConfined: every attempt, by a process that has confined itself, on threads from before
// and after.
func TestConfined(t *testing.T) {
	files := landlockABI() > 0
	dir := t.TempDir()
	for _, sub := range []string{"read", "write"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"read/file", "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(dir, "read/link")); err != nil {
		t.Fatal(err)
	}
	control, plane := expectations()
	for name := range attempts {
		if control[name] == "" && name != "show" {
			t.Errorf("nothing is expected of %q", name)
		}
	}
	for p, wants := range map[Profile]map[string]string{Control: control, Plane: plane, Claim: control, Make: offline(control)} {
		for name, want := range wants {
			if want == "EACCES" && !files {
				continue // what Lacks says
			}
			t.Run(string(p)+" "+name, func(t *testing.T) {
				t.Parallel()
				got := run(t, p, dir, name)
				if want == killed && got == killed {
					return
				}
				if lines := strings.Repeat(want+"\n", 3); got != lines {
					t.Errorf("%q, want %q", got, lines)
				}
			})
		}
	}
}

func expectations() (control, plane map[string]string) {
	control = map[string]string{
		"read what may be read": "done", "list what may be read": "done", "write what may be read": "EACCES",
		"remove what may be read": "EACCES", "write what may be written": "done", "move between directories": "done",
		"read what is another's": "EACCES", "climb out": "EACCES", "follow a link out": "EACCES", "read /etc/passwd": "EACCES",
		"read /proc/1/status": "EACCES", "look at itself": "done", "make a device": "EPERM",
		"serve over TCP": "done", "serve over UDP": "done", "serve locally": "done", "connect over TCP": "ECONNREFUSED",
		"connect a plain socket": "ECONNREFUSED", "bind a plain socket": "done", "bind to any port": "done",
		"raw socket": "EPERM", "packet socket": "EPERM", "vsock": "EPERM", "kernel crypto": "EPERM",
		"route netlink": "done", "firewall netlink": "EPERM", "generic netlink": "EPERM", "audit netlink": "EPERM",
		"signal init": "EPERM", "signal parent": "EPERM", "signal itself": "done",
		"memory to run from": "EPERM", "memory turned to code": "EPERM", "push into the terminal": "EPERM",
		"another filter": "EPERM", "memory file": "EPERM", "another user": "EPERM", "set capabilities": "EPERM",
		"threads": "done",
	}
	for _, name := range []string{"ptrace", "mount", "new namespace", "load a module", "kexec", "bpf", "keys", "fault handler", "io_uring",
		"set the clock", "restart the machine", "another process's memory", "run a program"} {
		control[name] = killed
	}
	plane = map[string]string{}
	for name, want := range control {
		plane[name] = want
	}
	plane["firewall netlink"], plane["generic netlink"] = "done", "done"
	plane["connect over TCP"], plane["serve over TCP"] = "EPERM", "EPERM"
	if landlockABI() >= 4 {
		plane["connect a plain socket"], plane["bind a plain socket"] = "EACCES", "EACCES"
	}
	return control, plane
}

// offline is what becomes of attempts by whoever has no network.
func offline(control map[string]string) map[string]string {
	out := maps.Clone(control)
	for _, name := range []string{"serve over TCP", "serve over UDP", "connect over TCP", "connect a plain socket", "bind a plain socket", "bind to any port", "route netlink"} {
		out[name] = "EPERM"
	}
	return out
}

// run has a new process confine itself and make the attempt.
func run(t *testing.T, p Profile, dir, attempt string) string {
	t.Helper()
	c := exec.Command("/proc/self/exe", "confined", string(p), dir, attempt)
	var said strings.Builder
	c.Stdout, c.Stderr = &said, io.Discard
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if s := exit.Sys().(syscall.WaitStatus); s.Signaled() && s.Signal() == unix.SIGSYS {
			return killed
		}
	}
	if err != nil {
		return fmt.Sprint(said.String(), err)
	}
	return said.String()
}

// TestNothingIsLeft: no new privileges, a filter, and no capability but the profile's.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	caps := uint64(0)
	if os.Geteuid() == 0 {
		var data [2]unix.CapUserData
		if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]); err != nil {
			t.Fatal(err)
		}
		caps = uint64(data[0].Effective)
	}
	for p, keep := range map[Profile]uint64{Control: 1 << unix.CAP_NET_BIND_SERVICE, Plane: 1 << unix.CAP_NET_ADMIN, Make: 0} {
		left := fmt.Sprintf("%016x", caps&keep)
		want := strings.Join([]string{"0000000000000000", left, left, "0000000000000000", "1", "2"}, " ") + "\n"
		if got := run(t, p, dir, "show"); got != strings.Repeat(want, 3) {
			t.Errorf("%s: %q, want three times %q", p, got, want)
		}
	}
	if err := Enter("", Paths{}); err == nil {
		t.Error("no profile confines")
	}
}

// TestFilterDecides runs the filter in the machine of golang.org/x/net/bpf, which reads its
// facts the other way round.
func TestFilterDecides(t *testing.T) {
	const pid = 4711
	for name, c := range map[string]calls{"control": controlCalls(), "plane": planeCalls()} {
		p, err := c.program(pid)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) > 4096 {
			t.Fatalf("%s: %d instructions, the kernel takes 4096", name, len(p))
		}
		vm, err := bpf.NewVM(p)
		if err != nil {
			t.Fatal(err)
		}
		verdict := func(arch, number uint32, args ...uint64) uint32 {
			t.Helper()
			data := make([]byte, 64)
			binary.BigEndian.PutUint32(data, number)
			binary.BigEndian.PutUint32(data[4:], arch)
			for i, a := range args {
				binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
			}
			out, err := vm.Run(data)
			if err != nil {
				t.Fatal(err)
			}
			return uint32(out)
		}
		for _, n := range c.allow {
			if slices.Contains(c.kill, n) || c.given[n] != nil {
				t.Errorf("%s: call %d is listed twice", name, n)
			}
			if v := verdict(auditArch, n, 1, 2, 3); v != unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s: call %d: %#x", name, n, v)
			}
		}
		for _, n := range c.kill {
			if v := verdict(auditArch, n); v != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("%s: call %d: %#x", name, n, v)
			}
		}
		for what, got := range map[string]uint32{
			"another architecture": verdict(auditArch^1, unix.SYS_READ), "x32": verdict(auditArch, unix.SYS_READ|1<<30),
		} {
			if got != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("%s: %s: %#x", name, what, got)
			}
		}
		for what, got := range map[string]uint32{
			"a call nobody knows":    verdict(auditArch, 10_000),
			"clone3":                 verdict(auditArch, unix.SYS_CLONE3),
			"a new process":          verdict(auditArch, unix.SYS_CLONE, uint64(unix.SIGCHLD)),
			"another's thread":       verdict(auditArch, unix.SYS_TGKILL, pid+1, pid),
			"another's limits":       verdict(auditArch, unix.SYS_PRLIMIT64, pid+1),
			"a raw socket":           verdict(auditArch, unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, 0),
			"a flagged raw socket":   verdict(auditArch, unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0),
			"ping":                   verdict(auditArch, unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
			"memory that runs":       verdict(auditArch, unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC),
			"a network of its own":   verdict(auditArch, unix.SYS_CLONE, unix.CLONE_NEWNET),
			"a packet socket":        verdict(auditArch, unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_DGRAM, 0),
			"no_new_privs back":      verdict(auditArch, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 0),
			"dumpable":               verdict(auditArch, unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1),
			"text into the terminal": verdict(auditArch, unix.SYS_IOCTL, 0, unix.TIOCSTI),
		} {
			if got != refused {
				t.Errorf("%s: %s: %#x", name, what, got)
			}
		}
		for what, got := range map[string]uint32{
			"own thread": verdict(auditArch, unix.SYS_TGKILL, pid, 12), "own limits": verdict(auditArch, unix.SYS_PRLIMIT64, 0),
			"a thread": verdict(auditArch, unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM|unix.CLONE_SETTLS),
			"memory":   verdict(auditArch, unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_WRITE),
			"a socket": verdict(auditArch, unix.SYS_SOCKET, unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0),
		} {
			if got != unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s: %s: %#x", name, what, got)
			}
		}
	}
}
