package console

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// TestEveryRouteAgainstABoundedIdentity states by hand what an identity meets that may do
// everything, but with some devices alone; a route that is not in this table fails.
func TestEveryRouteAgainstABoundedIdentity(t *testing.T) {
	const (
		open    = "open"           // nothing of devices in it, or only those it sees
		single  = "its devices"    // 404 about others, as about those that do not exist
		refused = "all devices"    // refused
		own     = "its own tokens" // 404 about others
	)
	table := map[string]string{
		"GET /api/v1/openapi.json": open, "GET /api/v1/root": open, "GET /api/v1/roles": open, "GET /api/v1/status": open,
		"GET /api/v1/otps": open, "POST /api/v1/otps": open, "DELETE /api/v1/otps/{reference}": open,
		"GET /api/v1/devices": open, "GET /api/v1/devices/{device}": single,
		"GET /api/v1/devices/{device}/explain": single, "GET /api/v1/devices/{device}/tunnel": single, "POST /api/v1/devices/{device}/{action}": single,
		"POST /api/v1/devices/{device}/wipe": single, "POST /api/v1/devices/{device}/unwipe": single,
		"GET /api/v1/devices/{device}/history": single, "POST /api/v1/devices/{device}/waivers": single, "PUT /api/v1/devices/{device}/groups": single,
		"POST /api/v1/devices/{device}/session": single, "DELETE /api/v1/devices/{device}/session": single,
		"GET /api/v1/devices/{device}/commands": single, "GET /api/v1/devices/{device}/commands/{command}": single,
		"POST /api/v1/devices/{device}/commands": single, "DELETE /api/v1/devices/{device}/commands/{command}": single,
		"GET /api/v1/devices/{device}/attestation": single, "POST /api/v1/devices/{device}/attestation/accept": single, "DELETE /api/v1/devices/{device}/attestation": single,
		"POST /api/v1/reports": open, "POST /api/v1/reports/batch": open,
		"GET /api/v1/pools": refused, "GET /api/v1/pools/{name}/names": refused, "PUT /api/v1/pools/{name}": refused, "DELETE /api/v1/pools/{name}": refused,
		"GET /api/v1/profiles": open, "PUT /api/v1/profiles/{name}": refused, "DELETE /api/v1/profiles/{name}": refused,
		"GET /api/v1/sources": refused, "PUT /api/v1/sources/{name}": refused, "DELETE /api/v1/sources/{name}": refused,
		"GET /api/v1/sources/{name}": refused, "GET /api/v1/sources/health": refused, "GET /api/v1/sources/{name}/health": refused,
		"GET /api/v1/sources/{name}/settings": refused, "PUT /api/v1/sources/{name}/settings": refused,
		"GET /api/v1/policies": open, "GET /api/v1/policies/{name}": open, "PUT /api/v1/policies/{name}": refused, "DELETE /api/v1/policies/{name}": refused,
		"POST /api/v1/policies/check": open, "POST /api/v1/policies/try": refused, "GET /api/v1/facts": open,
		"GET /api/v1/conduct": refused, "PUT /api/v1/conduct": refused,
		"GET /api/v1/hooks": refused, "GET /api/v1/hooks/{source}": refused, "PUT /api/v1/hooks/{source}": refused,
		"POST /api/v1/hooks/{source}/keys": refused, "DELETE /api/v1/hooks/{source}/keys/{key}": refused,
		"GET /api/v1/sources/{name}/ssf": refused, "PUT /api/v1/sources/{name}/ssf": refused, "POST /api/v1/sources/{name}/ssf/verify": refused,
		"PUT /api/v1/sources/{name}/ssf/status": refused, "DELETE /api/v1/sources/{name}/ssf/accounts/{account}": refused,
		"GET /api/v1/streams": refused, "POST /api/v1/streams": refused, "GET /api/v1/streams/{name}": refused, "PATCH /api/v1/streams/{name}": refused,
		"DELETE /api/v1/streams/{name}": refused, "POST /api/v1/streams/{name}/test": refused, "POST /api/v1/streams/{name}/resume": refused,
		"POST /api/v1/streams/{name}/keys": refused, "DELETE /api/v1/streams/{name}/keys/{key}": refused, "POST /api/v1/streams/{name}/token": refused,
		"POST /api/v1/stream-signer": refused,
		"GET /api/v1/tokens":         open, "POST /api/v1/tokens": open, "GET /api/v1/tokens/{name}": own, "DELETE /api/v1/tokens/{name}": own,
		"GET /api/v1/attestation": refused, "PUT /api/v1/attestation": refused,
		"GET /api/v1/alerts": open, "POST /api/v1/alerts": open, "GET /api/v1/outlets": refused, "PUT /api/v1/outlets/{name}": refused,
		"POST /api/v1/outlets/{name}/test": refused, "DELETE /api/v1/outlets/{name}": refused,
		"GET /api/v1/machine": refused, "GET /api/v1/machine/log": refused, "GET /api/v1/machine/network": refused,
		"GET /api/v1/machine/updates": refused, "PUT /api/v1/machine/network": refused, "POST /api/v1/machine/network/confirm": refused,
		"POST /api/v1/machine/update": refused, "PUT /api/v1/machine/updates": refused, "POST /api/v1/machine/updates/check": refused,
		"GET /api/v1/machine/check": refused, "GET /api/v1/machine/inventory": refused, "POST /api/v1/machine/clock/accept": refused,
		"POST /api/v1/machine/passphrase": refused, "POST /api/v1/machine/seal": refused, "POST /api/v1/machine/recovery": refused,
		"POST /api/v1/machine/rollback": refused, "POST /api/v1/machine/reboot": refused, "POST /api/v1/machine/poweroff": refused,
		"POST /api/v1/machine/reset": refused,
		"GET /api/v1/certificate":    refused, "PUT /api/v1/certificate": refused, "DELETE /api/v1/certificate": refused,
		"POST /api/v1/certificate/request": refused, "PUT /api/v1/certificate/acme": refused, "DELETE /api/v1/certificate/acme": refused,
		"POST /api/v1/certificate/renew": refused,
		"GET /api/v1/audit":              open, "GET /api/v1/audit/head": refused, "GET /api/v1/audit/export": refused,
	}
	for _, rt := range newLab(t).routes() {
		want, known := table[rt.pattern]
		if !known {
			t.Errorf("%s is not in this table: decide what it is to one who may see some devices", rt.pattern)
			continue
		}
		method, path, _ := strings.Cut(rt.pattern, " ")
		fill := func(device, name string) string {
			return strings.NewReplacer("{reference}", "2AJWTAEH", "{device}", device, "{action}", "block", "{name}", name, "{command}", "c", "{source}", "mdm", "{key}", "k", "{account}", "x").Replace(path)
		}
		l := newTokenLab(t)
		w := l.must(t, who{cert: l.admin}, api.TokenRequest{Name: "linux", Scope: "administrator", For: api.Selection{Platforms: []string{"linux"}}})
		l.must(t, who{cert: l.admin}, api.TokenRequest{Name: "other", Scope: "read"})
		got := l.ask(l.API(), w, method, fill("dev1", "nothing"), "{}")
		if no := got.Code == http.StatusUnauthorized || got.Code == http.StatusForbidden; no != (want == refused) {
			// a one-time password that names nothing is one of a device it would not see
			if rt.pattern != "POST /api/v1/otps" {
				t.Errorf("%s, %s: %d %s", rt.pattern, want, got.Code, got.Body)
			}
		}
		if got.Code == http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", rt.pattern, got.Code)
		}
		before := len(l.gate.changes)
		switch want {
		case single: // by name and by id, letter by letter as one that does not exist
			for _, ref := range []string{"dev2", "bob-laptop"} {
				other, none := l.ask(l.API(), w, method, fill(ref, ""), "{}"), l.ask(l.API(), w, method, fill("nobodys", ""), "{}")
				if other.Code != http.StatusNotFound || other.Body.String() != strings.ReplaceAll(none.Body.String(), "nobodys", ref) {
					t.Errorf("%s about %s: %d %s, about none: %s", rt.pattern, ref, other.Code, other.Body, none.Body)
				}
			}
		case own:
			if other := l.ask(l.API(), w, method, fill("", "other"), ""); other.Code != http.StatusNotFound {
				t.Errorf("%s about others: %d", rt.pattern, other.Code)
			}
		}
		if len(l.gate.changes) != before {
			t.Errorf("%s changed a device that it does not see", rt.pattern)
		}
	}
}

