package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// fakeHooks remembers what it was asked.
type fakeHooks struct{ asked []string }

func (h *fakeHooks) Hook(_ context.Context, source string) (api.Hook, error) {
	return api.Hook{Source: source, URL: "https://gw.example.com/hooks/v1/" + source, Window: "5m0s", Keys: []api.HookKey{{ID: "k1"}}}, nil
}

func (h *fakeHooks) AddKey(_ context.Context, by quarantine.Actor, source string) (api.HookKey, error) {
	h.asked = append(h.asked, "add "+source+" by "+by.Name)
	return api.HookKey{ID: "k2", Secret: "whsec_x"}, nil
}

func (h *fakeHooks) RemoveKey(_ context.Context, _ quarantine.Actor, source, key string) error {
	h.asked = append(h.asked, "remove "+source+" "+key)
	if key == "k9" {
		return fmt.Errorf("removing: %w", ErrNotFound)
	}
	return nil
}

func (h *fakeHooks) SetWindow(_ context.Context, _ quarantine.Actor, source string, window time.Duration) error {
	h.asked = append(h.asked, fmt.Sprint("window ", source, " ", window))
	return nil
}

func TestWebhookKeys(t *testing.T) {
	l := newLab(t)
	fake := &fakeHooks{}
	l.Server.cfg.Hooks = fake
	l.sources.items["hook"] = Item[quarantine.Source]{Name: "hook", Value: quarantine.Source{Name: "hook", Kind: quarantine.SourceWebhook}}
	root := who{token: "lzt_root"}
	for _, try := range []struct {
		method, path, body string
		status             int
		asked              string
	}{
		{"POST", "/api/v1/hooks/hook/keys", "", http.StatusCreated, "add hook by root"},
		{"POST", "/api/v1/hooks/mdm/keys", "", http.StatusBadRequest, ""},
		{"POST", "/api/v1/hooks/nothing/keys", "", http.StatusBadRequest, ""},
		{"DELETE", "/api/v1/hooks/hook/keys/k1", "", http.StatusNoContent, "remove hook k1"},
		{"DELETE", "/api/v1/hooks/hook/keys/k9", "", http.StatusNotFound, "remove hook k9"},
		{"DELETE", "/api/v1/hooks/mdm/keys/k1", "", http.StatusBadRequest, ""},
		{"PUT", "/api/v1/hooks/hook", `{"window":"1m"}`, http.StatusOK, "window hook 1m0s"},
		{"PUT", "/api/v1/hooks/hook", `{"window":"soon"}`, http.StatusBadRequest, ""},
		{"GET", "/api/v1/hooks/hook", "", http.StatusOK, ""},
	} {
		fake.asked = nil
		w := l.ask(l.API(), root, try.method, try.path, try.body)
		if got := strings.Join(fake.asked, ","); w.Code != try.status || got != try.asked {
			t.Errorf("%s %s: status %d, asked %q, want %d, %q", try.method, try.path, w.Code, got, try.status, try.asked)
		}
		if strings.Contains(w.Body.String(), "whsec") != (w.Code == http.StatusCreated) {
			t.Errorf("%s %s answers %s", try.method, try.path, w.Body)
		}
	}
	w := l.ask(l.API(), root, "GET", "/api/v1/hooks", "")
	var all []api.Hook
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || len(all) != 1 || all[0].Source != "hook" {
		t.Errorf("listed %s, %v", w.Body, err)
	}
}
