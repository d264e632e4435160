package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// wires keeps connections of sources of kind fleet, as far as these tests go.
type wires struct {
	kept    map[string]api.ConnectionRequest
	gone    []string
	changed int
}

func (*wires) Validity(kind quarantine.SourceKind) (time.Duration, bool) {
	return 2 * time.Hour, kind == quarantine.SourceFleet
}

func (f *wires) Connection(_ context.Context, src quarantine.Source) (api.Connection, error) {
	q := f.kept[src.Name]
	out := api.Connection{Source: src.Name, Kind: string(src.Kind), Settings: q.Settings, Secrets: []string{}, Revision: q.Revision}
	for name := range q.Secrets {
		out.Secrets = append(out.Secrets, name)
	}
	return out, nil
}

func (f *wires) Connect(_ context.Context, _ quarantine.Actor, src quarantine.Source, q api.ConnectionRequest) error {
	if q.Settings["url"] == nil {
		return fmt.Errorf("%w: url: it is needed", ErrInvalid)
	}
	f.kept[src.Name] = q
	return nil
}

func (f *wires) Changed() { f.changed++ }

func (f *wires) Forget(_ context.Context, _ quarantine.Actor, name string) error {
	f.gone = append(f.gone, name)
	return nil
}

func newSourceLab(t *testing.T) (*lab, *wires) {
	l, w := newLab(t), &wires{kept: map[string]api.ConnectionRequest{}}
	l.cfg.Connections = w
	l.cfg.Health = func() []api.SourceHealth {
		return []api.SourceHealth{{Source: "mdm", Kind: "api", Accepted: 5, Problem: "none to speak of"}}
	}
	return l, w
}

func body[T any](t *testing.T, l *lab, w who, method, path, in string) (v T) {
	t.Helper()
	got := l.ask(l.API(), w, method, path, in)
	if got.Code != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, got.Code, got.Body)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestSourceSettings: what a source may speak for and of comes back as it was saved, and
// nothing that makes no sense is saved.
func TestSourceSettings(t *testing.T) {
	l, wires := newSourceLab(t)
	root := who{cert: l.admin}
	v := body[api.Source](t, l, root, "PUT", "/api/v1/sources/fleet", `{"kind":"fleet","may_release":true,"max_validity":"","for":{"platforms":["macos"],"groups":["staff"]},"facts":["os.*","disk.encrypted"],"silent":"6h"}`)
	if v.Kind != "fleet" || !v.MayRelease || v.MaxValidity != "2h0m0s" || v.Silent != "6h0m0s" || !slices.Equal(v.Facts, []string{"os.*", "disk.encrypted"}) ||
		!slices.Equal(v.For.Platforms, []string{"macos"}) || !slices.Equal(v.For.Groups, []string{"staff"}) || wires.changed != 1 {
		t.Errorf("saved as %+v", v)
	}
	kept := l.sources.items["fleet"].Value
	if kept.Kind != quarantine.SourceFleet || kept.MaxValidity != 2*time.Hour || !kept.Speaks("os.name") || kept.Speaks("mdm.compliant") {
		t.Errorf("kept as %+v", kept)
	}
	if shown := body[api.Source](t, l, root, "GET", "/api/v1/sources/fleet", ""); shown.Name != "fleet" || shown.Revision == 0 {
		t.Errorf("shown as %+v", shown)
	}
	v = body[api.Source](t, l, root, "PUT", "/api/v1/sources/plain", `{"may_release":false}`)
	if v.Kind != "api" || len(v.Facts) != 0 || v.MaxValidity != "" {
		t.Errorf("saved as %+v: nothing was asked for", v)
	}
	for in, want := range map[string]int{
		`{"kind":"sccm"}`: 400, `{"facts":["*.x"]}`: 400, `{"max_validity":"-1h"}`: 400, `{"silent":"soon"}`: 400, `{"name":"other"}`: 400, `{"roles":["admin"]}`: 400,
	} {
		if got := l.ask(l.API(), root, "PUT", "/api/v1/sources/new", in); got.Code != want {
			t.Errorf("%s: %d %s", in, got.Code, got.Body)
		}
	}
	for _, name := range []string{"agent", "health"} {
		if got := l.ask(l.API(), root, "PUT", "/api/v1/sources/"+name, `{}`); got.Code != http.StatusBadRequest {
			t.Errorf("a source named %s: %d", name, got.Code)
		}
	}
	if got := l.ask(l.API(), root, "PUT", "/api/v1/sources/fleet", fmt.Sprintf(`{"kind":"jamf","revision":%d}`, kept0(l))); got.Code != http.StatusBadRequest {
		t.Errorf("another kind: %d %s", got.Code, got.Body)
	}
}

