package ring

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// What one process may say: so many lines at once, and so many a second on the long run.
const (
	burst     = 500
	perSecond = 50
)

// Writer returns a writer that keeps each line written to it (as a slog handler's output).
// What stands behind the last line's end is kept once that line ends.
func (r *Ring) Writer(origin string) io.Writer { return &writer{r: r, origin: origin} }

type writer struct {
	r      *Ring
	origin string
	mu     sync.Mutex
	rest   []byte
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
		w.r.Add(w.origin, level(string(w.rest)), string(w.rest))
		w.rest, b = w.rest[:0], rest
	}
}

// Follow keeps the lines of a process until from ends or fails: bounded in length, and
// limited in number, with a line that says how many were left out. It never stops reading
// before that, so that who writes is never held up.
func (r *Ring) Follow(origin string, from io.Reader) {
	in := bufio.NewReaderSize(from, longest+1)
	allowed, left, last := float64(burst), 0, r.c.Now()
	for {
		text, err := in.ReadSlice('\n')
		line := string(text)
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
		}
		if len(line) > 0 {
			now := r.c.Now()
			allowed = min(burst, allowed+perSecond*max(now.Sub(last), 0).Seconds())
			last = now
			switch {
			case allowed < 1:
				left++
			default:
				r.leftOut(origin, &left)
				allowed--
				r.Add(origin, level(line), line)
			}
		}
		if err != nil {
			r.leftOut(origin, &left)
			return
		}
	}
}

func (r *Ring) leftOut(origin string, n *int) {
	if *n > 0 {
		r.Add(origin, Warning, fmt.Sprintf("(%d lines were left out: too many at once)", *n))
		*n = 0
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
