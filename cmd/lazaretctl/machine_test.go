package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/internal/console/api"
)

// machineLab is a gateway's API as far as its machine goes.
type machineLab struct {
	dir      string
	asked    []string
	st       appliance.Status
	result   appliance.Result // of the machine's check
	recovery string
	bad      string // version that comes back from a restart in the place of what was given
	hasty    string // the refusal of an update, at its first bytes
	back     bool   // a network that is tried is taken back at once
	lost     bool   // a network is tried, and no answer comes
}

func newMachineLab(t *testing.T) *machineLab {
	l := &machineLab{dir: t.TempDir(), st: appliance.Status{
		Stage: appliance.Running, Version: "1.0.0", Booted: time.Now().Add(-time.Hour),
		Slots:  []appliance.Slot{{Version: "1.0.0", File: "lazaret_1.0.0.efi", Booted: true, Blessed: true}, {Version: "1.1.0", File: "lazaret_1.1.0+0-3.efi", Tried: 3}},
		Links:  []appliance.LinkIs{{Name: "wan", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}, Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}},
		Disk:   appliance.Disk{Size: 8 << 30, Free: 5 << 30, Encrypted: true, Protection: appliance.ByTPM},
		Parts:  []appliance.Part{{Name: "dataplane"}},
		Memory: appliance.Memory{Size: 512 << 20, Available: 300 << 20},
	}}
	srv := httptest.NewTLSServer(l)
	t.Cleanup(srv.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	for name, text := range map[string]string{"server": srv.URL, "root.pem": string(certificate), "token": "lzt_x"} {
		if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *machineLab) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if l.hasty != "" && r.Method == http.MethodPost {
		if err := refuseHastily(w, r, l.hasty); err != nil {
			panic(err)
		}
		return
	}
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.String(), machinePath)
	l.asked = append(l.asked, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, path, body)))
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodGet && path == "":
		_ = json.NewEncoder(w).Encode(api.Machine{Status: l.st})
	case strings.HasPrefix(path, "/update?") || path == "/update":
		if r.ContentLength != int64(len(body)) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		l.st.Booted, l.st.Version = time.Now(), "1.2.0 (abc)"
		if l.bad != "" {
			l.st.Version, l.st.Update.Last = l.bad, "version 1.2.0 was started 3 times and was not found well; version 1.0.0 runs again"
		}
		_ = json.NewEncoder(w).Encode(api.MachineStaged{Version: "1.2.0", Rebooting: true})
	case path == "/network" && r.Method == http.MethodGet:
		n := api.MachineNetwork{}
		if !l.back {
			n.Trying, n.Until = &appliance.Network{Version: 2}, time.Now().Add(2*time.Minute)
		}
		_ = json.NewEncoder(w).Encode(n)
	case path == "/network" && l.lost:
		panic(http.ErrAbortHandler)
	case path == "/network" && r.Method == http.MethodPut:
		_ = json.NewEncoder(w).Encode(api.MachineTrying{Until: time.Now().Add(2 * time.Minute)})
	case strings.HasPrefix(path, "/log") && !strings.Contains(path, "part=serve"):
		_, _ = io.WriteString(w, "[]")
	case strings.HasPrefix(path, "/log"):
		_ = json.NewEncoder(w).Encode([]api.MachineLine{{Part: "serve", Text: "evil \x1b[2J line"}})
	case path == "/check":
		_ = json.NewEncoder(w).Encode(api.MachineReport{Report: appliance.Report{Checks: []appliance.Check{{ID: "table.owner", Title: "owned", Result: l.result, Found: []string{"owner \x1b[2J"}}}}})
	case path == "/inventory":
		_, _ = io.WriteString(w, `{"bomFormat":"CycloneDX"}`)
	case path == "/seal" || path == "/recovery":
		_ = json.NewEncoder(w).Encode(api.MachineRecovery{Recovery: l.recovery})
	case path == "/updates":
		if r.Method == http.MethodGet {
			body = []byte(`{"channel":"https://u.example/s","window":"Sun 02:00-05:00"}`)
		}
		_, _ = w.Write(body)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// run runs lazaretctl machine.
