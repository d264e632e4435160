package screen

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// TestProtect: what keeps the key of the data is chosen by number, secrets are typed twice and
// shown nowhere, and a recovery passphrase is shown on the one console where it was asked for.
func TestProtect(t *testing.T) {
	told := make(chan string, 1)
	p, other := sit(t), sit(t)
	s, _ := with(t, Config{Actions: Actions{
		SetPassphrase: func(_ context.Context, text string) error { told <- "passphrase " + text; return nil },
		Seal: func(_ context.Context, pin string) (string, error) {
			told <- "seal " + pin
			if pin == "" {
				return "", errors.New("there is no TPM")
			}
			return "ABCD-EFGH", nil
		},
		NewRecovery: func(context.Context) (string, error) { told <- "recovery"; return "JKMN-PQRS", nil },
	}}, map[Console]*person{serialConsole: p, screenConsole: other})
	s.Show(whole())
	begin := func(number string) {
		t.Helper()
		p.see("d data") // what is typed before is dropped
		p.press("d")
		p.see("4  as now, with a new recovery passphrase")
		p.see("Number: ")
		p.press(number + "\r")
	}
	say := func(prompt, text string) {
		t.Helper()
		p.see(prompt)
		p.press(text + "\r")
	}
	begin("1")
	say("12 characters at least: ", "eleven char")
	p.see("That does not work: the passphrase is too short")
	say("at least: ", "twelve chars")
	say("The same once more: ", "twelve charz")
	p.see("The two were not the same.")
	say("at least: ", "twelve chars")
	say("The same once more: ", "twelve chars")
	if got := receive(t, told); got != "passphrase twelve chars" {
		t.Error(got)
	}
	p.see("Done.")
	begin("2")
	say("Type yes", "yes")
	if got := receive(t, told); got != "seal " {
		t.Error(got)
	}
	p.see("That failed: there is no TPM")
	begin("3")
	say("6 characters at least: ", "271828")
	say("The same once more: ", "271828")
	if got := receive(t, told); got != "seal 271828" {
		t.Error(got)
	}
	p.see("ABCD-EFGH")
	begin("4")
	say("Type yes", "yes")
	if got := receive(t, told); got != "recovery" {
		t.Error(got)
	}
	p.see("JKMN-PQRS")
	p.see("it is not shown again")
	p.see("Done.")
	for _, secret := range []string{"twelve char", "eleven", "271828"} {
		if strings.Contains(p.all(), secret) {
			t.Errorf("the console shows %q", secret)
		}
	}
	if strings.Contains(other.all(), "JKMN") || strings.Contains(other.all(), "ABCD-EFGH\r") {
		t.Error("the recovery passphrase is on another console, too")
	}
}

// TestMenuFollowsStatus: what keeps the data is offered while they are open, and the time
// while it waits for a person.
func TestMenuFollowsStatus(t *testing.T) {
	told := make(chan string, 1)
	p := sit(t)
	s, _ := with(t, Config{Actions: Actions{
		SetPassphrase: func(context.Context, string) error { return nil }, Seal: func(context.Context, string) (string, error) { return "", nil },
		NewRecovery: func(context.Context) (string, error) { return "", nil },
		AcceptTime:  func(context.Context) error { told <- "accept"; return nil },
	}}, map[Console]*person{serialConsole: p})
	st := whole()
	st.Disk.Encrypted, st.Clock.Problem = false, ""
	s.Show(st)
	if got := p.see("lazaret: stage=" + string(st.Stage)); strings.Contains(got, "d data") || strings.Contains(got, "t accept time") {
		t.Errorf("offered for nothing:\n%s", got)
	}
	p.press("t") // shows the screen anew, and does nothing
	p.see("State")
	st.Disk.Encrypted, st.Clock.Problem = true, "off by years"
	s.Show(st)
	p.see("d data")
	p.see("t accept time")
	p.press("t")
	p.see("What it waits for: off by")
	p.see("Type yes")
	p.press("yes\r")
	if got := receive(t, told); got != "accept" {
		t.Error(got)
	}
}
