package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Operations of the first process and of the hosts' agents.
const (
	opSetup       = "setup"
	opHost        = "host"
	opLink        = "link"
	opAwaitUp     = "await up"
	opConfigure   = "configure"
	opStart       = "start"
	opWait        = "wait"
	opSignal      = "signal"
	opProbe       = "probe"
	opServe       = "serve"
	opUnserve     = "unserve"
	opStream      = "stream"
	opStreamStat  = "stream.stat"
	opStreamClose = "stream.close"
	opInject      = "inject"
	opCapture     = "capture"
	opHear        = "hear"
	opLinkAddress = "link.address"
	opCaptureStat = "capture.stat"
	opCaptureStop = "capture.stop"
)

type hostRequest struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
}

type linkRequest struct {
	PID     int    `json:"pid"`
	Network string `json:"network"`
	Device  string `json:"device"`
}

// launch starts the first process in namespaces of its own. As root without the
// right to make namespaces directly, as in many containers, a user namespace is
// tried as well.
func (l *Lab) launch(userNamespace bool) error {
	logFile, err := os.OpenFile(filepath.Join(l.dir, logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("making the lab's log: %w", err)
	}
	defer logFile.Close()
	err = l.launchIn(userNamespace, logFile)
	if errors.Is(err, syscall.EPERM) && !userNamespace {
		userNamespace = true
		err = l.launchIn(userNamespace, logFile)
	}
	if err != nil {
		return refusal(err)
	}
	l.root = !userNamespace
	return nil
}

func (l *Lab) launchIn(userNamespace bool, logFile *os.File) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleFirst)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true, // Ctrl-C reaches the supervisor, which ends the lab in order
	}
	if userNamespace {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := startBound(cmd, l.exited); err != nil {
		ours.Close()
		return fmt.Errorf("starting the lab's first process: %w", err)
	}
	l.cmd, l.first = cmd, newCaller(ours)
	return nil
}

// startBound starts cmd from a thread that stays until cmd has ended, since the
// kernel sends the death signal when the starting thread ends, not the process.
// exited is closed after cmd has ended.
func startBound(cmd *exec.Cmd, exited chan struct{}) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is read from cmd.ProcessState
			close(exited)
		}
	}()
	return <-started
}

// first is the state of the lab's first process. It owns the namespace in which
// the networks' bridges live.
type first struct {
	mu    sync.Mutex
	links int
}

// runFirst is the role of the lab's first process. As process 1 of its namespace
// it takes everything in the lab down with it, and it ends when the supervisor's
// end of the control socket closes.
func runFirst(ctx context.Context, _ []string) error {
	conn, err := fileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	f := &first{}
	return serve(ctx, conn, map[string]handler{
		opSetup:   handle(func(context.Context, struct{}) (any, error) { return nil, setupLab() }),
		opHost:    handleFiles(f.host),
		opLink:    handle(f.link),
		opAwaitUp: handle(func(ctx context.Context, device string) (any, error) { return nil, awaitUp(ctx, device) }),
	})
}

// setupLab makes mounts private and mounts a /proc for the new process
// namespace where that is allowed; in some containers it is not, and the old one
// serves as well for everything that is used here.
func setupLab() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return loopbackUp()
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("setting up loopback: %w", err)
	}
	return nil
}

// host starts a host's agent with the other end of its control socket.
func (f *first) host(_ context.Context, r hostRequest, files []*os.File) (any, error) {
	defer closeAll(files)
	if len(files) != 1 {
		return nil, fmt.Errorf("starting host %s: %d control sockets came along", r.Name, len(files))
	}
	cmd := exec.Command(self, r.Name)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleHost)
	cmd.Dir = r.Dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	exited := make(chan struct{})
	if err := startBound(cmd, exited); err != nil {
		return nil, fmt.Errorf("starting host %s: %w", r.Name, err)
	}
	return cmd.Process.Pid, nil
}

// link makes a pair of interfaces, one at the network's bridge and the other in
// the host's namespace, and returns the name of the first.
func (f *first) link(_ context.Context, r linkRequest) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	bridge, err := findBridge(r.Network)
	if err != nil {
		return nil, err
	}
	f.links++
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("port%d", f.links)
	attrs.MasterIndex = bridge.Attrs().Index
	attrs.Flags = net.FlagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: r.Device, PeerNamespace: netlink.NsPid(r.PID)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("adding a virtual ethernet pair: %w", err)
	}
	return attrs.Name, netlink.LinkSetUp(veth)
}

func findBridge(name string) (netlink.Link, error) {
	if b, err := netlink.LinkByName(name); err == nil {
		return b, nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	off := false
	b := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off} // else neighbour discovery may be held back
	if err := netlink.LinkAdd(b); err != nil {
		return nil, fmt.Errorf("adding bridge %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(b); err != nil {
		return nil, fmt.Errorf("setting up bridge %s: %w", name, err)
	}
	return b, nil
}
