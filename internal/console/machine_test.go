package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/quarantine"
)

// fakeMachine notes what it is asked.
type fakeMachine struct {
	machine.Host
	asked  []string
	notes  []string
	taken  int64
	refuse error
}

func (f *fakeMachine) ask(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.refuse
}

func (f *fakeMachine) Note(_ context.Context, by quarantine.Actor, action string, detail map[string]string) error {
	f.notes = append(f.notes, fmt.Sprint(by.Name, " ", action, " ", detail))
	return nil
}

func (f *fakeMachine) Check(context.Context) error { return f.ask("check") }

func (f *fakeMachine) Status(context.Context) (appliance.Status, error) {
	return appliance.Status{Stage: appliance.Running, Version: "1.0.0", Code: "SECRET", Slots: []appliance.Slot{{Version: "1.0.0", Booted: true, Blessed: true}}}, nil
}

func (f *fakeMachine) StageUpdate(_ context.Context, r io.Reader, o machine.Options) (machine.Staged, error) {
	n, err := io.Copy(io.Discard, r)
	if f.taken = n; err != nil {
		return machine.Staged{}, err
	}
	return machine.Staged{Version: "1.1.0", Rebooting: o.Reboot}, f.ask("update %d %v", o.Size, o.Reboot)
}

func (f *fakeMachine) TryNetwork(_ context.Context, n appliance.Network, d time.Duration) (time.Time, error) {
	return time.Unix(1_780_000_000, 0).UTC(), f.ask("try %v %s", n.Ethernets["wan"].Addresses, d)
}

func (f *fakeMachine) SetUpdates(_ context.Context, u appliance.Updates) error {
	return f.ask("set %+v", u)
}
func (f *fakeMachine) Reboot(context.Context) error { return f.ask("reboot") }
func (f *fakeMachine) SetPassphrase(_ context.Context, p string) error {
	return f.ask("passphrase %s", p)
}
func (f *fakeMachine) Seal(_ context.Context, pin string) (string, error) {
	return "ABCD-EFGH", f.ask("seal %s", pin)
}
func (f *fakeMachine) NewRecovery(context.Context) (string, error) {
	return "JKMN-PQRS", f.ask("recovery")
}
func (f *fakeMachine) AcceptTime(context.Context) error { return f.ask("accept") }
func (f *fakeMachine) SelfCheck(context.Context) (appliance.Report, error) {
	return appliance.Report{Checks: []appliance.Check{{ID: "a", Result: appliance.Fail}}}, f.ask("check of itself")
}
func (f *fakeMachine) Inventory(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"bomFormat":"CycloneDX"}`), f.ask("inventory")
}
func (f *fakeMachine) Reset(_ context.Context, n string) error { return f.ask("reset %s", n) }

func (f *fakeMachine) Log(_ context.Context, n int, q machine.Filter) ([]machine.Line, error) {
	return []machine.Line{{Part: "kernel", Text: "hello"}}, f.ask("log %d %q %q", n, q.Part, q.Contains)
}

// TestMachine asks the machine over the API: what reaches it, and what is recorded.
func TestMachine(t *testing.T) {
	l, f := newLab(t), &fakeMachine{}
	l.cfg.Machine = f
	admin := who{cert: l.admin}
	for _, c := range []struct {
		method, path, body string
		status             int
		asked, note        string
	}{
		{"POST", "/reboot", "", 204, "reboot", "ada machine.reboot map[]"},
		{"POST", "/reset", `{"name":"gw"}`, 204, "reset gw", "ada machine.reset map[]"},
		{"PUT", "/network", `{"network":{"version":2,"ethernets":{"wan":{"addresses":["192.0.2.7/24"]}}}}`, 200, "try [192.0.2.7/24] 2m0s", "ada machine.network.try map[]"},
		{"PUT", "/network", `{"network":{"version":2},"seconds":5}`, 400, "", ""},
		{"PUT", "/network", `{"network":{"version":2,"wifis":{}}}`, 400, "", ""},
		{"PUT", "/updates", `{"channel":"https://u.example/s","automatic":true}`, 200, "set {Channel:https://u.example/s Automatic:true Window:}", "ada machine.updates.set map[automatic:true channel:https://u.example/s window:]"},
		{"GET", "/log?n=7&part=kernel&contains=x", "", 200, `log 7 "kernel" "x"`, ""},
		{"GET", "/log?n=0", "", 400, "", ""},
		{"POST", "/update?reboot=true", "0123456789", 200, "update 10 true", "ada machine.update map[reboot:true version:1.1.0]"},
		{"POST", "/update", "", 400, "", ""},
		{"POST", "/passphrase", `{"passphrase":"nobody may know"}`, 204, "passphrase nobody may know", "ada machine.passphrase map[]"},
		{"POST", "/seal", `{"pin":"123456"}`, 200, "seal 123456", "ada machine.seal map[pin:true]"},
		{"POST", "/seal", `{}`, 200, "seal ", "ada machine.seal map[pin:false]"},
		{"POST", "/seal", `{"passphrase":"x"}`, 400, "", ""},
		{"POST", "/recovery", "", 200, "recovery", "ada machine.recovery map[]"},
		{"POST", "/clock/accept", "", 204, "accept", "ada machine.clock.accept map[]"},
		{"GET", "/check", "", 200, "check of itself", ""},
		{"GET", "/inventory", "", 200, "inventory", ""},
	} {
		f.asked, f.notes = nil, nil
		got := l.ask(l.API(), admin, c.method, "/api/v1/machine"+c.path, c.body)
		if got.Code != c.status || strings.Join(f.asked, ";") != c.asked || strings.Join(f.notes, ";") != c.note {
			t.Errorf("%s %s: %d %s; asked %q, noted %q; want %d, %q, %q", c.method, c.path, got.Code, got.Body, f.asked, f.notes, c.status, c.asked, c.note)
		}
	}
	if got := l.ask(l.API(), admin, "GET", "/api/v1/machine", ""); strings.Contains(got.Body.String(), "SECRET") || !strings.Contains(got.Body.String(), `"stage":"running"`) {
		t.Errorf("status: %s", got.Body)
	}
	f.refuse = fmt.Errorf("%w: version 1.0.0 runs already", appliance.ErrRefused)
	f.notes = nil
	got := l.ask(l.API(), admin, "POST", "/api/v1/machine/update", "0123456789")
	if got.Code != http.StatusUnprocessableEntity || !strings.Contains(got.Body.String(), "runs already") || !slices.Equal(f.notes, []string{"ada machine.update.refuse map[why:refused: version 1.0.0 runs already]"}) {
		t.Errorf("a refused update: %d %s, noted %q", got.Code, got.Body, f.notes)
	}
}

// TestWhatKeepsTheData is for those who may change the machine alone, and what comes of it is
// told to them.
func TestWhatKeepsTheData(t *testing.T) {
	l, f := newLab(t), &fakeMachine{}
	l.cfg.Machine = f
	for path, want := range map[string]string{"seal": "ABCD-EFGH", "recovery": "JKMN-PQRS"} {
		if got := l.ask(l.API(), who{cert: l.admin}, "POST", "/api/v1/machine/"+path, "{}"); !strings.Contains(got.Body.String(), `"recovery":"`+want+`"`) {
			t.Errorf("%s: %s", path, got.Body)
		}
	}
	if got := l.ask(l.API(), who{token: "lzt_eyes"}, "GET", "/api/v1/machine/check", ""); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"result":"fail"`) {
		t.Errorf("the check, by who may read: %d %s", got.Code, got.Body)
	}
	f.asked = nil
	for _, path := range []string{"passphrase", "seal", "recovery", "clock/accept"} {
		if got := l.ask(l.API(), who{token: "lzt_eyes"}, "POST", "/api/v1/machine/"+path, `{}`); got.Code != http.StatusForbidden {
			t.Errorf("%s, by who may read alone: %d", path, got.Code)
		}
	}
	if len(f.asked) != 0 {
		t.Errorf("asked %q", f.asked)
	}
}

