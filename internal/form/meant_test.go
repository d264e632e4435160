package form

import (
	"strings"
	"testing"
)

func TestMeant(t *testing.T) {
	known := []string{"name", "state", "enroll.names", "api.names", "os.version", "mtu"}
	for text, want := range map[string]string{
		"stat": "state", "states": "state", "sttae": "state", "os.versoin": "os.version", "enrol.name": "enroll.names", "Name": "name", "mut": "mtu",
		"": "", "x": "", "abc": "", "firewall.proxy": "", "api.nnnnnnn": "", strings.Repeat("x", 100_000): "",
	} {
		if got := Meant(text, known); got != want {
			t.Errorf("%.20q: %q, want %q", text, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"ab", "ba", 2}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%q and %q are %d apart, not %d", c.a, c.b, got, c.want)
		}
	}
}
