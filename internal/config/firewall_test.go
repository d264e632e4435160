package config

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"lazaret/firewall"
)

func nets(s ...string) (l []netip.Prefix) {
	for _, p := range s {
		l = append(l, netip.MustParsePrefix(p))
	}
	return l
}

func TestServicesAreRead(t *testing.T) {
	for text, want := range map[string]firewall.Service{
		"tcp/22":                                  {Protocol: "tcp", Port: 22},
		"tcp/22 from 192.0.2.0/24":                {Protocol: "tcp", Port: 22, From: nets("192.0.2.0/24")},
		"  udp/53   from   192.0.2.53 ":           {Protocol: "udp", Port: 53, From: nets("192.0.2.53/32")},
		"icmp":                                    {Protocol: "icmp"},
		"icmp from 192.0.2.0/24 , 2001:db8::/32":  {Protocol: "icmp", From: nets("192.0.2.0/24", "2001:db8::/32")},
		"tcp/65535 from 2001:db8::7,198.51.100.7": {Protocol: "tcp", Port: 65535, From: nets("2001:db8::7/128", "198.51.100.7/32")},
		"tcp/443 from 0.0.0.0/0":                  {Protocol: "tcp", Port: 443, From: nets("0.0.0.0/0")},
	} {
		if got, err := parseService(text, "from"); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q is read as %+v, %v; want %+v", text, got, err, want)
		}
		if again, err := parseService(want.Text("from"), "from"); err != nil || !reflect.DeepEqual(again, want) {
			t.Errorf("%q written as %q is read as %+v, %v", text, want.Text("from"), again, err)
		}
	}
}

// What is not wholly understood is refused: a rule with a part left out would be wider.
func TestServicesAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/22-23", "sctp/5", "icmp/1", "icmp/", "TCP/22", "/22",
		"tcp/22 to 192.0.2.1", "tcp/22 192.0.2.1", "tcp/22 from", "tcp/22 from ", "tcp/22 from 192.0.2.1,", "tcp/22 from ,192.0.2.1",
		"tcp/22 from 192.0.2.1 192.0.2.2", "tcp/22 from 192.0.2.7/24", "tcp/22 from host.example.com", "tcp/22 from ::ffff:192.0.2.1",
		"tcp/22 from fe80::1%eth0", "tcp/22 from 192.0.2.0/33", "tcp/22 from 192.0.2.1 to 192.0.2.2", "tcp/22\tfrom 192.0.2.1", "tcp/22,udp/53",
	} {
		if got, err := parseService(text, "from"); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func FuzzService(f *testing.F) {
	for _, s := range []string{"tcp/22", "tcp/22 from 192.0.2.0/24", "icmp from 2001:db8::/32, 192.0.2.1", "udp/53 from ", "tcp/22 from 192.0.2.7/24"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseService(s, "from")
		if err != nil {
			return
		}
		if strings.Contains(s, "from") != (len(got.From) > 0) {
			t.Fatalf("%q is read as %+v: a limit came or went", s, got)
		}
		r := firewall.Ruleset{Table: "t", Tunnel: "w", ListenPort: 1, Freshness: 1e10, QuarantineLife: 1e10, Outside: []firewall.Service{got}}
		if err := r.Check(); err != nil {
			t.Fatalf("%q is read as %+v, which no ruleset takes: %v", s, got, err)
		}
	})
}

// file is a configuration with these lines in its firewall section.
func file(api, lines string) []byte {
	return fmt.Appendf(nil, "[enroll]\nnames = [\"gw.example.com\"]\n[api]\n%s\n[firewall]\n%s\n", api, lines)
}

