package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// notice is the socket at which one process tells that it is ready (sd_notify(3)).
type notice struct {
	conn *net.UnixConn
	path string
	done chan struct{} // nil: nobody reads
	beat chan struct{} // gets a value after WATCHDOG=1
}

// listenNotice makes the socket. Only user may write to it, and what others write is not
// believed.
func listenNotice(path string, user int) (*notice, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("making the socket for readiness: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		var set error
		err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, set, os.Chmod(path, 0o600), os.Lchown(path, user, -1))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("making the socket for readiness: %w", err)
	}
	return &notice{conn: conn, path: path, beat: make(chan struct{}, 1)}, nil
}

// follow returns a channel that closes when process pid says READY=1; at once where nobody
// listens.
func (n *notice) follow(pid int) <-chan struct{} {
	ready := make(chan struct{})
	if n == nil {
		close(ready)
		return ready
	}
	n.done = make(chan struct{})
	go func() {
		defer close(n.done)
		text, oob := make([]byte, 4096), make([]byte, 256)
		for said := false; ; {
			size, oobSize, _, _, err := n.conn.ReadMsgUnix(text, oob)
			if err != nil {
				return
			}
			if sender(oob[:oobSize]) != pid {
				continue
			}
			if !said && says(text[:size], "READY=1") {
				said = true
				close(ready)
			}
			if says(text[:size], "WATCHDOG=1") {
				select {
				case n.beat <- struct{}{}:
				default:
				}
			}
		}
	}()
	return ready
}

func says(text []byte, what string) bool {
	for line := range bytes.Lines(text) {
		if string(bytes.TrimRight(line, "\n")) == what {
			return true
		}
	}
	return false
}

// sender is the process that the kernel says sent a message; 0: unknown. Files sent along
// are closed unseen.
func sender(oob []byte) (pid int) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			pid = int(cred.Pid)
		}
		if files, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range files {
				unix.Close(fd)
			}
		}
	}
	return pid
}

// beats gets a value after each sign of life; nil where nobody listens.
func (n *notice) beats() <-chan struct{} {
	if n == nil {
		return nil
	}
	return n.beat
}

func (n *notice) close() {
	if n == nil {
		return
	}
	n.conn.Close()
	if n.done != nil {
		<-n.done
	}
	_ = os.Remove(n.path) // the next one makes it anew
}
