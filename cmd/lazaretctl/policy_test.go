package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// gatewayStub answers as a gateway would, and remembers what it was asked.
type gatewayStub struct {
	t       *testing.T
	server  *httptest.Server
	dir     string
	asked   []string // METHOD PATH BODY
	answers map[string]any
}

func newGatewayStub(t *testing.T, answers map[string]any) *gatewayStub {
	g := &gatewayStub{t: t, dir: t.TempDir(), answers: answers}
	g.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		g.asked = append(g.asked, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+body.String()))
		_ = json.NewEncoder(w).Encode(g.answers[r.Method+" "+r.URL.Path])
	}))
	t.Cleanup(g.server.Close)
	g.write("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.server.Certificate().Raw})))
	g.write("token", "lzt_x")
	return g
}

func (g *gatewayStub) write(name, text string) string {
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// run runs lazaretctl and returns what it prints.
func (g *gatewayStub) run(args ...string) (string, error) {
	var out bytes.Buffer
	c := root()
	c.SetArgs(append([]string{"--dir", g.dir, "--server", g.server.URL, "--token-file", filepath.Join(g.dir, "token")}, args...))
	c.SetOut(&out)
	c.SetErr(&out)
	err := c.Execute()
	return out.String(), err
}

func TestPolicyCommands(t *testing.T) {
	yes := true
	set := api.Policy{Name: "disk", Version: 3, Assigned: &yes, Rules: []api.PolicyRule{{Name: "r", Expression: "disk.encrypted"}}, TOML: "name = \"disk\"\n", Revision: 8}
	g := newGatewayStub(t, map[string]any{
		"GET /api/v1/policies": []api.Policy{set}, "GET /api/v1/policies/disk": set, "PUT /api/v1/policies/disk": set,
		"POST /api/v1/policies/check": api.PolicyChecked{Good: true, Policy: &set},
		"POST /api/v1/policies/try": api.PolicyTried{Devices: 100_000, Moves: 2, Counts: []api.PolicyCount{{From: "routed", To: "quarantined", Rule: "disk/r", Devices: 2}},
			Rules:  []api.PolicyFails{{Rule: "disk/r", Devices: 7}},
			Listed: []api.PolicyMove{{Name: "laptop", From: "routed", To: "quarantined", Rule: "disk/r", Text: "the disk is encrypted: no", Order: "block"}}},
		"GET /api/v1/facts":   []api.Fact{{Name: "os.version", Type: "version", From: "sources and the agent", Text: "what it runs"}},
		"GET /api/v1/conduct": api.Conduct{AlertAfter: "21d", ActAfter: "90d", OnInactive: "wipe", SessionLife: "2h", Revision: 5},
		"PUT /api/v1/conduct": api.Conduct{Strict: true, AlertAfter: "21d"},
	})
	file := g.write("set.toml", "the text")
	for _, c := range []struct {
		args  []string
		asks  string // the last request
		shows string
	}{
		{[]string{"policy", "list"}, "GET /api/v1/policies", "disk  3        yes       no    1      all  -"},
		{[]string{"policy", "show", "disk"}, "GET /api/v1/policies/disk", "name = \"disk\"\n"},
		{[]string{"policy", "check", "-f", file}, `POST /api/v1/policies/check {"toml":"the text"}`, "policy set disk is good: 1 rules, for all"},
		{[]string{"policy", "put", "-f", file}, `PUT /api/v1/policies/disk {"toml":"the text","revision":8}`, "saved policy set disk, version 3, assigned"},
		{[]string{"policy", "assign", "disk"}, `PUT /api/v1/policies/disk {"assigned":true,"toml":"name = \"disk\"\n","revision":8}`, "saved policy set disk"},
		{[]string{"policy", "unassign", "disk"}, `PUT /api/v1/policies/disk {"assigned":false,"toml":"name = \"disk\"\n","revision":8}`, "saved policy set disk"},
		{[]string{"policy", "delete", "disk"}, "DELETE /api/v1/policies/disk", "deleted policy set disk"},
		{[]string{"policy", "try", "-f", file}, `POST /api/v1/policies/try {"toml":"the text","limit":20}`, "2 of 100000 devices would move\n\nDEVICES  FROM    TO           RULE\n2        routed  quarantined  disk/r\n"},
		{[]string{"policy", "try", "disk", "--without", "--limit", "1"}, `POST /api/v1/policies/try {"policy":"disk","without":true,"limit":1}`, "block: the disk is encrypted: no\nand 1 more: --limit shows them\n"},
		{[]string{"policy", "try", "--strict"}, `POST /api/v1/policies/try {"strict":true,"limit":20}`, "rules that would fail where they do not now"},
		{[]string{"policy", "try", "disk", "--json"}, `POST /api/v1/policies/try {"policy":"disk","limit":20}`, `{"devices":100000,"moves":2,`},
		{[]string{"policy", "facts"}, "GET /api/v1/facts", "os.version  version  sources and the agent  what it runs\n"},
		{[]string{"conduct", "show"}, "GET /api/v1/conduct", "act after     90d\n"},
		{[]string{"conduct", "set", "--strict", "--on-inactive", "block"}, `PUT /api/v1/conduct {"strict":true,"alert_after":"21d","act_after":"90d","on_inactive":"block","session_life":"2h","revision":5}`, "strict        yes\n"},
		{[]string{"policy", "examples"}, "", "baseline\nstig\n"},
		{[]string{"policy", "examples", "baseline"}, "", "name = \"baseline\"\n"},
		{[]string{"policy", "show", "stig", "--builtin"}, "", "stig = true\n"},
	} {
		g.asked = nil
		out, err := g.run(c.args...)
		last := ""
		if len(g.asked) > 0 {
			last = g.asked[len(g.asked)-1]
		}
		if err != nil || !strings.Contains(out, c.shows) || strings.TrimSuffix(last, " null") != c.asks {
			t.Errorf("%v: %v\nasked %s\nwant  %s\nshows %s", c.args, err, last, c.asks, out)
		}
	}
	if _, err := g.run("policy", "examples", "other"); err == nil {
		t.Error("an example that there is not is shown")
	}
	if _, err := g.run("policy", "put", "-f", filepath.Join(g.dir, "none.toml")); err == nil {
		t.Error("a file that there is not is put")
	}

	// A file with faults is not sent to be kept, and each fault has its place.
	g.answers["POST /api/v1/policies/check"] = api.PolicyChecked{Faults: []api.PolicyFault{{Rule: "r", Field: "expression", Line: 4, Column: 9, What: "no", Remedy: "write yes"}}}
	for _, verb := range []string{"check", "put"} {
		g.asked = nil
		out, err := g.run("policy", verb, "-f", file)
		if err == nil || !strings.Contains(out, file+":4:9: r: expression: no\n    write yes\n") || len(g.asked) != 1 {
			t.Errorf("%s of a file with faults: %v, asked %v\n%s", verb, err, g.asked, out)
		}
	}
}
