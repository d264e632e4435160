package appliance

import (
	"strings"
	"testing"
)

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
