package screen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openDevice opens a console. It does not become the controlling terminal, so that no key
// sends a signal.
func openDevice(name string) (*os.File, error) {
	return os.OpenFile("/dev/"+name, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
}

// raw has a terminal pass on what is typed byte by byte, without echo and without signals
// (termios(3)), and returns what undoes it. The speed stays as it is, carrier is not waited
// for, and nobody can stop the output with Ctrl-S.
func raw(f *os.File) (undo func() error, err error) {
	before, err := termios(f, nil)
	if err != nil {
		return nil, fmt.Errorf("reading terminal settings: %w", err)
	}
	t := *before
	t.Iflag = unix.IGNBRK | unix.IGNPAR
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag &^= unix.CSIZE | unix.PARENB | unix.CRTSCTS | unix.HUPCL
	t.Cflag |= unix.CS8 | unix.CREAD | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if _, err := termios(f, &t); err != nil {
		return nil, fmt.Errorf("changing terminal settings: %w", err)
	}
	return func() error { _, err := termios(f, before); return err }, nil
}

// termios sets the settings of a terminal if some are given, and returns those it had.
func termios(f *os.File, set *unix.Termios) (had *unix.Termios, err error) {
	conn, err := f.SyscallConn() // File.Fd would make reads block for good
	if err != nil {
		return nil, err
	}
	failed := conn.Control(func(fd uintptr) {
		if had, err = unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil && set != nil {
			err = unix.IoctlSetTermios(int(fd), unix.TCSETS, set)
		}
	})
	return had, errors.Join(failed, err)
}

// size is a terminal's in columns and rows: 80 by 25 where it does not know.
func size(f *os.File) (width, height int) {
	width, height = columns, rows
	conn, err := f.SyscallConn()
	if err != nil {
		return width, height
	}
	var w *unix.Winsize
	if failed := conn.Control(func(fd uintptr) { w, err = unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ) }); failed != nil || err != nil {
		return width, height
	}
	if w.Col >= 40 && w.Row >= 15 {
		width, height = min(int(w.Col), 132), min(int(w.Row), 60)
	}
	return width, height
}

// flush drops what was typed and not read.
func flush(f *os.File) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	conn.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH) }) // a terminal that fails says so at the next read
}

// hasVideo says whether the kernel has something to show its terminals on: a driver that is
// bound to them, and not the one that stands in for none (Documentation/driver-api/console).
func hasVideo(dir string) bool {
	drivers, _ := filepath.Glob(filepath.Join(dir, "vtcon*"))
	for _, d := range drivers {
		name, err := os.ReadFile(filepath.Join(d, "name"))
		bound, err2 := os.ReadFile(filepath.Join(d, "bind"))
		if err == nil && err2 == nil && strings.TrimSpace(string(bound)) == "1" && !strings.Contains(string(name), "dummy") {
			return true
		}
	}
	return false
}
