package ring

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// What one process may say: so many lines at once, and so many a second on the long run.
const (
	burst     = 500
	perSecond = 50
)

// Writer returns a writer that keeps each line written to it (as a slog handler's output),
// limited in number as by Follow, but errors and what is graver apart from all else: what
// strangers can have said at will hides none of them.
// What stands behind the last line's end is kept once that line ends.
func (r *Ring) Writer(origin string) io.Writer {
	return &writer{r: r, origin: origin, grave: newMeter(r), other: newMeter(r)}
}

type writer struct {
	r            *Ring
	origin       string
	mu           sync.Mutex
	grave, other meter
	rest         []byte
}

// meter says how many lines may still be kept.
type meter struct {
	r       *Ring
	allowed float64
	left    int // out, and not told of yet
	last    time.Time
}

func newMeter(r *Ring) meter { return meter{r: r, allowed: burst, last: r.c.Now()} }

// add keeps a line, with one before it that says how many were left out, or leaves it out.
func (m *meter) add(origin string, l Level, line string) {
	now := m.r.c.Now()
	m.allowed = min(burst, m.allowed+perSecond*max(now.Sub(m.last), 0).Seconds())
	m.last = now
	if m.allowed < 1 {
		m.left++
		return
	}
	m.end(origin)
	m.allowed--
	m.r.Add(origin, l, line)
}

// end tells of what was left out.
func (m *meter) end(origin string) {
	if m.left > 0 {
		m.r.Add(origin, Warning, fmt.Sprintf("(%d lines were left out: too many at once)", m.left))
		m.left = 0
	}
}

func (w *writer) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		if room := longest + 1 - len(w.rest); len(line) > room {
			line = line[:max(room, 0)]
		}
		w.rest = append(w.rest, line...)
		if !whole {
			return n, nil
		}
		text := string(w.rest)
		if l := level(text); l <= Error {
			w.grave.add(w.origin, l, text)
		} else {
			w.other.add(w.origin, l, text)
		}
		w.rest, b = w.rest[:0], rest
	}
}

// Follow keeps the lines of a process until from ends or fails: bounded in length, and
// limited in number, with a line that says how many were left out. It never stops reading
// before that, so that who writes is never held up.
func (r *Ring) Follow(origin string, from io.Reader) {
	in := bufio.NewReaderSize(from, longest+1)
	m := newMeter(r)
	defer m.end(origin)
	for {
		text, err := in.ReadSlice('\n')
		line := string(text)
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if len(line) > 0 {
			m.add(origin, level(line), line)
		}
		if err != nil {
			return
		}
	}
}

// level reads what a line of log/slog, in either form, says of itself; a panic of the Go
// runtime is critical, and other lines tell something.
func level(line string) Level {
	if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
		return Critical
	}
	for _, m := range []struct {
		mark string
		l    Level
	}{{"ERROR", Error}, {"WARN", Warning}, {"DEBUG", Debug}} {
		if strings.Contains(line, "level="+m.mark) || strings.Contains(line, `"level":"`+m.mark+`"`) {
			return m.l
		}
	}
	return Info
}
