package testnet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// processes is what runs on a host besides its agent.
type processes struct {
	mu      sync.Mutex
	next    uint64
	running map[uint64]*running
}

type running struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

func (ps *processes) register(ops map[string]handler) {
	ops[opStart] = handleFiles(ps.start)
	ops[opWait] = handle(ps.wait)
	ops[opSignal] = handle(ps.signal)
}

func (ps *processes) start(_ context.Context, r processRequest, files []*os.File) (any, error) {
	defer closeAll(files)
	if len(files) != 4 {
		return nil, fmt.Errorf("%d files came along, want 4", len(files))
	}
	cmd := exec.Command(self, r.Args...)
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Env = append(cmd.Env, reportEnv+"="+strconv.Itoa(reportFD))
	switch {
	case (r.Role == "") == (r.Path == ""):
		return nil, fmt.Errorf("want a role or a path, got %q and %q", r.Role, r.Path)
	case r.NoPrivileges:
		cmd = exec.Command(self, append([]string{r.Role, r.Path}, r.Args...)...)
		cmd.Env = append(os.Environ(), append(r.Env, reportEnv+"="+strconv.Itoa(reportFD), roleEnv+"="+roleDrop)...)
	case r.Role != "":
		cmd.Env = append(cmd.Env, roleEnv+"="+r.Role)
	default:
		cmd.Path, cmd.Args[0] = r.Path, r.Path
	}
	cmd.Dir = r.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	cmd.ExtraFiles = files[3:]
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if r.UID != 0 || r.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(r.UID), Gid: uint32(r.GID)}
	}
	run := &running{cmd: cmd, exited: make(chan struct{})}
	if err := startBound(cmd, run.exited); err != nil {
		return nil, err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.next++
	ps.running[ps.next] = run
	return processStarted{ID: ps.next, PID: cmd.Process.Pid}, nil
}

func (ps *processes) find(id uint64) (*running, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if run := ps.running[id]; run != nil {
		return run, nil
	}
	return nil, fmt.Errorf("no process %d here", id)
}

func (ps *processes) wait(ctx context.Context, id uint64) (any, error) {
	run, err := ps.find(id)
	if err != nil {
		return nil, err
	}
	select {
	case <-run.exited:
		st := run.cmd.ProcessState
		return processEnd{Code: st.ExitCode(), Status: st.String()}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (ps *processes) signal(_ context.Context, r signalRequest) (any, error) {
	run, err := ps.find(r.ID)
	if err != nil {
		return nil, err
	}
	select {
	case <-run.exited:
		return nil, nil
	default:
	}
	if err := run.cmd.Process.Signal(syscall.Signal(r.Signal)); err != nil && err != os.ErrProcessDone {
		return nil, err
	}
	return nil, nil
}

// runDrop gives up every capability for good and becomes the role or program that
// its first two arguments name. In a user namespace everyone is user 0 there, so
// that the user id restrains nobody: what is left is an empty bounding set, which
// execve of a program by user 0 cannot refill.
func runDrop(_ context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("dropping privileges: want a role or a path")
	}
	role, path := args[0], args[1]
	if role != "" {
		path = self
		os.Setenv(roleEnv, role)
	} else if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	runtime.LockOSThread() // what follows is of this thread, which execve makes the only one
	if err := dropPrivileges(); err != nil {
		return err
	}
	// The kernel forgets the death signal at some execve calls.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("asking to end with the host: %w", err)
	}
	err := syscall.Exec(path, append([]string{path}, args[2:]...), os.Environ())
	return fmt.Errorf("running %s: %w", path, err)
}

func dropPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			break // beyond the last capability that this kernel knows
		} else if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing the ambient set: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	return nil
}
