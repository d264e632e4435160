package console

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/console/api"
	"lazaret/internal/manage"
	"lazaret/quarantine"
)

// fakeManagement remembers orders.
type fakeManagement struct {
	orders   []manage.Order
	commands []manage.Command
	fail     error
	changed  chan struct{}
	wake     string
	fresh    []bool
}

func (m *fakeManagement) Issue(_ context.Context, by quarantine.Actor, _ quarantine.ID, o manage.Order) (manage.Command, error) {
	m.orders = append(m.orders, o)
	c := manage.Command{ID: "c-1", Kind: o.Kind, Args: o.Args, Why: o.Why, By: by, State: manage.Queued}
	if m.fail == nil {
		m.commands = append(m.commands, c)
	}
	return c, m.fail
}
func (m *fakeManagement) List(quarantine.ID) []manage.Command { return m.commands }
func (m *fakeManagement) Cancel(_ context.Context, _ quarantine.Actor, _ quarantine.ID, _ string) (manage.Command, error) {
	return manage.Command{ID: "c-1", State: manage.Cancelled}, m.fail
}
func (m *fakeManagement) Waiting(_ context.Context, _ quarantine.Record, fresh bool) (string, <-chan struct{}) {
	m.fresh = append(m.fresh, fresh)
	return m.wake, m.changed
}
func (m *fakeManagement) SignerChain(known string) [][]byte {
	if known == "01020304" {
		return nil
	}
	return [][]byte{{1}}
}
func (m *fakeManagement) Hello(context.Context, manage.Peer, agentapi.Hello) (agentapi.Welcome, error) {
	return agentapi.Welcome{}, m.fail
}
func (m *fakeManagement) Exchange(context.Context, manage.Peer, agentapi.Exchange) (agentapi.Orders, error) {
	return agentapi.Orders{}, m.fail
}

// TestCommandRoutes: what is ordered arrives, and what cannot be is told with the right
// status.
func TestCommandRoutes(t *testing.T) {
	l := newLab(t)
	m := &fakeManagement{}
	l.cfg.Manage = m
	admin := who{cert: l.admin}
	const path = "/api/v1/devices/dev1/commands"
	w := l.ask(l.API(), admin, "POST", path, `{"kind":"notify","why":"w","args":{"text":"hi"},"life":"2h"}`)
	var c api.Command
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || w.Code != http.StatusCreated || c.ID != "c-1" || c.State != "queued" || c.Over {
		t.Fatalf("%d %s %v", w.Code, w.Body, err)
	}
	if o := m.orders[0]; o.Kind != "notify" || o.Args["text"] != "hi" || o.Why != "w" || o.Life != 2*time.Hour || m.commands[0].By.Kind != "administrator" {
		t.Errorf("ordered %+v by %+v", o, m.commands[0].By)
	}
	for _, c := range []struct {
		method, path, body string
		fail               error
		status             int
	}{
		{"GET", path, "", nil, 200}, {"GET", path + "/c-1", "", nil, 200}, {"GET", path + "/c-2", "", nil, 404}, {"DELETE", path + "/c-1", "", nil, 200},
		{"DELETE", path + "/c-1", "", manage.ErrBegun, 409}, {"DELETE", path + "/c-1", "", manage.ErrNotFound, 404},
		{"POST", path, `{"kind":"lock"}`, manage.ErrFull, 409}, {"POST", path, `{"kind":"lock"}`, manage.ErrInvalid, 422}, {"POST", path, `{"kind":"lock"}`, quarantine.ErrFinal, 409},
		{"POST", path, `{"kind":"lock","life":"soon"}`, nil, 400}, {"POST", path, `{"kind":"lock","state":"done"}`, nil, 400},
		{"POST", "/api/v1/devices/nobody/commands", `{"kind":"lock"}`, nil, 404},
	} {
		m.fail = c.fail
		if w := l.ask(l.API(), admin, c.method, c.path, c.body); w.Code != c.status {
			t.Errorf("%s %s %s (%v): %d %s", c.method, c.path, c.body, c.fail, w.Code, w.Body)
		}
	}
	l.cfg.Manage = nil
	if w := l.ask(l.API(), admin, "GET", path, ""); w.Code != http.StatusNotFound {
		t.Errorf("without management: %d", w.Code)
	}
}

// TestCancelOnEnds: the watcher of a poll ends with it, whichever way it does.
func TestCancelOnEnds(t *testing.T) {
	changed := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	stop := cancelOn(ctx, changed, cancel)
	close(changed)
	<-ctx.Done()
	stop()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	stop = cancelOn(ctx, make(chan struct{}), cancel)
	stop()
	if ctx.Err() != nil {
		t.Error("cancelled although nothing changed")
	}
	cancelOn(ctx, nil, cancel)()
}
