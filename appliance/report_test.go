package appliance

import (
	"strings"
	"testing"
)

// TestCheckTyped: what could never be typed at the machine again is not taken.
func TestCheckTyped(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "too short",
		"11 symbols!":              "too short",
		"12 symbols!!":             "",
		"lösung, lang genug":       "cannot be typed",
		"with a tab\tin between":   "cannot be typed",
		strings.Repeat("a", 512):   "",
		strings.Repeat("a", 513):   "too long",
		"ends with a break\n":      "cannot be typed",
		" spaces at both its end ": "",
	} {
		err := CheckTyped("passphrase", text, MinPassphrase)
		if err == nil && want == "" {
			continue
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%.30q: %v, want %q", text, err, want)
		}
	}
}

// TestReport: nothing but all checks made and passed is a pass, and what is printed steers
// no terminal.
func TestReport(t *testing.T) {
	for name, x := range map[string]struct {
		checks []Check
		want   string
	}{
		"nothing":      {nil, "no check was made"},
		"passed":       {[]Check{{Result: Pass}, {Result: Pass}}, ""},
		"failed":       {[]Check{{Result: Pass}, {Result: Fail}}, "1 of 2 checks failed, 0 could not be made"},
		"not made":     {[]Check{{Result: NotChecked}}, "0 of 1 checks failed, 1 could not be made"},
		"no result":    {[]Check{{}}, "1 of 1 checks failed, 0 could not be made"},
		"other result": {[]Check{{Result: "PASS"}}, "1 of 1 checks failed, 0 could not be made"},
	} {
		got := ""
		if err := (Report{x.checks}).Err(); err != nil {
			got = err.Error()
		}
		if got != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
	var b strings.Builder
	Report{[]Check{{ID: "sockets.packet", Title: "no packet socket", Result: Fail, Found: []string{"one of \x1b[2Jevil\n"}, Remedy: "stop it"}}}.Print(&b)
	if want := "FAIL         sockets.packet       no packet socket\n              one of ?[2Jevil?\n              to do: stop it\n"; b.String() != want {
		t.Errorf("printed\n%q, want\n%q", b.String(), want)
	}
}