// TestTablesNameRoutes: what says more of a route names one that there is.
func TestTablesNameRoutes(t *testing.T) {
	have := map[string]bool{}
	for _, rt := range newLab(t).routes() {
		have[rt.pattern] = true
		if !slices.Contains(everything(), rt.need) && rt.need != anyone {
			t.Errorf("%s needs %q, which nobody has", rt.pattern, rt.need)
		}
		if len(more[rt.pattern]) > 0 && rt.need == anyone {
			t.Errorf("%s is for anyone, and needs more", rt.pattern)
		}
	}
	for _, pattern := range openToBounded {
		if !have[pattern] || strings.Contains(pattern, deviceInPath) {
			t.Errorf("openToBounded names %s", pattern)
		}
	}
	for pattern := range more {
		if !have[pattern] {
			t.Errorf("more names %s", pattern)
		}
	}
}

type noAlerts struct{ Alerts }

// aboutDevices are alerts of two devices and of something else; done are those acted on.
type aboutDevices struct {
	noAlerts
	done []string
}

func (*aboutDevices) Alerts(context.Context) ([]api.Alert, error) {
	return []api.Alert{{ID: "inactive-device/dev3", Kind: "inactive-device", Subject: "dev3"}, {ID: "inactive-device/dev2", Kind: "inactive-device", Subject: "dev2"},
		{ID: "silent-source/dev3", Kind: "silent-source", Subject: "dev3"}, {ID: "inactive-many", Kind: "inactive-device"}}, nil
}

