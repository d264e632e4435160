package plane

import (
	"fmt"
	"strings"
	"testing"

	"lazaret/internal/config"
)

// TestInsideServicesAreOpenedOnlyWhenServed: the firewall and the configuration agree on
// what devices reach on the gateway, and on the servers that it asks.
func TestInsideServicesAreOpenedOnlyWhenServed(t *testing.T) {
	for text, want := range map[string]string{
		"": "tcp/8444",
		"[resolver]\nserve = true\nservers = [\"192.0.2.53:5353\"]": "tcp/8444 udp/53 tcp/53 out udp/5353 to 192.0.2.53/32 out tcp/5353 to 192.0.2.53/32",
		"[portal]\nserve = true":                                    "tcp/8444 tcp/80 tcp/8445",
	} {
		c, err := config.Parse("x.toml", []byte("[enroll]\nnames = [\"gw.example.com\"]\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		r := hostRules(c)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range r.Inside {
			got = append(got, fmt.Sprintf("%s/%d", s.Protocol, s.Port))
		}
		for _, s := range r.Out {
			if len(s.From) > 0 {
				got = append(got, fmt.Sprintf("out %s/%d to %s", s.Protocol, s.Port, s.From[0]))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q opens %v, want %s", text, got, want)
		}
	}
}