func kept0(l *lab) int64 { return l.sources.items["fleet"].Revision }

func TestSourceHealth(t *testing.T) {
	l, _ := newSourceLab(t)
	root := who{cert: l.admin}
	if all := body[[]api.SourceHealth](t, l, root, "GET", "/api/v1/sources/health", ""); len(all) != 1 || all[0].Accepted != 5 {
		t.Errorf("all: %+v", all)
	}
	if h := body[api.SourceHealth](t, l, root, "GET", "/api/v1/sources/mdm/health", ""); h.Accepted != 5 {
		t.Errorf("one: %+v", h)
	}
	if h := body[api.SourceHealth](t, l, root, "GET", "/api/v1/sources/scanner/health", ""); h.Source != "scanner" || !h.Heard.IsZero() || h.Kind != "api" {
		t.Errorf("one that was never heard of: %+v", h)
	}
	if got := l.ask(l.API(), root, "GET", "/api/v1/sources/nothing/health", ""); got.Code != http.StatusNotFound {
		t.Errorf("one that is not there: %d", got.Code)
	}
}

// TestReleaseIsGrantedByWhoHasIt: nobody makes a source that may release, or says who it is,
// without that right of their own (D4).
func TestReleaseIsGrantedByWhoHasIt(t *testing.T) {
	scopes["clerk"] = []Permission{ReadOrganization, WriteOrganization, ReadTokens, WriteTokens, WriteReports}
	t.Cleanup(func() { delete(scopes, "clerk") })
	l, wires := newSourceLab(t)
	clerk, root := who{token: "lzt_odd"}, who{cert: l.admin}
	l.tokens.items["odd"] = Item[Token]{Name: "odd", Value: Token{Name: "odd", Scope: "clerk"}}
	ask := func(w who, path, in string, want int) {
		t.Helper()
		if got := l.ask(l.API(), w, "PUT", path, in); got.Code != want {
			t.Errorf("%s %s: %d, want %d: %s", path, in, got.Code, want, got.Body)
		}
	}
	ask(clerk, "/api/v1/sources/fleet", `{"kind":"fleet","may_release":true}`, 403)
	ask(clerk, "/api/v1/sources/fleet", `{"kind":"fleet"}`, 200)
	ask(clerk, "/api/v1/sources/fleet/settings", `{"settings":{"url":"https://a"}}`, 200)
	ask(clerk, "/api/v1/sources/fleet", fmt.Sprintf(`{"kind":"fleet","may_release":true,"revision":%d}`, kept0(l)), 403)
	ask(root, "/api/v1/sources/fleet", fmt.Sprintf(`{"kind":"fleet","may_release":true,"revision":%d}`, kept0(l)), 200)
	ask(clerk, "/api/v1/sources/fleet/settings", `{"settings":{"url":"https://evil"}}`, 403)
	if wires.kept["fleet"].Settings["url"] != "https://a" {
		t.Errorf("a releasing source was pointed elsewhere: %v", wires.kept["fleet"])
	}
	ask(clerk, "/api/v1/sources/fleet", fmt.Sprintf(`{"kind":"fleet","facts":["*"],"may_release":true,"revision":%d}`, kept0(l)), 403)
	ask(clerk, "/api/v1/sources/fleet", fmt.Sprintf(`{"kind":"fleet","revision":%d}`, kept0(l)), 200) // to take it away is nobody's privilege
}

