package supervise

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// family knows which processes are this one's own. Each is waited for by a goroutine of its
// own, by its number. Process number 1 also gets the children of processes that are gone:
// collect looks who has ended without taking anything (WNOWAIT), and takes strangers alone.
type family struct {
	log  *slog.Logger
	mu   sync.Mutex // held over fork and birth, so that no child is ever taken for a stranger
	own  map[int]bool
	gone chan struct{} // one of our own was taken: look again

	stop, done chan struct{}
	waits      sync.WaitGroup
}

func newFamily(orphans bool, log *slog.Logger) *family {
	f := &family{log: log, own: map[int]bool{}, gone: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	if !orphans {
		close(f.done)
		return f
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		defer close(f.done)
		defer signal.Stop(died)
		for {
			f.collect()
			select {
			case <-died:
			case <-f.gone:
			case <-f.stop:
				return
			}
		}
	}()
	return f
}

// bear starts a process by fork and has its end told on the channel it returns.
func (f *family) bear(fork func() (int, error)) (int, <-chan syscall.WaitStatus, error) {
	f.mu.Lock()
	pid, err := fork()
	if err == nil {
		f.own[pid] = true
	}
	f.mu.Unlock()
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	f.waits.Go(func() { ended <- f.await(pid) })
	return pid, ended, nil
}

// await takes the end of one of our own.
func (f *family) await(pid int) syscall.WaitStatus {
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			f.log.Error("waiting for a process", "pid", pid, "error", err)
		}
		break
	}
	f.mu.Lock()
	delete(f.own, pid)
	f.mu.Unlock()
	select {
	case f.gone <- struct{}{}:
	default:
	}
	return status
}

// collect takes every stranger that has ended. When the next one to take is our own it
// leaves the rest until that one's end was taken.
func (f *family) collect() {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		pid := childOf(&info)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
		f.mu.Lock()
		own := f.own[pid]
		f.mu.Unlock()
		if own {
			return
		}
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); err == nil {
			f.log.Debug("took in an orphan", "pid", pid, "how", describe(status))
		}
	}
}

// close ends the looking for orphans. No process of ours is left by then.
func (f *family) close() error {
	f.waits.Wait()
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	<-f.done
	return nil
}