// TestAdministratorsAreNotShutOut: a file that shuts the administrators' network out is
// refused, whichever key does it, unless the file says that this is meant.
func TestAdministratorsAreNotShutOut(t *testing.T) {
	const everywhere = `listen = ["0.0.0.0:8443", "[::]:8443"]`
	for _, c := range []struct {
		name, api, lines string
		faults           []string // of these keys
	}{
		{"nobody asked", `listen = ["127.0.0.1:8443"]`, ``, nil},
		{"open to all", everywhere, `admin = ["192.0.2.0/24", "2001:db8::/64"]`, nil},
		{"listed", everywhere + "\nfrom = [\"192.0.2.0/23\"]", `admin = ["192.0.2.0/24"]`, nil},
		{"not listed", everywhere + "\nfrom = [\"198.51.100.0/24\"]", `admin = ["192.0.2.0/24"]`, []string{"firewall.admin"}},
		{"half of it listed", everywhere + "\nfrom = [\"192.0.2.0/25\"]", `admin = ["192.0.2.0/24"]`, []string{"firewall.admin"}},
		{"loopback only", `listen = ["127.0.0.1:8443", "[::1]:8443"]`, `admin = ["192.0.2.0/24"]`, []string{"firewall.admin"}},
		{"other family", `listen = ["0.0.0.0:8443"]`, `admin = ["2001:db8::/64"]`, []string{"firewall.admin"}},
		{"ssh for others", everywhere, "in = [\"tcp/22 from 198.51.100.0/24\"]\nadmin = [\"192.0.2.0/24\"]", []string{"firewall.in"}},
		{"ssh for both", everywhere, "in = [\"tcp/22 from 198.51.100.0/24\", \"tcp/22 from 192.0.2.0/24\"]\nadmin = [\"192.0.2.0/24\"]", nil},
		{"no ssh", everywhere, "in = [\"tcp/9100 from 198.51.100.0/24\"]\nadmin = [\"192.0.2.0/24\"]", nil},
		{"both at once", `listen = ["127.0.0.1:8443"]`, "in = [\"tcp/22 from 198.51.100.0/24\"]\nadmin = [\"192.0.2.0/24\"]", []string{"firewall.in", "firewall.admin"}},
		{"meant", `listen = ["127.0.0.1:8443"]`, "in = [\"tcp/22 from 198.51.100.0/24\"]\nadmin = [\"192.0.2.0/24\"]\nlockout = true", nil},
	} {
		_, err := Parse("x.toml", file(c.api, c.lines))
		var got []string
		if f, ok := errors.AsType[*Faults](err); ok {
			for _, x := range f.List {
				got = append(got, x.Key)
				if !strings.Contains(x.Remedy, "lockout = true") {
					t.Errorf("%s: the remedy does not say how to mean it: %q", c.name, x.Remedy)
				}
			}
		}
		if !reflect.DeepEqual(got, c.faults) {
			t.Errorf("%s: faults in %q, want %q: %v", c.name, got, c.faults, err)
		}
	}
}

// TestProxyIsTheOnlyWay: with a proxy, its address and port come into the list of what
// may go out, and a file that lets HTTP or HTTPS past it is refused.
func TestProxyIsTheOnlyWay(t *testing.T) {
	c, err := Parse("x.toml", file("", "out = [\"udp/53 to 192.0.2.53\"]\nproxy = \"http://192.0.2.3:3128/\""))
	if err != nil {
		t.Fatal(err)
	}
	want := []firewall.Service{
		{Protocol: "udp", Port: 53, From: nets("192.0.2.53/32")}, {Protocol: "tcp", Port: 3128, From: nets("192.0.2.3/32")},
	}
	if got := c.Outgoing(); !reflect.DeepEqual(got, want) {
		t.Errorf("goes out: %+v, want %+v", got, want)
	}
	request, err := http.NewRequest(http.MethodGet, "https://fleet.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := c.Firewall.HTTPProxy(request); err != nil || u.String() != "http://192.0.2.3:3128" {
		t.Errorf("clients use %v, %v", u, err)
	}
	for _, out := range []string{"tcp/80", "tcp/443", "udp/443", "tcp/443 to 198.51.100.7"} {
		if _, err := Parse("x.toml", file("", fmt.Sprintf("out = [%q]\nproxy = \"http://192.0.2.3:3128\"", out))); err == nil {
			t.Errorf("%s goes out past the proxy", out)
		}
	}
	for _, proxy := range []string{
		"192.0.2.3:3128", "http://192.0.2.3", "http://proxy.example.com:3128", "http://u:p@192.0.2.3:3128", "ftp://192.0.2.3:21",
		"http://192.0.2.3:0", "http://192.0.2.3:3128/x", "http://0.0.0.0:3128", "http://[::ffff:192.0.2.3]:3128", "http://192.0.2.3:3128?x=1",
	} {
		if _, err := Parse("x.toml", file("", fmt.Sprintf("proxy = %q", proxy))); err == nil {
			t.Errorf("proxy %q was taken", proxy)
		}
	}
	if c, err := Parse("x.toml", file("", `out = ["tcp/443"]`)); err != nil || len(c.Outgoing()) != 1 || c.Firewall.Proxy != nil {
		t.Errorf("without a proxy: %+v, %v", c.Outgoing(), err)
	}
}

// TestProxyKeepsItsPassword: what somebody wrote for a proxy is in no fault, which goes to logs.
func TestProxyKeepsItsPassword(t *testing.T) {
	for _, proxy := range []string{"http://user:geheim@192.0.2.3:3128", "geheim://192.0.2.3:1", "http://192.0.2.3:1/geheim"} {
		_, err := Parse("x.toml", fmt.Appendf(nil, "enroll.names = [\"gw.example.com\"]\nfirewall.proxy = %q\n", proxy))
		if err == nil || !strings.Contains(err.Error(), "firewall.proxy: ") || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v", proxy, err)
		}
	}
}
