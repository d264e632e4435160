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
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// shown returns a block of shell of docs/webhooks.md: the first that contains a word.
func shown(t *testing.T, word string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(text), "```sh\n") {
		code, _, _ := strings.Cut(block, "```")
		if i > 0 && strings.Contains(code, word) {
			return "set -eu\n" + code
		}
	}
	t.Fatalf("docs/webhooks.md shows no shell with %q", word)
	return ""
}

// TestOpenSSLAndCurlAreEnough sends with the shell that the docs show to a real listener.
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
		c := exec.CommandContext(t.Context(), "/bin/sh", "-c", shown(t, "curl"))
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

// TestOpenSSLChecksWhatIsSent: the shell that the docs show to receivers knows our signatures.
func TestOpenSSLChecksWhatIsSent(t *testing.T) {
	testneed.Program(t, "openssl")
	secret, body := NewSecret(), []byte("{\"type\":\"ping\"}\n")
	h := http.Header{}
	Sign(h, "evt_1", time.Unix(1772366400, 0), body, NewSecret(), secret)
	var head bytes.Buffer
	if err := h.Write(&head); err != nil {
		t.Fatal(err)
	}
	for said, body := range map[string][]byte{"signed": body, "forged": append([]byte(" "), body...)} {
		dir := t.TempDir()
		for name, text := range map[string][]byte{"head": head.Bytes(), "body": body} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.CommandContext(t.Context(), "/bin/sh", "-c", shown(t, "signed"))
		c.Dir, c.Env = dir, append(os.Environ(), "SECRET="+secret.String())
		out, err := c.Output()
		if strings.TrimSpace(string(out)) != said || (err != nil) != (said == "forged") {
			t.Errorf("%s, %v; want %s", out, err, said)
		}
	}
}
