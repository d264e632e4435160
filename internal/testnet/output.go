package testnet

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
)

// maxOutput bounds what is kept of a process's output, in bytes.
const maxOutput = 1 << 20

// output keeps the lines a process printed. The zero output is ready for use.
type output struct {
	mu    sync.Mutex
	lines []string
	first int // number of lines dropped from the front
	size  int
	ended bool
	more  chan struct{} // closed when something changed; nil: nobody waits
}

func (o *output) changed() {
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
}

func (o *output) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, line)
	for o.size += len(line); o.size > maxOutput && len(o.lines) > 1; o.first++ {
		o.size -= len(o.lines[0])
		o.lines = o.lines[1:]
	}
	o.changed()
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.changed()
}

// await returns the first line with text in it.
func (o *output) await(ctx context.Context, text string) (string, error) {
	for next := 0; ; {
		o.mu.Lock()
		for next = max(next, o.first); next < o.first+len(o.lines); next++ {
			if line := o.lines[next-o.first]; strings.Contains(line, text) {
				o.mu.Unlock()
				return strings.TrimRight(line, "\n"), nil
			}
		}
		ended := o.ended
		if o.more == nil {
			o.more = make(chan struct{})
		}
		more := o.more
		o.mu.Unlock()
		if ended {
			return "", errors.New("it ended")
		}
		select {
		case <-more:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "")
}

// tail returns the last few lines for an error message.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	last := strings.TrimSpace(strings.Join(o.lines[max(0, len(o.lines)-12):], ""))
	if last == "" {
		return "nothing"
	}
	return last
}

// prefixLog writes lines of many processes to one writer.
type prefixLog struct {
	mu sync.Mutex
	w  io.Writer
}

func newPrefixLog(w io.Writer) *prefixLog {
	if w == nil {
		w = io.Discard
	}
	return &prefixLog{w: w}
}

func (l *prefixLog) write(who, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = io.WriteString(l.w, who+": "+strings.TrimRight(line, "\n")+"\n") // a log that fails stops nothing
}
