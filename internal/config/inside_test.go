package config

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestResolverAndPortalStandInTheReference(t *testing.T) {
	reference, err := Parse("reference.toml", Reference)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := Parse("bare.toml", []byte(`enroll.names = ["enroll.example.com"]`))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(reference.Resolver, bare.Resolver) || reference.Portal != bare.Portal {
		t.Errorf("defaults differ from the reference: %+v %+v, %+v %+v", reference.Resolver, reference.Portal, bare.Resolver, bare.Portal)
	}
	if bare.Resolver.Serve || bare.Portal.Serve || len(bare.Inside()) != 0 || len(bare.Upstream()) != 0 {
		t.Error("something is served that nobody asked for")
	}
	d, err := parse("reference.toml", Reference)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("inside.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"((?:resolver|portal)\.[a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		if _, ok := d.values[m[1]]; !ok {
			t.Errorf("key %s is read but not in reference.toml", m[1])
		}
	}
}

func TestResolverAndPortal(t *testing.T) {
	c, err := Parse("x.toml", []byte(`enroll.names = ["gw.example.com"]
[resolver]
servers = ["192.0.2.53", "[2001:db8::53]:5353", "127.0.0.53"]
grace = "2h"
serve = true
[portal]
serve = true
http_port = 8080
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[2001:db8::53]:5353"), netip.MustParseAddrPort("127.0.0.53:53")}
	if !reflect.DeepEqual(c.Resolver.Servers, want) || c.Resolver.Grace != 2*time.Hour {
		t.Errorf("read %+v", c.Resolver)
	}
	var ports []string
	for _, s := range append(c.Inside(), c.Upstream()...) {
		text := fmt.Sprintf("%s/%d", s.Protocol, s.Port)
		for _, p := range s.From {
			text += " " + p.String()
		}
		ports = append(ports, text)
	}
	if got := strings.Join(ports, ", "); got != "udp/53, tcp/53, tcp/8080, tcp/8445, udp/53 192.0.2.53/32, tcp/53 192.0.2.53/32, udp/5353 2001:db8::53/128, tcp/5353 2001:db8::53/128" {
		t.Errorf("ports %s", got)
	}
	for _, bad := range []string{
		`[resolver]` + "\n" + `servers = ["ns.example.com"]`, `[resolver]` + "\n" + `grace = "1s"`, `[resolver]` + "\n" + `own = ["192.0.2.1/24"]`,
		`[portal]` + "\n" + `name = "10.0.0.1"`, `[portal]` + "\n" + `name = "portal"`, "[portal]\nserve = true\nhttps_port = 80", `[portal]` + "\n" + `venue = "http://x/"`,
		`[portal]` + "\n" + `help = "` + strings.Repeat("x", 1001) + `"`,
	} {
		if _, err := Parse("x.toml", []byte("enroll.names = [\"gw.example.com\"]\n"+bad)); err == nil {
			t.Errorf("accepted:\n%s", bad)
		}
	}
}

// TestPortsInsideDoNotCollide: what would fail when it is served is found in the file.
func TestPortsInsideDoNotCollide(t *testing.T) {
	for text, want := range map[string]string{
		"[portal]\nserve = true\nhttp_port = 8444":                                              "portal.http_port: is 8444, as tunnel.agent_port",
		"[portal]\nserve = true\nhttps_port = 8444":                                             "portal.https_port: is 8444, as tunnel.agent_port",
		"[portal]\nserve = true\nhttps_port = 9000\n[tunnel]\nagent_port = 9000":                "portal.https_port: is 9000, as tunnel.agent_port",
		"[portal]\nserve = true\nhttps_port = 80":                                               "portal.https_port: is 80, as portal.http_port",
		"[portal]\nserve = true\nhttp_port = 53\n[resolver]\nserve = true":                      "portal.http_port: is 53, as the resolver's",
		"[portal]\nserve = true\nhttps_port = 53\n[resolver]\nserve = true":                     "portal.https_port: is 53, as the resolver's",
		"[resolver]\nserve = true\n[tunnel]\nagent_port = 53":                                   "tunnel.agent_port: is 53, as the resolver's",
		"[portal]\nserve = true\nhttp_port = 53":                                                "",
		"[portal]\nserve = true\nhttp_port = 8445\nhttps_port = 8443\n[resolver]\nserve = true": "",
		"[api]\nlisten = [\"[::]:8445\"]\n[portal]\nserve = true":                               "portal.https_port: is 8445, as api.listen",
		"[api]\nlisten = [\"127.0.0.1:8445\"]\n[portal]\nserve = true":                          "",
		"[portal]\nserve = true\nhttp_port = 443":                                               "portal.http_port: is 443, as enroll.listen",
		"[tunnel]\nagent_port = 443":                                                            "tunnel.agent_port: is 443, as enroll.listen",
		"[portal]\nhttps_port = 8444":                                                           "",
		"[tunnel]\nagent_port = 80":                                                             "",
	} {
		_, err := Parse("x.toml", []byte("enroll.names = [\"gw.example.com\"]\n"+text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
