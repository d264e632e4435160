package daemon

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"lazaret/internal/config"
)

// TestHostRulesOpenWhatIsConfiguredAndNothingElse.
func TestHostRulesOpenWhatIsConfiguredAndNothingElse(t *testing.T) {
	c, err := config.Parse("x.toml", []byte(`
[enroll]
names = ["gw.example.com"]
listen = ["0.0.0.0:443", "[::]:443"]
[api]
listen = ["127.0.0.1:8443", "192.0.2.1:8443"]
from = ["192.0.2.0/24"]
[firewall]
in = ["tcp/22", "udp/443"]
`))
	if err != nil {
		t.Fatal(err)
	}
	r := hostRules(c)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Outside {
		text := string(s.Protocol) + "/" + strconv.Itoa(int(s.Port))
		for _, p := range s.From {
			text += " from " + p.String()
		}
		got = append(got, text)
	}
	want := []string{"tcp/443", "tcp/8443 from 192.0.2.0/24", "tcp/22", "udp/443"}
	if !slices.Equal(got, want) {
		t.Errorf("open from outside: %s, want %s", strings.Join(got, ", "), strings.Join(want, ", "))
	}
	if len(r.Inside) != 1 || r.Inside[0].Port != 8444 || r.ListenPort != 51820 {
		t.Errorf("inside %v, WireGuard %d", r.Inside, r.ListenPort)
	}
}