// TestUploadIsBounded: an update may be large, and not larger than a bundle.
func TestUploadIsBounded(t *testing.T) {
	l, f := newLab(t), &fakeMachine{}
	l.cfg.Machine = f
	admin := who{cert: l.admin}
	if got := l.ask(l.API(), admin, "POST", "/api/v1/machine/update", strings.Repeat("x", 4<<20)); got.Code != http.StatusOK || f.taken != 4<<20 {
		t.Errorf("4 MiB: %d, %d bytes taken", got.Code, f.taken)
	}
	if got := l.ask(l.API(), who{token: "lzt_eyes"}, "POST", "/api/v1/machine/update", "x"); got.Code != http.StatusForbidden {
		t.Errorf("by who may read alone: %d", got.Code)
	}
}

// TestNoAppliance: on a machine of somebody else's there is nothing to ask, and the answer
// says so.
func TestNoAppliance(t *testing.T) {
	for name, m := range map[string]Machine{"none": nil, "nobody listens": gone{machine.Connect(filepath.Join(t.TempDir(), "no.sock")), &fakeMachine{}}} {
		l := newLab(t)
		l.cfg.Machine = m
		got := l.ask(l.API(), who{cert: l.admin}, "GET", "/api/v1/machine", "")
		if got.Code != http.StatusConflict || !strings.Contains(got.Body.String(), "this gateway is not an appliance") {
			t.Errorf("%s: %d %s", name, got.Code, got.Body)
		}
	}
}

type gone struct {
	machine.Host
	notes *fakeMachine
}

func (g gone) Note(ctx context.Context, by quarantine.Actor, action string, detail map[string]string) error {
	return g.notes.Note(ctx, by, action, detail)
}
func (g gone) Check(context.Context) error { return nil }

// TestChannelFaultIsPublic: what is wrong with a channel is told as another server's fault.
func TestChannelFaultIsPublic(t *testing.T) {
	l := newLab(t)
	l.cfg.Machine = &fakeMachine{refuse: &UpstreamFault{"the update channel https://u.example/s: it answers 404 Not Found", "name the directory"}}
	got := l.ask(l.API(), who{token: "lzt_root"}, "POST", "/api/v1/machine/updates/check", "")
	if got.Code != http.StatusBadGateway || !strings.Contains(got.Body.String(), "https://u.example/s: it answers 404 Not Found") || !strings.Contains(got.Body.String(), "name the directory") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}
