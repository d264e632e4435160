package screen

import (
	"context"
	"errors"
	"strings"
	"time"

	"lazaret/appliance"
)

// choice is an entry of the menu.
type choice struct {
	key  key
	name string
	run  func(ctx context.Context, t *terminal, st appliance.Status) error // nil: not offered
}

// choices are the menu, by what the machine can do.
func (t *terminal) choices() []choice {
	a := t.screen.config.Actions
	var set, newAdmin, back, wipe, restart, off, log func(context.Context, *terminal, appliance.Status) error
	if a.SetAddress != nil {
		set = setAddress
	}
	if a.ResetAdministrator != nil {
		newAdmin = confirmed("Issue a new claim code, for 15 minutes. Whoever types it makes a new administrator; those there are stay listed.", "Until then the control plane is stopped: nobody enrolls. Devices keep what they have for a while.", a.ResetAdministrator)
	}
	if a.RollBack != nil {
		back = confirmed("Start the system before this one, now.", "Devices are without a gateway for a moment.", a.RollBack)
	}
	if a.FactoryReset != nil {
		wipe = factoryReset
	}
	if a.Reboot != nil {
		restart = confirmed("Restart now.", "Devices are without a gateway for a moment.", a.Reboot)
	}
	if a.PowerOff != nil {
		off = confirmed("Power off now.", "Devices are without a gateway until it is turned on again.", a.PowerOff)
	}
	if a.Log != nil {
		log = showLog
	}
	return []choice{
		{'a', "address", set}, {'n', "new administrator", newAdmin}, {'d', "data", t.protect()}, {'t', "accept time", t.acceptTime()},
		{'b', "roll back", back}, {'f', "factory reset", wipe}, {'l', "log", log}, {'r', "restart", restart}, {'p', "power off", off},
	}
}

// menu is the last rows of the screen.
func (t *terminal) menu() []string {
	var entries []string
	if _, q, _ := t.screen.seen(); q != nil && q == t.declined {
		entries = append(entries, "e answer")
	}
	for _, c := range t.choices() {
		if c.run != nil {
			entries = append(entries, string(rune(c.key))+" "+c.name)
		}
	}
	lines := []string{""}
	for _, e := range entries {
		last := &lines[len(lines)-1]
		if len(*last)+3+len(e) > columns {
			lines = append(lines, "")
			last = &lines[len(lines)-1]
		}
		if *last != "" {
			*last += "  "
		}
		*last += " " + e
	}
	return lines
}

// press does what a key of the menu says; any other shows the screen anew.
func (t *terminal) press(ctx context.Context, st appliance.Status, q *question, k key) error {
	if t.typing.wait(time.Now()) > 0 {
		return nil
	}
	defer t.again()
	if k == 'e' && q != nil {
		t.declined = nil
		return nil
	}
	for _, c := range t.choices() {
		if c.key != k || c.run == nil {
			continue
		}
		err := t.fresh()
		if err == nil {
			err = c.run(ctx, t, st)
		}
		if errors.Is(err, errLeft) {
			return nil
		}
		return err
	}
	return nil
}

// confirmed asks before it does something.
func confirmed(what, then string, do func(context.Context) error) func(context.Context, *terminal, appliance.Status) error {
	return func(ctx context.Context, t *terminal, _ appliance.Status) error {
		if err := t.say(what, then, ""); err != nil {
			return err
		}
		if err := t.sure(ctx, "yes"); err != nil {
			return err
		}
		return t.act(ctx, do)
	}
}

// factoryReset wants the gateway's name, or RESET where it has none.
func factoryReset(ctx context.Context, t *terminal, st appliance.Status) error {
	word := clean(st.Name, 40)
	if strings.TrimSpace(word) == "" || st.Stage != appliance.Running {
		word = "RESET"
	}
	if err := t.say("Factory reset: all data, keys and certificates of this gateway are destroyed.",
		"Every device has to enroll anew. Nothing brings this back but a backup.", ""); err != nil {
		return err
	}
	if err := t.sure(ctx, word); err != nil {
		return err
	}
	return t.act(ctx, t.screen.config.Actions.FactoryReset)
}

func showLog(ctx context.Context, t *terminal, _ appliance.Status) error {
	width, height := columns, rows
	if !t.console.Serial {
		width, height = size(t.file)
	}
	lines := t.screen.config.Actions.Log(height - 3)
	text := logRows(lines[max(0, len(lines)-(height-3)):], width-1)
	if !t.console.Serial {
		text = text[max(0, len(text)-(height-3)):]
	}
	if err := t.write(strings.Join(append(text, ""), "\r\n")); err != nil {
		return err
	}
	return t.pause(ctx)
}

// longestLogged bounds a line of the log on the screen, in characters.
const longestLogged = 1000

// logRows are lines of the log, each on as many rows of width columns as it needs: the reason
// stands at its end.
func logRows(lines []string, width int) []string {
	const indent = "  "
	var text []string
	for _, l := range lines {
		rows := wrap(indent, clean(l, longestLogged), width)
		rows[0] = strings.TrimPrefix(rows[0], indent)
		text = append(text, rows...)
	}
	return text
}
