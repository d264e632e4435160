package modules

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxEvent bounds one event; the kernel's are 2048 bytes and a head (UEVENT_BUFFER_SIZE).
const maxEvent = 8192

// event is what the kernel tells of a device.
type event struct {
	action    string // add, remove, change, bind, unbind, move, online, offline
	path      string // below /sys
	subsystem string
	modalias  string
}

// parse reads an event: a head ACTION@PATH and KEY=VALUE pairs, each ended by a zero byte.
func parse(b []byte) (e event, ok bool) {
	head, rest, _ := bytes.Cut(b, []byte{0})
	action, path, found := strings.Cut(string(head), "@")
	if !found || action == "" || len(b) > maxEvent {
		return event{}, false // libudev's messages begin otherwise
	}
	e = event{action: action, path: path}
	for pair := range bytes.SplitSeq(rest, []byte{0}) {
		key, value, _ := strings.Cut(string(pair), "=")
		switch key {
		case "SUBSYSTEM":
			e.subsystem = value
		case "MODALIAS":
			e.modalias = value
		}
	}
	return e, true
}

// events is the kernel's socket for them.
type events struct{ file *os.File }

// eventBuffer holds the events of a bus with hundreds of devices, in bytes.
const eventBuffer = 4 << 20

func listen() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listening for devices: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer) // what is lost is looked for
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return nil, fmt.Errorf("listening for devices: %w", errors.Join(err, unix.Close(fd)))
	}
	return &events{os.NewFile(uintptr(fd), "uevents")}, nil
}

func (s *events) Close() error { return s.file.Close() }

// next waits for an event of the kernel's; what others send is passed over.
func (s *events) next(b []byte) (event, error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return event{}, err
	}
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(got, syscall.EAGAIN)
		})
		if err = errors.Join(err, got); err != nil {
			return event{}, err
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue
		}
		if e, ok := parse(b[:n]); ok {
			return e, nil
		}
	}
}
