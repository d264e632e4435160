package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestReferenceIsComplete(t *testing.T) {
	c, err := Parse("reference.toml", Reference)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "gateway" || c.Tunnel.Port != 51820 || c.Quarantine.Freshness != time.Minute || len(c.Out) != 3 {
		t.Errorf("reference read as %+v", c)
	}
	// Every key that is asked for stands in the reference, and the reference's value is the default.
	d, err := parse("reference.toml", Reference)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := Parse("bare.toml", []byte("enroll.names = [\"enroll.example.com\"]"))
	if err != nil {
		t.Fatal(err)
	}
	if want, got := c, bare; !equal(want, got) {
		t.Errorf("defaults differ from the reference:\n%+v\n%+v", want, got)
	}
	var source []byte
	for _, name := range []string{"config.go", "firewall.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	for _, m := range regexp.MustCompile(`d\.\w+\("([a-z_0-9.]+)"|each\(d, "([a-z_0-9.]+)"`).FindAllStringSubmatch(string(source), -1) {
		key := m[1] + m[2]
		if _, ok := d.values[key]; !ok {
			t.Errorf("key %s is read but not in reference.toml", key)
		}
	}
}

func equal(a, b Config) bool {
	return a.Name == b.Name && a.State == b.State && a.Tunnel.MTU == b.Tunnel.MTU && a.Tunnel.AgentPort == b.Tunnel.AgentPort &&
		a.Quarantine == b.Quarantine && a.Dataplane.Socket == b.Dataplane.Socket && a.Dataplane.State == b.Dataplane.State &&
		a.Dataplane.ControlUser[0] == b.Dataplane.ControlUser[0] && a.API.Listen[0] == b.API.Listen[0] &&
		a.Enroll.ChannelBinding == b.Enroll.ChannelBinding && a.Enroll.AllowSHA1 == b.Enroll.AllowSHA1 &&
		len(a.Enroll.Listen) == len(b.Enroll.Listen) && len(a.Out) == len(b.Out) && reflect.DeepEqual(a.Firewall, b.Firewall) && a.LogLevel == b.LogLevel && a.LogJSON == b.LogJSON
}

func TestAllFaultsAtOnceWithLines(t *testing.T) {
	text := `name = "Gate Way"
stat = "/x"
state = "relative"
[enroll]
listen = ["443"]
names = ["ok.example.com", "not a host"]
channel_binding = "yes"
[api]
listen = []
from = ["192.0.2.7/24"]
[tunnel]
port = 70000
interface = "an-interface-name-too-long"
endpoints = ["host:0"]
[quarantine]
freshness = "1s"
[firewall]
out = ["icmp/1", "tcp/0"]
[log]
level = "loud"
`
	_, err := Parse("bad.toml", []byte(text))
	f, ok := errors.AsType[*Faults](err)
	if !ok {
		t.Fatalf("error is %v", err)
	}
	got := map[int]int{}
	for _, x := range f.List {
		got[x.Line]++
		if x.Remedy == "" {
			t.Errorf("no remedy: %+v", x)
		}
	}
	for _, line := range []int{1, 2, 3, 5, 6, 7, 9, 10, 12, 13, 14, 16, 18, 20} {
		if got[line] == 0 {
			t.Errorf("line %d: no fault named; got:\n%v", line, err)
		}
	}
	if !strings.Contains(err.Error(), "did you mean state?") {
		t.Errorf("no hint at the typing error:\n%v", err)
	}
}

func TestSyntaxErrorNamesTheLine(t *testing.T) {
	_, err := Parse("bad.toml", []byte("name = \"a\"\nstate = \n"))
	if err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v", err)
	}
}

func TestFillKeepsTheRest(t *testing.T) {
	text, err := Fill(map[string]any{
		"name": "gw1", "enroll.names": []string{"a.example.com", "192.0.2.1"}, "tunnel.port": 443, "tunnel.userspace": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "lazaret.toml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "gw1" || c.Tunnel.Port != 443 || !c.Tunnel.Userspace || len(c.Enroll.Names) != 2 ||
		c.API.Listen[0] != netip.MustParseAddrPort("127.0.0.1:8443") {
		t.Errorf("read back %+v", c)
	}
	if strings.Count(string(text), "#") != strings.Count(string(Reference), "#") {
		t.Error("comments were lost")
	}
	if _, err := Fill(map[string]any{"tunnel.prot": 1}); err == nil {
		t.Error("a key the reference lacks was accepted")
	}
	if _, err := Fill(map[string]any{"name": "a\nb = 1"}); err == nil {
		t.Error("a line break got into the file")
	}
}
