package ring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel keeps what the kernel says until ctx ends, from its first word on. path is
// usually /dev/kmsg.
func (r *Ring) Kernel(ctx context.Context, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("reading the kernel's log: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	for b := make([]byte, 8192); ; { // a record is at most that long (dev-kmsg)
		n, err := f.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EPIPE): // the next one was overwritten before it was read
			r.Add("kernel", Warning, "(lines were left out: too many at once)")
		case errors.Is(err, unix.EINVAL): // longer than any the kernel writes
			r.Add("kernel", Warning, "(a line was left out: too long)")
		case err != nil:
			return fmt.Errorf("reading the kernel's log: %w", err)
		default:
			if l, ok := r.record(string(b[:n])); ok {
				r.add(l)
			}
		}
	}
}

// record reads one record: "priority,number,microseconds,flags...;text" and lines that
// begin with a space, which are for programs. Its time is counted by the clock that the
// machine has when it is read.
func (r *Ring) record(s string) (Line, bool) {
	head, text, ok := strings.Cut(s, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return Line{}, false
	}
	priority, err := strconv.ParseUint(fields[0], 10, 16)
	since, err2 := strconv.ParseUint(fields[2], 10, 52)
	if err != nil || err2 != nil {
		return Line{}, false
	}
	if priority>>3 != 0 {
		return Line{}, false // a program wrote it: this one, which keeps its lines when it says them
	}
	text, _, _ = strings.Cut(text, "\n")
	l := Line{At: r.booted().Add(time.Duration(since) * time.Microsecond), Origin: "kernel", Level: Level(priority & 7), Text: clean(text)}
	return l, true
}

// booted is when the machine started.
func (r *Ring) booted() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &up); err != nil {
		return r.c.Now()
	}
	return r.c.Now().Add(-time.Duration(up.Nano()))
}
