package vm

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
)

// transcript is all the guest said on its serial line, with the time of each line.
type transcript struct {
	start time.Time
	alarm *regexp.Regexp

	mu     sync.Mutex
	text   []byte
	lines  []line // where each begins
	read   int    // what Expect has passed
	heard  int    // what was looked at for alarms
	err    error  // the alarm, or how the machine ended
	gone   bool
	change chan struct{} // closed, and replaced, whenever there is more
}

type line struct {
	at   time.Duration // since power-on
	from int
}

// maxTranscript bounds what is kept of a guest that never stops talking, in bytes.
const maxTranscript = 16 << 20

func newTranscript(alarm *regexp.Regexp) *transcript {
	return &transcript{start: time.Now(), alarm: alarm, change: make(chan struct{})}
}

// Write takes what QEMU read from the serial line.
func (r *transcript) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.text)+len(p) > maxTranscript {
		return len(p), nil
	}
	now := time.Since(r.start)
	for i, c := range p {
		if at := len(r.text) + i; at == 0 || c != '\n' && (i > 0 && p[i-1] == '\n' || i == 0 && r.text[at-1] == '\n') {
			r.lines = append(r.lines, line{now, at})
		}
	}
	r.text = append(r.text, p...)
	if end := bytes.LastIndexByte(r.text, '\n') + 1; end > r.heard && r.err == nil {
		if m := r.alarm.FindIndex(r.text[r.heard:end]); m != nil {
			r.err = fmt.Errorf("the guest said %q", r.lineAt(r.heard+m[0]))
		}
		r.heard = end
	}
	close(r.change)
	r.change = make(chan struct{})
	return len(p), nil
}

// lineAt is the whole line around a place; mu is held.
func (r *transcript) lineAt(at int) string {
	from := bytes.LastIndexByte(r.text[:at], '\n') + 1
	to := bytes.IndexByte(r.text[at:], '\n')
	if to < 0 {
		to = len(r.text) - at
	}
	return strings.TrimSpace(string(r.text[from : at+to]))
}

// end notes that the machine is gone.
func (r *transcript) end(p *process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	if r.err == nil {
		r.err = fmt.Errorf("the machine has ended (%v)", p.err)
	}
	close(r.change)
	r.change = make(chan struct{})
}

// Said is what Expect found.
type Said struct {
	At     time.Duration // since power-on: when the first line of it began
	Groups []string      // the whole match, then its parenthesized parts
}

// Expect waits until the guest says what re describes, after what an Expect before found.
// It fails early when the guest says what alarms, or has ended.
func (v *VM) Expect(ctx context.Context, re *regexp.Regexp) (Said, error) {
	for {
		said, change, err := v.serial.find(re)
		if said.Groups != nil {
			return said, nil
		}
		if err != nil {
			return Said{}, fmt.Errorf("waiting for %q on the serial line: %w", re, err)
		}
		select {
		case <-change:
		case <-ctx.Done():
			return Said{}, fmt.Errorf("waiting for %q on the serial line: %w; it said last:\n%s", re, context.Cause(ctx), v.serial.tail(15))
		}
	}
}

// find looks for re, and returns what to wait for when it is not there yet.
func (r *transcript) find(re *regexp.Regexp) (Said, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil && !r.gone {
		return Said{}, nil, r.err
	}
	m := re.FindSubmatchIndex(r.text[r.read:])
	if m == nil {
		return Said{}, r.change, r.err
	}
	var s Said
	for i := 0; i < len(m); i += 2 {
		group := ""
		if m[i] >= 0 {
			group = string(r.text[r.read+m[i] : r.read+m[i+1]])
		}
		s.Groups = append(s.Groups, group)
	}
	for _, l := range r.lines {
		if l.from > r.read+m[0] {
			break
		}
		s.At = l.at
	}
	r.read += m[1]
	return s, nil, nil
}

// Alarm changes what alarms from now on; nil: nothing does. An alarm there was is forgotten.
func (v *VM) Alarm(re *regexp.Regexp) {
	if re == nil {
		re = regexp.MustCompile(`[^\s\S]`)
	}
	v.serial.mu.Lock()
	defer v.serial.mu.Unlock()
	v.serial.alarm, v.serial.heard = re, len(v.serial.text)
	if !v.serial.gone {
		v.serial.err = nil
	}
}

// Type types on the serial line.
func (v *VM) Type(text string) error {
	if _, err := v.feed.WriteString(text); err != nil {
		return fmt.Errorf("typing on the serial line: %w", err)
	}
	return nil
}

// Age is the time since power-on.
func (v *VM) Age() time.Duration { return time.Since(v.serial.start) }

// Transcript is what the guest said so far, each line with the seconds since power-on.
// Control characters are left out.
func (v *VM) Transcript() string { return v.serial.tail(1 << 30) }

func (r *transcript) tail(n int) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	first := max(0, len(r.lines)-n)
	for i, l := range r.lines[first:] {
		end := len(r.text)
		if next := first + i + 1; next < len(r.lines) {
			end = r.lines[next].from
		}
		fmt.Fprintf(&b, "%8.3f %s\n", l.at.Seconds(), printable(r.text[l.from:end]))
	}
	return b.String()
}

func printable(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return -1
		}
		return c
	}, string(b))
}