func (a *aboutDevices) Act(_ context.Context, _ quarantine.Actor, q api.AlertAction) (api.Alert, error) {
	a.done = append(a.done, q.ID)
	return api.Alert{}, nil
}

// newReleaseLab has all that can release and wipe.
func newReleaseLab(t *testing.T) *tokenLab {
	l := newTokenLab(t)
	l.cfg.Hooks, l.cfg.Manage, l.cfg.Alerts = &fakeHooks{}, &fakeManagement{}, &aboutDevices{}
	l.sources.items["hook"] = Item[quarantine.Source]{Name: "hook", Value: quarantine.Source{Name: "hook", Kind: quarantine.SourceWebhook, MayRelease: true}}
	l.cfg.Policies = Policies{Sets: newTable(map[string]quarantine.PolicySet{}), Conducts: &fakeConducts{}, Rulebook: ruleWriter{},
		Try: func(map[string]quarantine.PolicySet, quarantine.Conduct) []quarantine.Trial { return nil }}
	return l
}

// TestListingsShowWhatIsSeen: what is listed of all devices is listed of those alone that
// exist for the one who asks.
func TestListingsShowWhatIsSeen(t *testing.T) {
	l := newTokenLab(t)
	root := who{cert: l.admin}
	w := l.must(t, root, api.TokenRequest{Name: "b", Scope: "administrator", For: api.Selection{Groups: []string{"b"}, Platforms: []string{"linux"}}})
	if all := body[[]api.Device](t, l.lab, w, "GET", "/api/v1/devices", ""); len(all) != 1 || all[0].ID != "dev3" {
		t.Errorf("devices %+v", all)
	}
	if st := body[api.Status](t, l.lab, w, "GET", "/api/v1/status", ""); st.Devices["quarantined"] != 1 {
		t.Errorf("counted %v", st.Devices)
	}
	// Two devices have the serial number; for this one there is one of them.
	if d := body[api.Device](t, l.lab, w, "GET", "/api/v1/devices/TWIN", ""); d.ID != "dev3" {
		t.Errorf("by serial number: %s", d.ID)
	}
	alerts := &aboutDevices{}
	l.cfg.Alerts = alerts
	if all := body[[]api.Alert](t, l.lab, w, "GET", "/api/v1/alerts", ""); len(all) != 1 || all[0].ID != "inactive-device/dev3" {
		t.Errorf("alerts %+v", all)
	}
	for id, want := range map[string]int{"inactive-device/dev3": 200, "inactive-device/dev2": 404, "silent-source/dev3": 404, "none": 404} {
		if got := l.ask(l.API(), w, "POST", "/api/v1/alerts", `{"action":"resolve","id":"`+id+`"}`); got.Code != want {
			t.Errorf("resolving %s: %d", id, got.Code)
		}
	}
	if len(alerts.done) != 1 {
		t.Errorf("resolved %v", alerts.done)
	}
	if all := body[[]api.OTP](t, l.lab, w, "GET", "/api/v1/otps", ""); len(all) != 0 {
		t.Errorf("one-time passwords of others: %+v", all)
	}
	for path, want := range map[string]int{
		"GET /api/v1/audit": 400, "GET /api/v1/audit?device=dev3": 200, "GET /api/v1/audit?device=dev1": 404, "DELETE /api/v1/otps/2AJWTAEH": 404,
	} {
		method, path, _ := strings.Cut(path, " ")
		if got := l.ask(l.API(), w, method, path, ""); got.Code != want {
			t.Errorf("%s: %d, want %d", path, got.Code, want)
		}
	}
}

