package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
)

// gateway stands in for the API's sources, and keeps what it was sent.
type gateway struct {
	t       *testing.T
	dir     string
	source  *api.Source // there is this one, or none
	conn    api.Connection
	sources []api.Source            // sent
	conns   []api.ConnectionRequest // sent
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t, dir: t.TempDir()}
	s := httptest.NewTLSServer(g)
	t.Cleanup(s.Close)
	g.write("server", s.URL)
	g.write("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	g.write("token", "lzt_x")
	return g
}

func (g *gateway) write(name, text string) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out any
	body, _ := io.ReadAll(r.Body)
	switch key := r.Method + " " + r.URL.Path; key {
	case "GET /api/v1/sources":
		list := []api.Source{}
		if g.source != nil {
			list = append(list, *g.source)
		}
		out = list
	case "PUT /api/v1/sources/fleet":
		var v api.Source
		if err := json.Unmarshal(body, &v); err != nil {
			g.t.Error(err)
		}
		g.sources, out = append(g.sources, v), v
	case "GET /api/v1/sources/fleet":
		out = g.source
	case "GET /api/v1/sources/fleet/settings":
		out = g.conn
	case "PUT /api/v1/sources/fleet/settings":
		var v api.ConnectionRequest
		if err := json.Unmarshal(body, &v); err != nil {
			g.t.Error(err)
		}
		g.conns, out = append(g.conns, v), api.Connection{Settings: v.Settings, Secrets: []string{"token"}, Webhook: "https://gw/sources/v1/fleet/fleet/SECRET"}
	case "GET /api/v1/sources/health", "GET /api/v1/sources/fleet/health":
		h := api.SourceHealth{Source: "fleet", Kind: "fleet", Accepted: 12, Failures: 3, Problem: "mdm.example.com answered 403 Forbidden", Tried: time.Now()}
		if out = h; strings.HasSuffix(key, "sources/health") {
			out = []api.SourceHealth{h}
		}
	default:
		g.t.Errorf("asked %s", key)
	}
	_ = json.NewEncoder(w).Encode(out)
}

// run runs a command and returns what it printed.
func (g *gateway) run(in string, args ...string) (string, error) {
	g.t.Helper()
	c := root()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetIn(strings.NewReader(in))
	c.SetArgs(append([]string{"--dir", g.dir, "--token-file", filepath.Join(g.dir, "token")}, args...))
	err := c.Execute()
	return out.String(), err
}

func (g *gateway) must(args ...string) string {
	g.t.Helper()
	out, err := g.run("", args...)
	if err != nil {
		g.t.Fatalf("%v: %v", args, err)
	}
	return out
}

// TestSourceAddAndSet: a new source is what the flags say, and flags change an old one alone
// where they are given.
func TestSourceAddAndSet(t *testing.T) {
	g := newGateway(t)
	out := g.must("source", "add", "fleet", "--kind", "fleet", "--release", "--for-platform", "macos,windows", "--for-group", "staff", "--facts", "os.*,disk.encrypted", "--silent", "6h")
	want := api.Source{
		Name: "fleet", Kind: "fleet", MayRelease: true, For: api.Selection{Platforms: []string{"macos", "windows"}, Groups: []string{"staff"}},
		Facts: []string{"os.*", "disk.encrypted"}, Silent: "6h",
	}
	if !reflect.DeepEqual(g.sources[0], want) || !strings.Contains(out, "source configure fleet") {
		t.Errorf("sent %+v, said %s", g.sources[0], out)
	}
	g.must("source", "set", "fleet", "--may-release")
	if got := g.sources[1]; !got.MayRelease || got.Kind != "api" || !reflect.DeepEqual(got.Facts, []string{"*"}) || got.Revision != 0 {
		t.Errorf("set made %+v", got)
	}
	was := want
	was.Revision = 7
	for flags, change := range map[string]func(*api.Source){
		"":                         func(*api.Source) {},
		"--release=false":          func(s *api.Source) { s.MayRelease = false },
		"--facts=":                 func(s *api.Source) { s.Facts = []string{} },
		"--max-validity=1h":        func(s *api.Source) { s.MaxValidity = "1h" },
		"--silent=":                func(s *api.Source) { s.Silent = "" },
		"--for-platform=linux":     func(s *api.Source) { s.For.Platforms = []string{"linux"} },
		"--for-profile=p":          func(s *api.Source) { s.For.Profiles = []string{"p"} },
		"--for-ownership=personal": func(s *api.Source) { s.For.Ownerships = []string{"personal"} },
	} {
		g.source = &was
		args := []string{"source", "set", "fleet"}
		if flags != "" {
			args = append(args, flags)
		}
		g.must(args...)
		want := was
		change(&want)
		if got := g.sources[len(g.sources)-1]; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: sent %+v, want %+v", flags, got, want)
		}
	}
	// "add" makes a new one, and leaves one that is there alone: revision 0 says so.
	if g.must("source", "add", "fleet"); g.sources[len(g.sources)-1].Revision != 0 {
		t.Error("add would change a source that is there")
	}
}

