// Package ring keeps the last few megabytes of what the kernel and the machine's processes
// say, in memory.
package ring

import (
	"context"
	"io"
	"time"
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

// Config is what New needs.
type Config struct {
	Size    int              // optional: bytes to keep, default 4 MiB
	Console io.Writer        // optional: gets lines at Grave or graver that are not the kernel's
	Grave   Level            // optional: default Critical
	Now     func() time.Time // optional: default time.Now
}

// Filter picks lines; its zero value picks all.
type Filter struct {
	Origin string // empty: any
	Most   Level  // lines at most this little grave; 0: any
	Since  time.Time
	Text   string // contained in the line
}

// Ring holds lines; its methods may be called at the same time.
type Ring struct{}

// New returns an empty Ring.
func New(c Config) *Ring { return &Ring{} }

// Add keeps a line.
func (r *Ring) Add(origin string, level Level, text string) {}

// Tail returns the last n lines that f picks, the oldest first.
func (r *Ring) Tail(n int, f Filter) []Line { return nil }

// Writer returns a writer that keeps each line written to it (as a slog handler's output).
func (r *Ring) Writer(origin string) io.Writer { return io.Discard }

// Follow keeps the lines of a process until from ends: bounded in length, and limited in
// number, with a line that says how many were left out.
func (r *Ring) Follow(origin string, from io.Reader) {}

// Kernel keeps what the kernel says (/dev/kmsg) until ctx ends.
func (r *Ring) Kernel(ctx context.Context, path string) error { return nil }

// Save writes all lines as text to a file of mode 0600, whole or not at all.
func (r *Ring) Save(path string) error { return nil }