// TestOneTimePasswordsStayInScope: one who sees some devices admits such devices alone.
func TestOneTimePasswordsStayInScope(t *testing.T) {
	l := newTokenLab(t)
	w := l.must(t, who{cert: l.admin}, api.TokenRequest{Name: "desk", Scope: "helpdesk", For: api.Selection{Platforms: []string{"linux"}, Profiles: []string{"default"}}})
	for in, want := range map[string]int{
		`{"user":"x","platform":"linux"}`:                   201,
		`{"user":"x"}`:                                      403, // the device could say that it is a Mac
		`{"user":"x","platform":"macos"}`:                   403,
		`{"user":"x","platform":"linux","profile":"vip"}`:   403,
		`{"user":"x","device":"dev1"}`:                      201,
		`{"user":"x","device":"dev1","platform":"macos"}`:   403,
		`{"user":"x","device":"dev1","profile":"vip"}`:      403,
		`{"user":"x","device":"dev2","platform":"linux"}`:   404,
		`{"user":"x","device":"nobody","platform":"linux"}`: 404,
	} {
		if got := l.ask(l.API(), w, "POST", "/api/v1/otps", in); got.Code != want {
			t.Errorf("%s: %d, want %d: %s", in, got.Code, want, got.Body)
		}
	}
}

// TestNothingReleasesOrWipesByWhoMayNot: what releases, wipes or speaks as a source needs the
// permission that is for it, by whatever route it comes (D4, D5).
func TestNothingReleasesOrWipesByWhoMayNot(t *testing.T) {
	const rule = `"rules":[{"name":"r","text":"t","expression":"good","on_failure":"wipe"}]`
	for _, x := range []struct {
		lacks        Permission
		method, path string
		in           string
	}{
		{GrantRelease, "PUT", "/api/v1/profiles/quick", `{"pool":"full","skip_quarantine":true}`},
		{GrantRelease, "PUT", "/api/v1/sources/new", `{"may_release":true}`},
		{GrantRelease, "PUT", "/api/v1/policies/p", `{"name":"p","agent_releases":true}`},
		{WipeDevices, "PUT", "/api/v1/policies/p", `{"name":"p",` + rule + `}`},
		{WipeDevices, "PUT", "/api/v1/conduct", `{"on_inactive":"wipe"}`},
		{WipeDevices, "PUT", "/api/v1/conduct", `{"act_after":"2d","alert_after":"1d"}`},
		{WipeDevices, "POST", "/api/v1/devices/dev1/wipe", `{}`},
		{WipeDevices, "POST", "/api/v1/devices/dev1/unwipe", `{}`},
		{WipeDevices, "POST", "/api/v1/devices/dev1/commands", `{"kind":"wipe"}`},
		{WipeDevices, "POST", "/api/v1/devices/dev1/commands", `{"kind":"erase"}`},
		{CommandDevices, "POST", "/api/v1/devices/dev1/commands", `{"kind":"lock"}`},
		{WriteReports, "POST", "/api/v1/hooks/hook/keys", ``},
		{GrantRelease, "POST", "/api/v1/hooks/hook/keys", ``},
		{WriteReports, "PUT", "/api/v1/sources/mdm/ssf", `{}`},
		{ReadDevices, "POST", "/api/v1/streams", `{}`},
		{WriteSessions, "POST", "/api/v1/devices/dev1/session", `{"user":"x"}`},
		{WriteAlerts, "POST", "/api/v1/alerts", `{"id":"x","action":"resolve"}`},
	} {
		l := newReleaseLab(t)
		var all, rest []string
		for _, p := range everything() {
			all = append(all, string(p))
			if p != x.lacks {
				rest = append(rest, string(p))
			}
		}
		with := l.must(t, who{cert: l.admin}, api.TokenRequest{Name: "with", Scope: "administrator", Permissions: all})
		without := l.must(t, who{cert: l.admin}, api.TokenRequest{Name: "without", Scope: "administrator", Permissions: rest})
		if got := l.ask(l.API(), without, x.method, x.path, x.in); got.Code != http.StatusForbidden {
			t.Errorf("%s %s %s without %s: %d %s", x.method, x.path, x.in, x.lacks, got.Code, got.Body)
		}
		if got := l.ask(l.API(), with, x.method, x.path, x.in); got.Code == http.StatusForbidden || got.Code == http.StatusUnauthorized {
			t.Errorf("%s %s %s with everything: %d %s", x.method, x.path, x.in, got.Code, got.Body)
		}
	}
}
