package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// Notice is what is to be told of an alert.
type Notice struct {
	Alert
	What State // Raised or Resolved
}

// Outlet tells people.
type Outlet interface {
	// Name is the outlet's own, for ever: what it was told is kept under it.
	Name() string
	// Least is the least severity that it is told of.
	Least() Severity
	// Send tells all notices, or none of them.
	Send(ctx context.Context, notices []Notice) error
}

// mostAtOnce is how many notices go in one message.
const mostAtOnce = 100

// Tell tells every outlet what it was not told yet. What fails is told the next time, so
// that a mail server that is down loses nothing, and a restart loses nothing either.
func (b *Book) Tell(ctx context.Context, outlets []Outlet, log *slog.Logger) error {
	var faults []error
	for _, o := range outlets {
		if err := b.tellOne(ctx, o); err != nil {
			log.Warn("telling alerts", "outlet", o.Name(), "err", err)
			faults = append(faults, fmt.Errorf("telling %s: %w", o.Name(), err))
		}
	}
	return errors.Join(faults...)
}

func (b *Book) tellOne(ctx context.Context, o Outlet) error {
	var notices []Notice
	var done []Alert
	for _, a := range b.List() {
		if a.Severity.rank() < o.Least().rank() || a.Told[o.Name()] == a.word() {
			continue
		}
		n := Notice{a, Raised}
		if a.State == Resolved {
			n.What = Resolved
			if _, told := a.Told[o.Name()]; !told {
				done = append(done, a) // it was over before anybody was told
				continue
			}
		}
		if len(notices) < mostAtOnce {
			notices, done = append(notices, n), append(done, a)
		}
	}
	if len(notices) > 0 {
		if err := o.Send(ctx, notices); err != nil {
			return err
		}
	}
	for _, a := range done {
		if err := b.told(ctx, a.ID, o.Name(), a.word()); err != nil {
			return err
		}
	}
	return nil
}

// word is what an outlet that knows all of the alert was told last. An acknowledgement is
// nobody's news.
func (a Alert) word() string {
	if a.State == Resolved {
		return fmt.Sprintf("%d %s", a.Count, Resolved)
	}
	return fmt.Sprintf("%d %s", a.Count, Raised)
}

// subject is one line for several notices.
func subject(gateway string, notices []Notice) string {
	worst := Notice{}
	for _, n := range notices {
		if n.What == Raised && (worst.ID == "" || n.Severity.rank() > worst.Severity.rank()) {
			worst = n
		}
	}
	switch {
	case worst.ID == "":
		return fmt.Sprintf("[%s] resolved: %s", gateway, plural(len(notices), "alert"))
	case len(notices) == 1:
		return fmt.Sprintf("[%s] %s: %s", gateway, worst.Severity, clip(worst.Text, 120))
	default:
		return fmt.Sprintf("[%s] %s: %s, and %d more", gateway, worst.Severity, clip(worst.Text, 100), len(notices)-1)
	}
}

// body is the text for people.
func body(notices []Notice) string {
	var s strings.Builder
	for _, n := range notices {
		fmt.Fprintf(&s, "%s %s since %s\n  %s\n", strings.ToUpper(string(n.What)), n.Severity, n.Since.UTC().Format(time.RFC3339), oneLine(n.Text))
		if n.What == Raised && n.Remedy != "" {
			fmt.Fprintf(&s, "  What to do: %s\n", oneLine(n.Remedy))
		}
		fmt.Fprintf(&s, "  %s\n\n", n.ID)
	}
	s.WriteString("All alerts: lazaretctl alert list\n")
	return s.String()
}

// oneLine keeps what came from outside from writing lines of its own.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // control characters, other line ends, marks that turn the direction
			return ' '
		}
		return r
	}, s)
}

func clip(s string, n int) string {
	s = oneLine(s)
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
