package appliance

import (
	"fmt"
	"io"
	"strings"
)

// Result is what came of a check. The zero value is none of these.
type Result string

const (
	Pass       Result = "pass"
	Fail       Result = "fail"
	NotChecked Result = "not checked"
)

// Check is one question about a gateway that runs, and its answer.
type Check struct {
	ID     string   `json:"id"`
	Title  string   `json:"title"`
	Result Result   `json:"result"`
	Found  []string `json:"found"`            // what was looked at, or what is wrong
	Remedy string   `json:"remedy,omitempty"` // unless it passed
}

// Report is all checks, in a fixed order.
type Report struct {
	Checks []Check `json:"checks"`
}

// Failed counts those that did not pass: failed ones, and those not made.
func (r Report) Failed() (failed, unmade int) {
	for _, c := range r.Checks {
		switch c.Result {
		case Pass:
		case NotChecked:
			unmade++
		default:
			failed++
		}
	}
	return failed, unmade
}

// Err is nil only if every check was made and passed. A report without any proves nothing.
func (r Report) Err() error {
	failed, unmade := r.Failed()
	switch {
	case len(r.Checks) == 0:
		return fmt.Errorf("no check was made")
	case failed+unmade > 0:
		return fmt.Errorf("%d of %d checks failed, %d could not be made", failed, len(r.Checks), unmade)
	}
	return nil
}

// Print writes a line for each check, and below it what was found. What others may have
// chosen, like the name of a program, moves no cursor.
func (r Report) Print(w io.Writer) {
	plain := func(s string) string {
		return strings.Map(func(c rune) rune {
			if c < ' ' || c >= 0x7f && c < 0xa0 {
				return '?'
			}
			return c
		}, s)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%-12s %-20s %s\n", strings.ToUpper(plain(string(c.Result))), plain(c.ID), plain(c.Title))
		for _, f := range c.Found {
			fmt.Fprintf(w, "%14s%s\n", "", plain(f))
		}
		if c.Remedy != "" {
			fmt.Fprintf(w, "%14sto do: %s\n", "", plain(c.Remedy))
		}
	}
}

// CheckTyped says what is wrong with what somebody chose for the machine to ask for on its
// screen, and least is how many characters it must have. It can be typed there: on a US
// keyboard, in MaxTyped characters. The error never quotes it.
func CheckTyped(what, text string, least int) error {
	switch {
	case strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("the %s has characters that cannot be typed at the machine: take letters without accents, digits, spaces and signs of a US keyboard", what)
	case len(text) < least:
		return fmt.Errorf("the %s is too short: %d characters at least", what, least)
	case len(text) > MaxTyped:
		return fmt.Errorf("the %s is too long: %d characters at most", what, MaxTyped)
	}
	return nil
}

// MaxTyped is the longest that the machine's screen takes, in characters.
const MaxTyped = 512

// MinPassphrase is how long a passphrase of the data partition must be, in characters. Length
// is all that is asked for.
const MinPassphrase = 12

// MinPIN is how long a PIN must be that is asked for beside the TPM, in characters: the TPM
// itself slows down whoever guesses.
const MinPIN = 6
