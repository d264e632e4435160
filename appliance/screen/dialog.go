package screen

import (
	"context"
	"errors"
	"strings"
	"time"

	"lazaret/appliance"
)

var (
	errLeft  = errors.New("left")        // a dialog was left, or nobody typed in it any more
	errStale = errors.New("out of date") // what stands above the prompt is
)

// entry is a line that is to be typed.
type entry struct {
	prompt string // optional
	limit  int    // bytes
	secret bool
	over   <-chan struct{} // optional: ends it as if it was left
	stale  <-chan struct{} // optional: ends it with errStale while nothing is typed
}

// next waits for a key.
func (t *terminal) next(ctx context.Context, e entry) (key, error) {
	timer := time.NewTimer(t.screen.idle)
	defer timer.Stop()
	select {
	case k := <-t.keys:
		return k, nil
	case <-e.over:
		return 0, errLeft
	case <-e.stale:
		return 0, errStale
	case <-timer.C:
		return 0, errLeft
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// ask has a line typed. Left with Esc it is errLeft.
func (t *terminal) ask(ctx context.Context, e entry) (string, error) {
	if e.prompt != "" {
		above, last := cutLast(e.prompt, "\n")
		if above != "" {
			if err := t.say(strings.Split(above, "\n")...); err != nil {
				return "", err
			}
		}
		if err := t.write(clean(last, longest) + " "); err != nil {
			return "", err
		}
	}
	typed := edit{text: make([]byte, 0, e.limit), limit: e.limit, secret: e.secret}
	defer func() { clear(typed.text[:cap(typed.text)]) }()
	for {
		wait := e
		if len(typed.text) > 0 {
			wait.stale = nil
		}
		k, err := t.next(ctx, wait)
		switch {
		case errors.Is(err, errStale):
			return "", err
		case err == nil && k == escape:
			return "", errors.Join(errLeft, t.write("\r\n"))
		case err != nil:
			return "", errors.Join(err, t.write("\r\n"))
		case k == enter:
			return string(typed.text), t.write("\r\n")
		}
		if err := t.write(typed.press(k)); err != nil {
			return "", err
		}
	}
}

// cutLast cuts text at the last sep.
func cutLast(text, sep string) (before, after string) {
	i := strings.LastIndex(text, sep)
	return text[:max(i, 0)], text[i+1:]
}

// answer puts a question on this console. Whoever leaves it can come back to it with a key.
func (t *terminal) answer(ctx context.Context, q *question) error {
	defer t.again()
	e := entry{limit: MaxAnswer, secret: q.secret, over: q.over}
	t.again()
	for prompted := false; ; prompted = true {
		st, _, changed := t.screen.seen()
		drawn, err := t.above(st)
		if err != nil {
			return err
		}
		e.prompt, e.stale = q.prompt, changed
		if prompted && !drawn {
			e.prompt = "" // it stands there already
		}
		text, err := t.ask(ctx, e)
		select {
		case <-q.over: // answered elsewhere, or nobody waits any more
			return t.swallow(ctx)
		default:
		}
		switch {
		case errors.Is(err, errLeft):
			t.declined = q
			return nil
		case errors.Is(err, errStale):
			continue
		case err != nil:
			return err
		case text == "" && q.secret: // a key too many
			t.again()
			continue
		}
		select {
		case q.answer <- text:
		default: // another console was faster
		}
		select {
		case <-q.over:
		case <-ctx.Done():
		}
		return context.Cause(ctx)
	}
}

// swallow drops what is still typed for a question that is over: it chooses nothing from the
// menu, and a secret is not shown there.
func (t *terminal) swallow(ctx context.Context) error {
	for {
		quiet := time.NewTimer(time.Second)
		select {
		case k := <-t.keys:
			quiet.Stop()
			if k == enter || k == escape {
				return nil
			}
		case <-quiet.C:
			return nil
		case <-ctx.Done():
			quiet.Stop()
			return context.Cause(ctx)
		}
	}
}

// above draws what stands above a question, if there is something new in it.
func (t *terminal) above(st appliance.Status) (drawn bool, err error) {
	now := time.Now()
	if !t.stale(st, now) || t.due(st, now) > 0 {
		return false, nil
	}
	if t.console.Serial {
		return true, t.print(st, now)
	}
	width, height := size(t.file)
	t.shown, t.minute = t.look(st), minute(now)
	text := page(st, []string{" Esc: the menu"}, now, width, height-1)
	return true, t.write(frame(text) + "\r\n" + showCursor)
}

// say writes rows of a dialog.
func (t *terminal) say(rows ...string) error {
	var b strings.Builder
	for _, r := range rows {
		for _, w := range wrap("", clean(r, longest), columns) {
			b.WriteString(w + "\r\n")
		}
	}
	return t.write(b.String())
}

// sure has a word typed in full: a key pressed by mistake, or noise on a serial line, is no
// answer.
func (t *terminal) sure(ctx context.Context, word string) error {
	got, err := t.ask(ctx, entry{prompt: "Type " + word + " to go on, Esc to leave:", limit: MaxAnswer})
	if err != nil {
		return err
	}
	if got != word {
		return errLeft
	}
	return nil
}

// act does it, and says how it went until a key is pressed.
func (t *terminal) act(ctx context.Context, do func(context.Context) error) error {
	if err := t.say("Working ..."); err != nil {
		return err
	}
	text := "Done."
	if err := do(ctx); err != nil {
		text = "That failed: " + err.Error()
	}
	t.drop()
	if err := t.say(text); err != nil {
		return err
	}
	return t.pause(ctx)
}

// drop forgets what was typed while nothing was asked: it answers no question that comes.
func (t *terminal) drop() {
	flush(t.file)
	for {
		select {
		case <-t.keys:
		default:
			return
		}
	}
}

// pause keeps what was said on the video console until a key is pressed; a serial line
// scrolls on.
func (t *terminal) pause(ctx context.Context) error {
	if t.console.Serial {
		return nil
	}
	if err := t.say("", "Any key goes back."); err != nil {
		return err
	}
	_, err := t.next(ctx, entry{})
	return err
}
