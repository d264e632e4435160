package webhook

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// send is what docs/webhooks.md shows, but for the address and the file of the root.
const send = `
set -eu
key=$(printf %s "${SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
id=msg_$(openssl rand -hex 16)
at=$(date +%s)
sig=$({ printf '%s.%s.' "$id" "$at"; cat report.json; } |
  openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64 -w0)
curl -sS --cacert root.pem -H "webhook-id: $id" -H "webhook-timestamp: $at" -H "webhook-signature: v1,$sig" \
  -H 'content-type: application/json' --data-binary @report.json -w '\n%{http_code}' "$URL"
`

// TestOpenSSLAndCurlAreEnough sends with nothing but a shell, openssl and curl to a real
// listener.
func TestOpenSSLAndCurlAreEnough(t *testing.T) {
	testneed.Program(t, "openssl")
	testneed.Program(t, "curl")
	l := newLab(t)
	l.now = time.Now()
	mux := http.NewServeMux()
	mux.Handle(Pattern, l)
	server := httptest.NewTLSServer(mux)
	defer server.Close()
	dir := t.TempDir()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), root, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(secret Secret, body string) (int, Answer) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "report.json"), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		c := exec.CommandContext(t.Context(), "/bin/sh", "-c", send)
		c.Dir = dir
		c.Env = append(os.Environ(), "SECRET="+secret.String(), "URL="+server.URL+"/hooks/v1/mdm")
		c.Stderr = os.Stderr
		out, err := c.Output()
		if err != nil {
			t.Fatalf("sending: %v: %s", err, out)
		}
		end := bytes.LastIndexByte(out, '\n')
		var a Answer
		if err := json.Unmarshal(out[:end], &a); err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		var status int
		if err := json.Unmarshal(out[end+1:], &status); err != nil {
			t.Fatal(err)
		}
		return status, a
	}
	if status, a := run(l.secret, `{"event":"ping"}`); status != 200 || !a.OK || l.gate.calls != 0 {
		t.Errorf("a ping: %d, %+v", status, a)
	}
	body := "{\"device\":\"ONE\",\"verdict\":\"noncompliant\",\"at\":\"2026-03-01T11:59:00Z\",\n \"detail\":\"Zürich\"}\n"
	if status, a := run(l.secret, body); status != 200 || !a.OK || len(l.gate.got) != 1 || l.gate.got[0].Detail != "Zürich" || l.gate.got[0].Device != "dev-by-serial" {
		t.Errorf("a report: %d, %+v, the gate got %+v", status, a, l.gate.got)
	}
	if status, _ := run(NewSecret(), body); status != 401 || len(l.gate.got) != 1 {
		t.Errorf("another key: %d", status)
	}
}