type anySignals struct{ Signals }

func (anySignals) LiftAccount(context.Context, quarantine.Actor, string, string) error { return nil }

// TestAccountsAreLiftedByWhoMayGrantRelease: what a releasing source holds against an account
// is taken back by nobody who may not let it release.
func TestAccountsAreLiftedByWhoMayGrantRelease(t *testing.T) {
	scopes["clerk"] = []Permission{ReadOrganization, WriteOrganization, ReadTokens, WriteTokens, WriteReports}
	t.Cleanup(func() { delete(scopes, "clerk") })
	l := newLab(t)
	l.cfg.Signals = anySignals{}
	l.tokens.items["odd"] = Item[Token]{Name: "odd", Value: Token{Name: "odd", Scope: "clerk"}, Revision: 1}
	for _, releases := range []bool{true, false} {
		l.sources.items["idp"] = Item[quarantine.Source]{Name: "idp", Value: quarantine.Source{Name: "idp", Kind: quarantine.SourceSSF, MayRelease: releases}, Revision: 1}
		want := http.StatusNoContent
		if releases {
			want = http.StatusForbidden
		}
		if got := l.ask(l.API(), who{token: "lzt_odd"}, "DELETE", "/api/v1/sources/idp/ssf/accounts/ann", ""); got.Code != want {
			t.Errorf("releases %v: %d %s", releases, got.Code, got.Body)
		}
	}
}

func TestConnections(t *testing.T) {
	l, wires := newSourceLab(t)
	root := who{cert: l.admin}
	body[api.Source](t, l, root, "PUT", "/api/v1/sources/fleet", `{"kind":"fleet"}`)
	got := l.ask(l.API(), root, "PUT", "/api/v1/sources/fleet/settings", `{"settings":{"url":"https://fleet.example.com","policies":["a","b"]},"secrets":{"token":"se-cret"}}`)
	if got.Code != http.StatusOK || strings.Contains(got.Body.String(), "se-cret") || *wires.kept["fleet"].Secrets["token"] != "se-cret" {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	shown := l.ask(l.API(), root, "GET", "/api/v1/sources/fleet/settings", "")
	if shown.Code != http.StatusOK || strings.Contains(shown.Body.String(), "se-cret") || !strings.Contains(shown.Body.String(), `"token"`) {
		t.Errorf("%d %s", shown.Code, shown.Body)
	}
	if strings.Contains(l.log.String(), "se-cret") {
		t.Error("the log holds a secret")
	}
	for path, want := range map[string]int{"/api/v1/sources/mdm/settings": 400, "/api/v1/sources/nothing/settings": 404} {
		if got := l.ask(l.API(), root, "PUT", path, `{"settings":{"url":"https://a"}}`); got.Code != want {
			t.Errorf("%s: %d %s", path, got.Code, got.Body)
		}
	}
	if got := l.ask(l.API(), root, "PUT", "/api/v1/sources/fleet/settings", `{"settings":{}}`); got.Code != http.StatusUnprocessableEntity || !strings.Contains(got.Body.String(), "url") {
		t.Errorf("%d %s", got.Code, got.Body)
	}
	if got := l.ask(l.API(), root, "DELETE", "/api/v1/sources/fleet", ""); got.Code != http.StatusNoContent || !slices.Equal(wires.gone, []string{"fleet"}) {
		t.Errorf("%d, forgotten %v", got.Code, wires.gone)
	}
	if got := l.ask(l.API(), root, "DELETE", "/api/v1/sources/mdm", ""); got.Code != http.StatusConflict || len(wires.gone) != 1 {
		t.Errorf("a source with a token: %d, forgotten %v", got.Code, wires.gone)
	}
}
