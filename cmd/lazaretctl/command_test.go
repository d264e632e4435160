package main

import (
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

// TestBulkNeedsTheRightNumber: many devices are ordered only by somebody who knows how
// many they are; revoked ones are not among them.
func TestBulkNeedsTheRightNumber(t *testing.T) {
	var ordered []string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_ = json.NewEncoder(w).Encode([]api.Device{{ID: "d-1", Name: "one", Stage: "routed"}, {ID: "d-2", Name: "two", Stage: "quarantined"}, {ID: "d-3", Name: "gone", Stage: "revoked"}})
			return
		}
		var q api.CommandRequest
		_ = json.NewDecoder(r.Body).Decode(&q)
		ordered = append(ordered, r.URL.Path+" "+q.Kind+" "+q.Why)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(api.Command{ID: "c-1", Kind: q.Kind, State: "queued"})
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
		c.SetOut(&out)
		c.SetArgs(append([]string{"--dir", dir, "--token-file", filepath.Join(dir, "token")}, args...))
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	for _, confirm := range []string{"", "--confirm=1", "--confirm=3"} {
		args := []string{"command", "send", "--all", "lock"}
		if confirm != "" {
			args = append(args, confirm)
		}
		if _, err := run(args...); err == nil || !strings.Contains(err.Error(), "for 2 devices") || len(ordered) > 0 {
			t.Errorf("%q: %v, ordered %q", confirm, err, ordered)
		}
	}
	out, err := run("command", "send", "--all", "lock", "--confirm=2", "--why", "stolen van")
	if err != nil || len(ordered) != 2 || ordered[0] != "/api/v1/devices/d-1/commands lock stolen van" || !strings.Contains(out, "c-1 two lock queued") {
		t.Errorf("%v, ordered %q, printed %s", err, ordered, out)
	}
}
