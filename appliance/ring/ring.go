// Package ring keeps the last few megabytes of what the kernel and the machine's processes
// say, in memory.
package ring

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"lazaret/internal/durable"
)

// Level is how grave a line is, as syslog and the kernel count (RFC 5424, section 6.2.1):
// 0 is the gravest, 7 is for debugging.
type Level int

// Levels that matter here.
const (
	Critical Level = 2
	Error    Level = 3
	Warning  Level = 4
	Info     Level = 6
	Debug    Level = 7
)

// Line is one line with what is known of it.
type Line struct {
	At     time.Time `json:"at"`
	Origin string    `json:"origin"` // "kernel", "machine", or a part's name
	Level  Level     `json:"level"`
	Text   string    `json:"text"`
}

// String is the line as text, without a line's end.
func (l Line) String() string {
	return fmt.Sprintf("%s %s %d %s", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Origin, l.Level, l.Text)
}

// Config is what New needs.
type Config struct {
	Size    int              // optional: bytes to keep, default 4 MiB
	Console io.Writer        // optional: gets lines at Grave or graver that are not the kernel's
	Grave   Level            // optional: default Critical
	Now     func() time.Time // optional: default time.Now
}

// Filter picks lines; its zero value picks all.
type Filter struct {
	Origin string    // empty: any
	Most   Level     // lines at least this grave; 0: any
	Since  time.Time // zero: any
	Text   string    // contained in the line
}

func (f Filter) picks(l Line) bool {
	return (f.Origin == "" || f.Origin == l.Origin) && (f.Most == 0 || l.Level <= f.Most) &&
		!l.At.Before(f.Since) && strings.Contains(l.Text, f.Text)
}

const (
	defaultSize = 4 << 20
	overhead    = 64   // bytes a line takes besides its texts, about
	longest     = 2048 // bytes of one line; the rest is cut off
)

// Ring holds lines; its methods may be called at the same time.
type Ring struct {
	c     Config
	mu    sync.Mutex
	lines []Line // the oldest first, from start on
	start int
	held  int // bytes
}

// New returns an empty Ring.
func New(c Config) *Ring {
	if c.Size <= 0 {
		c.Size = defaultSize
	}
	if c.Grave == 0 {
		c.Grave = Critical
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Ring{c: c}
}

// Add keeps a line.
func (r *Ring) Add(origin string, level Level, text string) {
	r.add(Line{At: r.c.Now(), Origin: origin, Level: level, Text: clean(text)})
}

func (r *Ring) add(l Line) {
	r.mu.Lock()
	r.lines = append(r.lines, l)
	for r.held += weight(l); r.held > r.c.Size && r.start < len(r.lines)-1; r.start++ {
		r.held -= weight(r.lines[r.start])
		r.lines[r.start] = Line{}
	}
	if r.start > 1024 && r.start > len(r.lines)/2 {
		n := copy(r.lines, r.lines[r.start:])
		clear(r.lines[n:])
		r.lines, r.start = r.lines[:n], 0
	}
	r.mu.Unlock()
	if r.c.Console != nil && l.Origin != "kernel" && l.Level <= r.c.Grave { // the kernel has a console of its own
		_, _ = fmt.Fprintf(r.c.Console, "%s: %s\n", l.Origin, l.Text) // it is kept here all the same
	}
}

func weight(l Line) int { return overhead + len(l.Origin) + len(l.Text) }

// clean makes a text one line of printable characters, bounded in length: it ends up on
// screens.
func clean(text string) string {
	cut := len(text) > longest
	if cut {
		text = text[:longest]
	}
	text = strings.Map(func(c rune) rune {
		if c == '\t' {
			return ' '
		}
		if c < ' ' || c == 0x7f || (c >= 0x80 && c < 0xa0) || c == utf8.RuneError {
			return '?'
		}
		return c
	}, strings.TrimRight(text, "\r\n"))
	if cut {
		text += "..."
	}
	return text
}

// Tail returns the last n lines that f picks, the oldest first.
func (r *Ring) Tail(n int, f Filter) []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Line
	for i := len(r.lines) - 1; i >= r.start && len(out) < n; i-- {
		if f.picks(r.lines[i]) {
			out = append(out, r.lines[i])
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// Save writes all lines as text to a file of mode 0600, whole or not at all, and has it
// on the disk.
func (r *Ring) Save(path string) error {
	r.mu.Lock()
	lines := append([]Line(nil), r.lines[r.start:]...)
	r.mu.Unlock()
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(l.String() + "\n")
	}
	if err := durable.Write(path, []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("saving the log: %w", err)
	}
	return nil
}
