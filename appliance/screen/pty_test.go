package screen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

// person sits before a console: a pseudoterminal whose other end the screen has.
type person struct {
	t      *testing.T
	master *os.File
	path   string

	mu     sync.Mutex
	text   string // all that was written to the console
	read   int    // what see has passed
	change chan struct{}
}

func sit(t *testing.T) *person {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		testneed.Skip(t, "needs pseudoterminals ("+err.Error()+"): mount devpts")
	}
	p := &person{t: t, master: master, change: make(chan struct{})}
	conn, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	failed := conn.Control(func(fd uintptr) {
		var n uint32
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetUint32(int(fd), unix.TIOCGPTN)
			p.path = fmt.Sprintf("/dev/pts/%d", n)
		}
	})
	if err := errors.Join(failed, err); err != nil {
		t.Fatal(err)
	}
	keep, err := p.open("") // while the screen has it closed, the master stays readable
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			p.mu.Lock()
			p.text += string(b[:n])
			close(p.change)
			p.change = make(chan struct{})
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		keep.Close()
		master.Close()
		<-done
	})
	return p
}

func (p *person) open(string) (*os.File, error) {
	return os.OpenFile(p.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
}

func (p *person) press(keys string) {
	p.t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// see waits for text after what was seen before, and returns what stood between.
func (p *person) see(text string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	for {
		p.mu.Lock()
		new, change := p.text[p.read:], p.change
		if i := strings.Index(new, text); i >= 0 {
			p.read += i + len(text)
			p.mu.Unlock()
			return new[:i]
		}
		p.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			p.t.Fatalf("waited for %q, saw %q", text, new)
		}
	}
}

// all is everything that was written to the console.
func (p *person) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text
}

// settings are the terminal's as the screen's end has them.
func (p *person) settings() unix.Termios {
	p.t.Helper()
	f, err := p.open("")
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	s, err := termios(f, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return *s
}

// with runs a screen on the consoles of some people until the test ends or stop is called.
func with(t *testing.T, c Config, people map[Console]*person) (s *Screen, stop func()) {
	t.Helper()
	c.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c.Consoles = nil
	for console := range people {
		c.Consoles = append(c.Consoles, console)
	}
	if c.Open == nil {
		c.Open = func(name string) (*os.File, error) {
			for console, p := range people {
				if console.Name == name && p != nil {
					return p.open(name)
				}
			}
			return nil, os.ErrNotExist
		}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

var (
	screenConsole = Console{Name: "tty1"}
	serialConsole = Console{Name: "ttyS0", Serial: true}
)

// monitor is a screen of 80 by 25 characters that knows what a Linux console does with what
// is written to it, as far as we use it; anything else is a fault.
type monitor struct {
	t        *testing.T
	cells    [rows][columns]byte
	row, col int
}

func (m *monitor) write(text string) {
	m.t.Helper()
	for text != "" {
		rest, known := m.step(text)
		if !known {
			m.t.Fatalf("wrote %q", text[:min(len(text), 12)])
		}
		text = rest
	}
}

func (m *monitor) step(text string) (rest string, known bool) {
	if seq, ok := strings.CutPrefix(text, "\x1b["); ok {
		switch {
		case strings.HasPrefix(seq, "H"):
			m.row, m.col = 0, 0
			return seq[1:], true
		case strings.HasPrefix(seq, "K"):
			m.erase(m.row, m.col)
			return seq[1:], true
		case strings.HasPrefix(seq, "J"):
			m.erase(m.row, m.col)
			for r := m.row + 1; r < rows; r++ {
				m.erase(r, 0)
			}
			return seq[1:], true
		case strings.HasPrefix(seq, "?25l"), strings.HasPrefix(seq, "?25h"):
			return seq[4:], true
		}
		return "", false
	}
	switch c := text[0]; {
	case c == '\r':
		m.col = 0
	case c == '\n':
		if m.row++; m.row == rows {
			m.row--
			copy(m.cells[:], m.cells[1:])
			m.erase(m.row, 0)
		}
	case c == '\b':
		m.col = max(0, m.col-1)
	case c >= ' ' && c <= '~':
		m.cells[m.row][min(m.col, columns-1)] = c
		m.col++ // the last column is written once, and the row ends there
	default:
		return "", false
	}
	return text[1:], true
}

func (m *monitor) erase(row, from int) {
	for c := min(from, columns); c < columns; c++ {
		m.cells[row][c] = ' '
	}
}

func (m *monitor) String() string {
	var b strings.Builder
	for _, r := range m.cells {
		b.WriteString(strings.TrimRight(strings.ReplaceAll(string(r[:]), "\x00", " "), " ") + "\n")
	}
	return b.String()
}

// whole is a status that has everything.
func whole() appliance.Status {
	var st appliance.Status
	mustJSON(wholeJSON, &st)
	return st
}
