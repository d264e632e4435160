package supervise

import (
	"strings"
	"sync"
	"unicode"
)

// mostWords bounds what is kept of a line, in bytes.
const mostWords = 300

// words keeps what a process wrote last, to be told when it fails: the last line in which it
// says itself why it ends, else its last line. It is written to as the process writes.
type words struct {
	mu           sync.Mutex
	line         []byte // that is being written; what is too long is left out
	last, reason string
}

// reasons are how lines begin in which a program of ours, or Go's runtime, says why it ends.
var reasons = []string{"lazaretd: ", "panic: ", "fatal error: "}

// Write takes in what the process wrote. It never fails.
func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range b {
		if c == '\n' {
			w.end()
		} else if len(w.line) < mostWords {
			w.line = append(w.line, c)
		}
	}
	return len(b), nil
}

// end takes the line as it is; w.mu is held.
func (w *words) end() {
	line := printable(string(w.line))
	w.line = w.line[:0]
	if line == "" {
		return
	}
	w.last = line
	for _, r := range reasons {
		if strings.HasPrefix(line, r) {
			w.reason = strings.TrimPrefix(line, reasons[0])
		}
	}
}

// told returns what is to be told; empty: nothing was said.
func (w *words) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end()
	if w.reason != "" {
		return w.reason
	}
	return w.last
}

// printable is a line without what steers a terminal.
func printable(line string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, strings.TrimRight(line, "\r")))
}
