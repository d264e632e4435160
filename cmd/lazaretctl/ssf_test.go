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
	"time"

	"lazaret/internal/console/api"
)

// TestSSFCommands holds the commands to the API: what they ask, and what they show.
func TestSSFCommands(t *testing.T) {
	var asked []string
	var put api.SignalsRequest
	stream := api.Signals{Source: "idp", Settings: api.SignalsSettings{Issuer: "https://idp.example.com", Audience: []string{"gw"}, Delivery: "push"},
		Secrets: []string{"authorization"}, Endpoint: "https://gw.example.net/ssf/v1/idp", Revision: 7,
		Status:   &api.SignalsStatus{Stream: "paused", Reason: "maintenance", Accepted: 5, Repeated: 2, Refused: map[string]uint64{"invalid_audience": 3}},
		Accounts: []api.SignalsAccount{{Account: "ann@example.com", Text: "account disabled", At: time.Now()}}}
	back := true
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.EscapedPath())
		switch r.Method {
		case http.MethodPost:
			_ = json.NewEncoder(w).Encode(api.SignalsVerified{Back: back})
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case http.MethodPut:
			if strings.HasSuffix(r.URL.Path, "/ssf") {
				if err := json.NewDecoder(r.Body).Decode(&put); err != nil {
					t.Error(err)
				}
			}
			fallthrough
		default:
			_ = json.NewEncoder(w).Encode(stream)
		}
	}))
	defer srv.Close()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("server", srv.URL)
	file("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	run := func(args ...string) (string, error) {
		asked = nil
		var out bytes.Buffer
		c := root()
		c.SetOut(&out)
		c.SetErr(&out)
		c.SetArgs(append([]string{"--dir", dir, "--token-file", file("token", "lzt_x"), "ssf"}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("show", "idp")
	for _, want := range []string{"https://gw.example.net/ssf/v1/idp", "paused maintenance", "5 accepted, of which 2 repeated", "3 invalid_audience", "against ann@example.com: account disabled"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("show says %q, %v; want %q in it", out, err, want)
		}
	}
	settings := file("idp.json", `{"issuer":"https://idp.example.com","audience":["gw"],"delivery":"push"}`)
	out, err = run("set", "idp", "-f", settings, "--authorization-file", file("push", "Bearer x\nsecond line\n"))
	if err != nil || !strings.Contains(out, "is to push to https://gw.example.net/ssf/v1/idp") || put.Revision != 7 || put.Authorization == nil || *put.Authorization != "Bearer x" ||
		put.Bearer != nil || put.Settings.Issuer != "https://idp.example.com" {
		t.Errorf("set says %q, %v, and sent %+v", out, err, put)
	}
	if _, err := run("set", "idp", "-f", file("wrong.json", `{"isuer":"x"}`)); err == nil || len(asked) != 0 {
		t.Errorf("a misspelt setting: %v, asked %v", err, asked)
	}
	if out, err := run("lift", "idp", "ann/b@example.com"); err != nil || len(asked) != 1 || asked[0] != "DELETE /api/v1/sources/idp/ssf/accounts/ann%2Fb@example.com" {
		t.Errorf("lift says %q, %v, and asked %v", out, err, asked)
	}
	if out, err := run("status", "idp", "enabled"); err != nil || asked[0] != "PUT /api/v1/sources/idp/ssf/status" || out != "paused maintenance\n" {
		t.Errorf("status says %q, %v, and asked %v", out, err, asked)
	}
	if out, err := run("verify", "idp"); err != nil || !strings.Contains(out, "came back") {
		t.Errorf("verify says %q, %v", out, err)
	}
	back = false
	if _, err := run("verify", "idp"); err == nil {
		t.Error("verify succeeds though nothing came back")
	}
}
