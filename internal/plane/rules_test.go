package plane

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"lazaret/firewall"
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
in = ["tcp/22 from 192.0.2.0/24", "udp/443", "tcp/22 from 2001:db8::/64", "icmp from 192.0.2.7", "tcp/443 from 192.0.2.0/24"]
out = ["udp/53 to 192.0.2.53"]
proxy = "http://192.0.2.3:3128"
admin = ["192.0.2.0/24"]
`))
	if err != nil {
		t.Fatal(err)
	}
	r := hostRules(c)
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	for side, x := range map[string]struct {
		list []firewall.Service
		want []string
	}{
		"from outside": {r.Outside, []string{"tcp/443", "tcp/8443 192.0.2.0/24", "tcp/22 192.0.2.0/24 2001:db8::/64", "udp/443", "icmp/0 192.0.2.7/32"}},
		"out":          {r.Out, []string{"udp/53 192.0.2.53/32", "tcp/3128 192.0.2.3/32"}},
	} {
		var got []string
		for _, s := range x.list {
			text := string(s.Protocol) + "/" + strconv.Itoa(int(s.Port))
			for _, p := range s.From {
				text += " " + p.String()
			}
			got = append(got, text)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("open %s: %s, want %s", side, strings.Join(got, ", "), strings.Join(x.want, ", "))
		}
	}
	if len(r.Inside) != 1 || r.Inside[0].Port != 8444 || r.ListenPort != 51820 {
		t.Errorf("inside %v, WireGuard %d", r.Inside, r.ListenPort)
	}
}
