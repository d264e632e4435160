package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// process is a child that dies with the thread that started it, and so with this process,
// however that ends.
type process struct {
	cmd  *exec.Cmd
	said lockedBuffer
	done chan struct{} // closed when it is gone
	err  error         // how it ended; after done
}

// spawn starts a program on a thread of its own, held until the program has ended: the
// death signal comes with the end of the thread (prctl(2), PR_SET_PDEATHSIG).
func spawn(cmd *exec.Cmd, limit time.Duration) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &p.said
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		timer := time.AfterFunc(limit, p.kill)
		err = cmd.Wait()
		if !timer.Stop() {
			err = fmt.Errorf("ran longer than %v", limit)
		}
		if err != nil {
			p.err = fmt.Errorf("%s: %w %s", cmd.Args[0], err, strings.TrimSpace(p.said.String()))
		}
	}()
	return p, <-started
}

func (p *process) kill() { p.cmd.Process.Kill() } // one that has ended is not there to be killed

// pair is two connected stream sockets: one for us, one for a child.
func pair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs"), nil
}

// run runs a program of the test's to its end.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v %s", program, strings.Join(args, " "), err, out)
	}
}

// start starts QEMU, and before it the TPM.
func (v *VM) start(program string) (err error) {
	monitor, theirs, err := pair()
	if err != nil {
		return err
	}
	orders, theirOrders, err := pair()
	if err != nil {
		return err
	}
	v.orders.open(orders)
	files := []*os.File{theirs, theirOrders} // file descriptors from 3 on
	defer func() {
		if err != nil {
			monitor.Close()
			v.orders.close()
		}
	}()
	if v.config.TPM {
		end, err := v.startTPM()
		if err != nil {
			return err
		}
		files = append(files, end)
	}
	var cables []int
	for range v.config.Cables {
		end, err := v.plug()
		if err != nil {
			return err
		}
		cables, files = append(cables, 3+len(files)), append(files, end)
	}
	args, err := arguments(v.config, 3, 4, 5, cables)
	if err != nil {
		return err
	}
	in, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	v.feed, v.serial = feed, newTranscript(v.config.Alarm)
	cmd := exec.Command(program, args...)
	cmd.ExtraFiles, cmd.Stdin, cmd.Stdout = files, in, v.serial
	cmd.WaitDelay = 5 * time.Second
	v.qemu, err = spawn(cmd, v.config.Limit)
	for _, f := range append(files, in) { // QEMU has its own now, and its end is seen at ours
		f.Close()
	}
	if err != nil {
		return err
	}
	go func() {
		<-v.qemu.done
		v.serial.end(v.qemu)
	}()
	v.qmp, err = newQMP(monitor)
	if err != nil {
		v.qemu.kill()
		<-v.qemu.done
		return fmt.Errorf("greeting QEMU: %w (%v)", err, v.qemu.err)
	}
	return nil
}

func (v *VM) startTPM() (*os.File, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	dir := v.config.Dir + "/tpm"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cmd := exec.Command(testneed.Program(v.t, "swtpm"), "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,clientfd=3", "-t")
	cmd.ExtraFiles = []*os.File{theirs}
	if v.tpm, err = spawn(cmd, v.config.Limit); err != nil {
		return nil, errors.Join(fmt.Errorf("starting swtpm: %w", err), ours.Close())
	}
	return ours, nil
}

// lockedBuffer is what a child said, read while it still speaks.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
