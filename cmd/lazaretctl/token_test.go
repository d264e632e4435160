package main

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// TestTokenCommands: what is asked for is what was said, and nothing that others made goes
// along unasked.
func TestTokenCommands(t *testing.T) {
	var made []api.TokenRequest
	deleted := 0
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var out any
		switch r.Method + " " + r.URL.Path {
		case "POST /api/v1/tokens":
			var q api.TokenRequest
			_ = json.NewDecoder(r.Body).Decode(&q)
			made, out = append(made, q), api.Token{Name: q.Name, Secret: "lzt_secret"}
		case "GET /api/v1/tokens/up":
			out = api.Token{Name: "up", Descendants: []string{"down", "further"}}
		case "GET /api/v1/tokens/alone":
			out = api.Token{Name: "alone"}
		case "DELETE /api/v1/tokens/up", "DELETE /api/v1/tokens/alone":
			deleted++
			out = api.TokensDeleted{Deleted: []string{filepath.Base(r.URL.Path), "down"}}
		case "GET /api/v1/roles":
			out = api.Roles{Permissions: []api.Permission{{Name: "device.read", Text: "see devices"}, {Name: "otp.write", Text: "admit"}},
				Roles: []api.Role{{Name: "helpdesk", Permissions: []string{"otp.write"}}, {Name: "read", Permissions: []string{"device.read"}}}}
		default:
			t.Errorf("asked for %s %s", r.Method, r.URL.Path)
		}
		_ = json.NewEncoder(w).Encode(out)
	}))
	defer srv.Close()
	dir := t.TempDir()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, text := range map[string]string{"server": srv.URL, "root.pem": string(certificate), "token": "lzt_x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		var out strings.Builder
		c := root()
		c.SetIn(strings.NewReader("y\n"))
		c.SetOut(&out)
		c.SetArgs(append([]string{"--dir", dir, "--token-file", filepath.Join(dir, "token")}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	if out, err := run("token", "create", "old", "--scope", "report", "--source", "fleet"); err != nil || out != "lzt_secret\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run("token", "create", "lock", "--role", "operator", "--permissions", "device.read,device.command", "--for-platform", "macos,ios", "--for-group", "van", "--expires", "90d"); err != nil {
		t.Error(err)
	}
	want := []api.TokenRequest{{Name: "old", Scope: "report", Source: "fleet"}, {Name: "lock", Scope: "operator", Permissions: []string{"device.read", "device.command"},
		For: api.Selection{Platforms: []string{"macos", "ios"}, Groups: []string{"van"}}, Life: "90d"}}
	if !reflect.DeepEqual(made, want) {
		t.Errorf("asked for %+v", made)
	}
	if _, err := run("token", "delete", "up"); err == nil || !strings.Contains(err.Error(), "down, further") || deleted != 0 {
		t.Errorf("with others, unasked: %v, deleted %d", err, deleted)
	}
	if out, err := run("token", "delete", "up", "--yes"); err != nil || !strings.Contains(out, "deleted token down") || deleted != 1 {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := run("token", "delete", "alone"); err != nil || deleted != 2 {
		t.Errorf("alone: %v", err)
	}
	if out, err := run("token", "roles"); err != nil || !strings.HasPrefix(out, "PERMISSION   helpdesk  read\ndevice.read  -         yes\notp.write    yes       -\n") {
		t.Errorf("%q, %v", out, err)
	}
}
