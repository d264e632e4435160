package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// sendHook signs and sends report.json with openssl and curl alone, and keeps the headers for
// replayHook; it prints the answer and its status. docs/webhooks.md shows the same.
const (
	sendHook = `set -eu; cd "$1"; url=$2; secret=$3
key=$(printf %s "${secret#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
id=msg_$(openssl rand -hex 16); at=$(date +%s)
sig=$({ printf '%s.%s.' "$id" "$at"; cat report.json; } | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64 -w0)
printf 'webhook-id: %s\nwebhook-timestamp: %s\nwebhook-signature: v1,%s\ncontent-type: application/json\n' "$id" "$at" "$sig" > head
` + replayHook
	replayHook = `set -eu; cd "$1"; url=$2
curl -sS --cacert root.pem -H @head --data-binary @report.json -w '%{http_code}' "$url"`
)

// TestWebhookReleasesAndOthersAreTold: a signed webhook moves a device's packets, a replay of
// it moves nothing after a restart, and who asks for CAEP events is told of each move once.
func TestWebhookReleasesAndOthersAreTold(t *testing.T) {
	t.Parallel()
	testneed.Program(t, "openssl")
	testneed.Program(t, "curl")
	g := newGateway(t, options{})
	g.want(t, http.StatusOK, "PUT", "/api/v1/sources/hook", api.Source{Name: "hook", Kind: "webhook", MayRelease: true, MaxValidity: "24h", Facts: []string{"*"}}, nil)
	var key api.HookKey
	g.want(t, http.StatusCreated, "POST", "/api/v1/hooks/hook/keys", nil, &key)
	var hook api.Hook
	g.want(t, http.StatusOK, "GET", "/api/v1/hooks/hook", nil, &hook)
	var asks, dead api.Stream
	g.want(t, http.StatusCreated, "POST", "/api/v1/streams", api.StreamRequest{Name: "idp", Kind: "ssf"}, &asks)
	g.want(t, http.StatusCreated, "POST", "/api/v1/streams", api.StreamRequest{Name: "near", Kind: "webhook", URL: "https://127.0.0.1/in"}, &dead)

	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{User: "hook@example.com"})
	d.open(t)
	dir := t.TempDir()
	root, err := os.ReadFile(filepath.Join(g.admin, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root.pem", string(root))
	run := func(script string) string {
		t.Helper()
		return command(t, theLab(t).Dev2, "/bin/sh", "-c", script, "sh", dir, hook.URL, key.Secret)
	}
	say := func(verdict string) {
		t.Helper()
		write("report.json", fmt.Sprintf(`{"device":%q,"verdict":%q,"at":%q,"detail":"by webhook"}`, d.id, verdict, time.Now().UTC().Format(time.RFC3339Nano)))
		if out := run(sendHook); !strings.HasSuffix(out, "200") || !strings.Contains(out, `"enforced":true`) {
			t.Fatalf("%s: %s", verdict, out)
		}
	}
	write("report.json", `{"event":"ping"}`)
	if out := run(sendHook); !strings.Contains(out, `{"ok":true}`) {
		t.Errorf("a ping: %s", out)
	}
	if !d.shut(t) {
		t.Fatal("a new device is not quarantined")
	}
	say("compliant")
	if !d.routed(t) {
		t.Error("released, and not routed")
	}
	released, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(filepath.Join(dir, "head"))
	if err != nil {
		t.Fatal(err)
	}
	say("noncompliant")
	if !d.shut(t) {
		t.Error("quarantined, and not shut")
	}
	g.restartServe(t)
	write("report.json", string(released))
	write("head", string(head))
	if out := run(replayHook); !strings.HasSuffix(out, "401") || !d.shut(t) {
		t.Errorf("replayed after a restart: %s, it is %s", out, g.show(t, d.id).Stage)
	}
	g.want(t, http.StatusOK, "POST", "/api/v1/devices/"+d.id+"/revoke", nil, nil)
	told := g.asked(t, asks)
	want := []string{"compliant", "not-compliant", "session-revoked"}
	if strings.Join(told, " ") != strings.Join(want, " ") {
		t.Errorf("told %v, want %v", told, want)
	}
	until(t, "the receiver at a special address is not told", func() bool {
		var s api.Stream
		g.want(t, http.StatusOK, "GET", "/api/v1/streams/near", nil, &s)
		return s.Health.Failures > 0 && strings.Contains(s.Health.Problem, "127.0.0.1 is an address of this machine")
	})
	var test api.StreamTest
	if g.want(t, http.StatusOK, "POST", "/api/v1/streams/near/test", nil, &test); test.OK || test.Problem == "" {
		t.Errorf("a test delivery says %+v", test)
	}
	refused := false
	for _, e := range g.audit(t, "") {
		refused = refused || e.Action == "source.refuse" && strings.Contains(e.Detail["why"], "replayed")
	}
	if !refused {
		t.Error("the audit log does not tell of the replay")
	}
}

// asked polls a stream as RFC 8936 has it until there is nothing more, and says what each token says.
func (g *gateway) asked(t testing.TB, s api.Stream) (told []string) {
	t.Helper()
	dial := through(t, theLab(t).Dev2, netip.Addr{}, "")
	outside := &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: g.root(t)}}}
	var ack []string
	for {
		var a struct {
			Sets map[string]string `json:"sets"`
		}
		got, err := ask(soon(t), outside, g.url(), s.Secret, "POST", "/streams/v1/poll/"+s.StreamID, map[string]any{"ack": ack, "returnImmediately": len(told) >= 3, "maxEvents": 1}, &a)
		if err != nil || got.status != http.StatusOK {
			t.Fatalf("asking for tokens: %s, %v", got, err)
		}
		if len(a.Sets) == 0 {
			return told
		}
		ack = nil
		for id, text := range a.Sets {
			ack = append(ack, id)
			told = append(told, statement(t, text))
		}
	}
}

// statement is what a token says of a device, in a word. Its signature is others' test.
func statement(t testing.TB, text string) string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Events map[string]struct {
			Is string `json:"current_status"`
		}
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	for name, e := range c.Events {
		if e.Is != "" {
			return e.Is
		}
		return name[strings.LastIndexByte(name, '/')+1:]
	}
	return ""
}