func (l *machineLab) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	l.asked = nil
	var out strings.Builder
	c := root()
	c.SetOut(&out)
	c.SetErr(io.Discard)
	c.SetArgs(append([]string{"--dir", l.dir, "--token-file", filepath.Join(l.dir, "token"), "machine"}, args...))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

// TestMachineCommands: each asks for what it says, and no other.
func TestMachineCommands(t *testing.T) {
	l := newMachineLab(t)
	file := filepath.Join(l.dir, "a.update")
	network := filepath.Join(l.dir, "network.yaml")
	for name, text := range map[string]string{file: "bundle", network: "version: 2\nethernets:\n  wan:\n    addresses: [192.0.2.8/24]\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ args, asked, prints, fails string }{
		{"status", "GET", "lazaret_1.1.0+0-3.efi", ""},
		{"status", "GET", "5 GiB free of 8 GiB, key: tpm", ""},
		{"update " + file, "GET;POST /update?reboot=true bundle", "version 1.2.0 is written; the machine restarts", ""},
		{"update --no-reboot " + file, "GET;POST /update bundle", "at the next start", ""},
		{"update --wait " + file, "GET;POST /update?reboot=true bundle;GET", "back, with version 1.2.0", ""},
		{"network set -f " + network, `PUT /network {"network":{"version":2,"ethernets":{"wan":{"addresses":["192.0.2.8/24"]}}},"seconds":120};GET /network`, "on trial; the one before comes back in ", ""},
		{"network confirm", "POST /network/confirm", "confirmed", ""},
		{"updates set --automatic", `GET /updates;PUT /updates {"channel":"https://u.example/s","automatic":true,"window":"Sun 02:00-05:00"}`, "by itself, Sun 02:00-05:00 UTC", ""},
		{"reboot", "GET;POST /reboot", "does so now", ""},
		{"rollback", "GET;POST /rollback", "does so now", ""},
		{"log -n 3 --part serve", "GET /log?contains=&n=3&part=serve", "serve: evil ?[2J line", ""},
		{"log --part nope", "GET /log?contains=&n=200&part=nope;GET", "", `no part of the machine is called "nope": there are kernel, machine, dataplane`},
		{"log --part dataplane", "GET /log?contains=&n=200&part=dataplane;GET", "", ""},
		{"restart", "", "", "did you mean reboot?"},
		{"network sett", "", "", "did you mean set?"},
		{"updates xyzzyx", "", "", "it has check, set, show"},
		{"reset", "", "", "name the gateway that is to be erased"},
		{"reset gw", "", "", "add --yes"},
		{"reset gw --yes", `POST /reset {"name":"gw"}`, "claim code", ""},
	} {
		out, err := l.run(t, strings.Fields(c.args)...)
		if asked := strings.Join(l.asked, ";"); asked != c.asked || !strings.Contains(out, c.prints) || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("machine %s: asked %q, printed\n%s\n%v; want %q, %q", c.args, asked, out, err, c.asked, c.prints)
		}
	}
	l.checks(t)
	l.bad = "1.0.0"
	if _, err := l.run(t, "update", "--wait", file); err == nil || !strings.Contains(err.Error(), "version 1.0.0 runs again") {
		t.Errorf("an update that came back: %v", err)
	}
}

// checks has the machine's check pass, fail and say nothing: the exit status tells.
func (l *machineLab) checks(t *testing.T) {
	t.Helper()
	for result, prints := range map[appliance.Result]string{
		appliance.Pass: "PASS         table.owner          owned\n              owner ?[2J\n", appliance.Fail: "FAIL ", appliance.NotChecked: "NOT CHECKED ", "": " table.owner ",
	} {
		l.result = result
		out, err := l.run(t, "check")
		if !strings.Contains(out, prints) || (err == nil) != (result == appliance.Pass) {
			t.Errorf("%q printed\n%s\n%v", result, out, err)
		}
		if out, err := l.run(t, "check", "--json"); !strings.HasPrefix(out, `{"checks":[`) || (err == nil) != (result == appliance.Pass) {
			t.Errorf("%q printed\n%s\n%v", result, out, err)
		}
	}
	if out, err := l.run(t, "check", "--sbom"); err != nil || !strings.Contains(out, "CycloneDX") {
		t.Errorf("%s, %v", out, err)
	}
}