// TestSourceConfigure: settings come from flags or a file, secrets from files or standard
// input and never from the command line.
func TestSourceConfigure(t *testing.T) {
	g := newGateway(t)
	g.conn = api.Connection{Settings: map[string]any{"url": "https://a", "interval": "5m"}, Secrets: []string{}, Revision: 3}
	ca, token := g.write("ca.pem", "PEM\n"), g.write("fleet-token", "se-cret\n")
	out := g.must("source", "configure", "fleet", "--set", "url=https://b?x=y", "--set", "policies=Disk", "--set", "policies=Firewall, on", "--set", "ca=@"+ca, "--unset", "interval", "--secret", "token="+token)
	sent := g.conns[0]
	want := map[string]any{"url": "https://b?x=y", "policies": []any{"Disk", "Firewall, on"}, "ca": "PEM\n"}
	if !reflect.DeepEqual(sent.Settings, want) || *sent.Secrets["token"] != "se-cret" || sent.Revision != 3 {
		t.Errorf("sent %+v", sent)
	}
	if strings.Contains(out, "se-cret") || !strings.Contains(out, "token") || !strings.Contains(out, "/sources/v1/fleet/fleet/") {
		t.Errorf("said %s", out)
	}
	file := g.write("fleet.toml", "url = \"https://c\"\nin_grace = true\npolicies = [\"a\", \"b\"]\n")
	if _, err := g.run("from-stdin\n", "source", "configure", "fleet", "-f", file, "--secret", "token=-"); err != nil {
		t.Fatal(err)
	}
	sent = g.conns[1]
	if want := map[string]any{"url": "https://c", "in_grace": true, "policies": []any{"a", "b"}}; !reflect.DeepEqual(sent.Settings, want) || *sent.Secrets["token"] != "from-stdin" {
		t.Errorf("sent %+v", sent)
	}
	bad := g.write("bad.toml", "url = ")
	for _, args := range [][]string{{"--set", "url"}, {"--set", "=x"}, {"--secret", "token"}, {"--secret", "se-cret"}, {"--secret", "token="}, {"--secret", "token=" + g.dir + "/none"}, {"-f", bad}, {"-f", g.dir + "/none"}} {
		if _, err := g.run("", append([]string{"source", "configure", "fleet"}, args...)...); err == nil || len(g.conns) != 2 {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestSourceHealthIsShown(t *testing.T) {
	g := newGateway(t)
	g.source = &api.Source{Name: "fleet", Kind: "fleet", MayRelease: true, MaxValidity: "2h0m0s", Facts: []string{"os.*"}}
	for _, args := range [][]string{{"source", "health"}, {"source", "health", "fleet"}, {"source", "show", "fleet"}} {
		if out := g.must(args...); !strings.Contains(out, "403 Forbidden") || !strings.Contains(out, "12") {
			t.Errorf("%v: %s", args, out)
		}
	}
	if out := g.must("source", "list"); !strings.Contains(out, "2h0m0s") || !strings.Contains(out, "os.*") {
		t.Errorf("list: %s", out)
	}
	if out := g.must("--json", "source", "show", "fleet"); !json.Valid([]byte(out)) {
		t.Errorf("as JSON: %s", out)
	}
}
