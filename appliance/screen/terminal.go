package screen

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/appliance"
)

// The size of a console that does not know its own, and of every serial line.
const columns, rows = 80, 25

// terminal is one console while it is open. It belongs to one goroutine.
type terminal struct {
	screen  *Screen
	console Console
	file    *os.File
	keys    <-chan key
	pace    pace // of what is written unasked
	typing  pace // of what is done for keys: the zero pace, but on a serial line, whose other end may echo

	shown    []string  // what the last page or block said, without what changes all the time
	line     string    // the Line written last
	minute   int64     // for which the clock was drawn
	gists    []gist    // that were written, the last ones
	declined *question // the one that was left with Esc
}

// show keeps one console until ctx ends or the console fails.
func (s *Screen) show(ctx context.Context, c Console) error {
	f, err := s.config.Open(c.Name)
	if err != nil {
		return fmt.Errorf("opening console: %w", err)
	}
	defer f.Close()
	if err := f.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("opening console %s: it cannot be polled: %w", c.Name, err)
	}
	undo, err := raw(f)
	if err != nil {
		return fmt.Errorf("opening console %s: %w", c.Name, err)
	}
	defer undo()

	keys := make(chan key)
	ctx, cancel := context.WithCancelCause(ctx)
	var reader sync.WaitGroup
	reader.Go(func() { cancel(read(ctx, f, keys)) })
	t := &terminal{screen: s, console: c, file: f, keys: keys, pace: video()}
	if c.Serial {
		t.pace, t.typing = serial(), pace{refill: 5 * time.Second, burst: 40}
	}
	err = t.run(ctx)
	cancel(nil)
	f.SetReadDeadline(time.Unix(1, 0)) // ends the read
	reader.Wait()
	return err
}

// read passes on what is typed until ctx ends or the terminal fails.
func read(ctx context.Context, f *os.File, to chan<- key) error {
	var board keyboard
	b := make([]byte, 256)
	for {
		n, err := f.Read(b)
		for _, k := range board.feed(b[:n]) {
			select {
			case to <- k:
			case <-ctx.Done():
				return nil
			}
		}
		clear(b[:n]) // it may have been a secret
		if err != nil {
			return fmt.Errorf("reading console: %w", err)
		}
	}
}

// run draws what there is, and does what keys say.
func (t *terminal) run(ctx context.Context) error {
	defer t.leave()
	for {
		st, q, changed := t.screen.seen()
		if q != nil && q.aside && t.console.Serial {
			q = nil
		}
		if q != nil && q != t.declined {
			if err := t.answer(ctx, q); err != nil {
				return err
			}
			continue
		}
		wait, err := t.draw(st)
		if err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-changed:
		case <-timer.C:
		case k := <-t.keys:
			err = t.press(ctx, st, q, k)
		}
		timer.Stop()
		if err != nil {
			return err
		}
	}
}

// writeWithin is how long a console may take what is written to it.
const writeWithin = 10 * time.Second

func (t *terminal) write(text string) error {
	if err := t.file.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
		return fmt.Errorf("writing to console: %w", err)
	}
	if _, err := t.file.WriteString(text); err != nil {
		return fmt.Errorf("writing to console: %w", err)
	}
	return nil
}

// draw shows st if there is anything new in it and the console was not written to a moment
// ago, and says when to look again.
func (t *terminal) draw(st appliance.Status) (time.Duration, error) {
	now := time.Now()
	next := now.Truncate(time.Minute).Add(time.Minute).Sub(now)
	if !t.stale(st, now) {
		return next, nil
	}
	if wait := t.due(st, now); wait > 0 {
		return wait, nil
	}
	if t.console.Serial {
		return next, t.print(st, now)
	}
	width, height := size(t.file)
	t.shown, t.minute = t.look(st), minute(now)
	return next, t.write(frame(page(st, t.menu(), now, width, height)))
}

// stale reports whether the console shows something else than st.
func (t *terminal) stale(st appliance.Status, now time.Time) bool {
	if t.console.Serial {
		return t.line != Line(st) || !slices.Equal(t.shown, t.look(st))
	}
	return t.minute != minute(now) || !slices.Equal(t.shown, t.look(st))
}

func minute(now time.Time) int64 { return now.Unix() / 60 }

// look is what is compared to tell whether there is something new to see.
func (t *terminal) look(st appliance.Status) []string {
	return append(body(st.Problems, facts(st, time.Time{}, true), columns, 0), append(t.menu(), st.Name, st.Version)...)
}

// print writes to a serial line what changed: the block, the line for programs, or both.
func (t *terminal) print(st appliance.Status, now time.Time) error {
	var text []string
	if s := t.look(st); !slices.Equal(t.shown, s) {
		t.shown = s
		text = block(st, t.menu(), now, false)
	}
	if l := Line(st); l != t.line {
		t.line = l
		text = append(text, l)
	}
	return t.write("\r\n" + strings.Join(text, "\r\n") + "\r\n")
}

// Control sequences (ECMA-48), those that a Linux console and every emulator know. They go
// to the video console alone.
const (
	home       = "\x1b[H"
	eraseLine  = "\x1b[K"
	eraseBelow = "\x1b[J"
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
)

// frame draws a page over the one before it, without a flicker.
func frame(rows []string) string {
	return hideCursor + home + strings.Join(rows, eraseLine+"\r\n") + eraseLine + eraseBelow
}

// fresh makes room for a dialog.
func (t *terminal) fresh() error {
	if t.console.Serial {
		return t.write("\r\n")
	}
	return t.write(home + eraseBelow + showCursor)
}

// again has the whole screen written anew.
func (t *terminal) again() {
	t.shown, t.minute = nil, 0
	t.pace.last, t.pace.spent = time.Time{}, max(0, t.pace.spent-1) // whoever types is shown what comes of it
}

// leave makes the console fit for whoever has it next.
func (t *terminal) leave() {
	if !t.console.Serial {
		t.file.SetWriteDeadline(time.Now().Add(time.Second))
		t.file.WriteString(home + eraseBelow + showCursor) // it may be gone; then nobody sees it either
	}
}
