package screen

import (
	"context"
	"errors"
	"time"

	"lazaret/appliance"
)

// acceptTime is the entry for a clock that waits for a person, or that nobody vouches for.
func (t *terminal) acceptTime() action {
	st, _, _ := t.screen.seen()
	settled := st.Stage == appliance.Running || st.Stage == appliance.Unclaimed || st.Stage == appliance.Failed
	if t.screen.config.Actions.AcceptTime == nil || st.Clock.Problem == "" && (st.Clock.Synchronized || !settled) {
		return nil
	}
	return setTime
}

// setTime has the clock set to what time servers agree on, or to a time that is typed.
func setTime(ctx context.Context, t *terminal, st appliance.Status) error {
	a := t.screen.config.Actions
	why := st.Clock.Problem
	if why == "" {
		why = "no time servers have answered yet"
	}
	if err := t.say("Set the clock, which says "+time.Now().UTC().Format(typedTime)+" UTC. What it waits for: "+why+".",
		"Look at a clock of your own first: certificates are judged by this one.", ""); err != nil {
		return err
	}
	prompt := "Type yes to take what the time servers agree on, Esc to leave:"
	if a.SetTime != nil {
		prompt = "Type yes to take what the time servers agree on. Where none can be asked,\ntype the time in UTC, like 2026-11-22 12:50. Esc leaves:"
	}
	for {
		text, err := t.ask(ctx, entry{prompt: prompt, limit: MaxAnswer})
		switch {
		case err != nil:
			return err
		case text == "yes":
			return t.act(ctx, a.AcceptTime)
		case a.SetTime == nil:
			return errLeft
		}
		at, fault := readTime(text)
		if fault == nil && a.CheckTime != nil {
			fault = a.CheckTime(at)
		}
		if fault != nil {
			if err := t.say("That does not work: " + fault.Error() + "."); err != nil {
				return err
			}
			continue
		}
		return t.setTimeTo(ctx, at)
	}
}

// setTimeTo sets the clock to a time that was typed just now, and to what has passed since.
func (t *terminal) setTimeTo(ctx context.Context, at time.Time) error {
	typed := time.Now()
	if err := t.say("The clock is set to " + at.Format(typedTime) + " UTC."); err != nil {
		return err
	}
	if err := t.sure(ctx, "yes"); err != nil {
		return err
	}
	return t.act(ctx, func(ctx context.Context) error {
		return t.screen.config.Actions.SetTime(ctx, at.Add(time.Since(typed)))
	})
}

// typedTime is how a time is typed, in UTC.
const typedTime = "2006-01-02 15:04"

// readTime reads a time in UTC, to the minute or the second.
func readTime(text string) (time.Time, error) {
	for _, form := range []string{typedTime, typedTime + ":05"} {
		if at, err := time.Parse(form, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, errors.New("a time is year, month, day, hour and minute, like 2026-11-22 12:50")
}