// TestMachineProtection: what is secret comes from a file, is sent once and never printed;
// what is too short is not sent; what the machine tells once is printed.
func TestMachineProtection(t *testing.T) {
	l := newMachineLab(t)
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		args                            []string
		recovery, asked, prints, reason string
	}{
		"passphrase":       {[]string{"passphrase", "--file", file("twelve chars\n")}, "", `POST /passphrase {"passphrase":"twelve chars"}`, "keeps the data now", ""},
		"short passphrase": {[]string{"passphrase", "--file", file("11 are less\n")}, "", "", "", "12 characters at least"},
		"unspeakable":      {[]string{"passphrase", "--file", file("größer als zwölf\n")}, "", "", "", "cannot be typed"},
		"nobody types":     {[]string{"passphrase"}, "", "", "", "no terminal"},
		"seal":             {[]string{"seal"}, "ABCD-EFGH", "POST /seal {}", "recovery passphrase  ABCD-EFGH", ""},
		"seal again":       {[]string{"seal"}, "", "POST /seal {}", "from before stays", ""},
		"seal with PIN":    {[]string{"seal", "--pin-file", file("271828\n")}, "ABCD-EFGH", `POST /seal {"pin":"271828"}`, "ABCD-EFGH", ""},
		"seal, nobody":     {[]string{"seal", "--pin"}, "", "", "", "no terminal"},
		"seal, short PIN":  {[]string{"seal", "--pin-file", file("12345")}, "", "", "", "6 characters at least"},
		"recovery":         {[]string{"recovery"}, "JKMN-PQRS", "POST /recovery", "recovery passphrase  JKMN-PQRS", ""},
		"time":             {[]string{"clock", "accept"}, "", "POST /clock/accept", "the clock is set", ""},
	} {
		l.recovery = c.recovery
		out, err := l.run(t, c.args...)
		if asked := strings.Join(l.asked, ";"); asked != c.asked || !strings.Contains(out, c.prints) || (err == nil) != (c.reason == "") || err != nil && !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: asked %q, printed\n%s\n%v", name, asked, out, err)
		}
		for _, secret := range []string{"twelve chars", "11 are less", "größer", "271828", "12345"} {
			if strings.Contains(out, secret) || err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s shows %q", name, secret)
			}
		}
	}
}

// TestLostNetworkFails: who does not reach the machine under a new network learns that it was
// taken back, by the exit status too.
func TestLostNetworkFails(t *testing.T) {
	l := newMachineLab(t)
	file := filepath.Join(l.dir, "network.yaml")
	if err := os.WriteFile(file, []byte("version: 2\nethernets:\n  wan:\n    addresses: [192.0.2.8/24]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		back, lost bool
		args, says string
	}{
		"answered late":    {true, false, "2m", "was taken back: the machine was not reached under the new network"},
		"lost":             {true, true, "0s", "was taken back: the machine was not reached under the new network"},
		"never tried":      {true, true, "10m", "tries no network"},
		"answer lost":      {false, true, "10m", ""},
		"answered in time": {false, false, "2m", ""},
	} {
		l.back, l.lost = c.back, c.lost
		out, err := l.run(t, "network", "set", "-f", file, "--for", c.args)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || strings.Contains(out, "ago") || (err == nil) != strings.Contains(out, "on trial; the one before comes back in ") {
			t.Errorf("%s: %s, %v; want %q", name, out, err, c.says)
		}
	}
	for d, want := range map[time.Duration]string{
		2*time.Minute - time.Millisecond: "in 2m", 2 * time.Minute: "in 2m", 119 * time.Second: "in 1m59s", 90*time.Second + 1: "in 1m31s",
		time.Millisecond: "in 1s", 10 * time.Second: "in 10s", 20*time.Minute - 1: "in 20m", 0: "at any moment", -time.Hour: "at any moment",
	} {
		if got := remaining(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}
