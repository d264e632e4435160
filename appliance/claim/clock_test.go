package claim

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// withClock is a machine whose clock says so.
func withClock(c Clock, seedCode bool) func(*KeeperConfig) {
	return func(k *KeeperConfig) { k.Clock, k.SeedCode = func() Clock { return c }, seedCode }
}

// TestClockIsTold: whoever asks what a machine offers learns its time, and what it rests on.
func TestClockIsTold(t *testing.T) {
	for _, want := range []Clock{{Time: time.Date(2001, 1, 1, 0, 1, 0, 0, time.UTC)}, {Time: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC), Synchronized: true}} {
		m := newMachine(t, withClock(want, false))
		got, err := AskOffer(t.Context(), m.address)
		if late := got.Clock.Time.Sub(want.Time); err != nil || got.Clock.Synchronized != want.Synchronized || late < 0 || late > time.Hour {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
	}
	// A machine that knows nothing of its clock vouches for nothing.
	if got, err := AskOffer(t.Context(), newMachine(t, nil).address); err != nil || got.Clock.Synchronized || time.Since(got.Clock.Time).Abs() > time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestClockOnThePage: the page says the time; where no time server vouches for it, a person
// does, or nothing is made. Whoever has a seed's code has no such question to answer.
func TestClockOnThePage(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 50, 0, 0, time.UTC)
	for name, x := range map[string]struct {
		clock    Clock
		seedCode bool
		says     string
		asked    bool
	}{
		"alone":        {Clock{Time: at}, false, "This machine's clock says 22 November 2026, 12:50 UTC, not compared with any time server.", true},
		"synchronized": {Clock{Time: at, Synchronized: true}, false, "This machine's clock says 22 November 2026, 12:50 UTC, as its time servers do.", false},
		"with a seed":  {Clock{Time: at}, true, "not compared with any time server.", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, withClock(x.clock, x.seedCode))
			v := newVisitor(t, m)
			status, text := v.get("/")
			if status != http.StatusOK || !strings.Contains(text, x.says) || strings.Contains(text, `name="clock"`) != x.asked {
				t.Errorf("%d %s", status, text)
			}
			form := filled(m.code.String())
			form.Del(entryClock)
			status, text = v.post("/", form)
			if refused := status == http.StatusUnprocessableEntity && strings.Contains(text, `id="clock-fault"`) && strings.Contains(text, "mdm.example.com"); refused != x.asked {
				t.Errorf("without a tick: %d %s", status, text)
			}
			if made, _ := m.count(); x.asked && made != 0 {
				t.Error("made without a tick")
			}
			if status, text = v.post("/", filled(m.code.String())); status != http.StatusOK || strings.Contains(text, formTitle) {
				t.Errorf("with a tick: %d %s", status, text)
			}
		})
	}
}

// TestClockOfAnAdministrator: one who is made at a gateway's screen is asked, too.
func TestClockOfAnAdministrator(t *testing.T) {
	m := newMachine(t, func(c *KeeperConfig) { c.Administrator = true })
	v := newVisitor(t, m)
	if status, text := v.post("/", map[string][]string{"code": {m.code.String()}, "administrator": {"ada"}}); status != http.StatusUnprocessableEntity || !strings.Contains(text, `id="clock-fault"`) {
		t.Errorf("%d %s", status, text)
	}
}

// TestURLOfAZone: RFC 6874, section 2; the address that is dialed keeps its zone.
func TestURLOfAZone(t *testing.T) {
	for address, want := range map[string]string{
		"[fe80::1%eth0]:443": "https://[fe80::1%25eth0]:443/claim/v1/about",
		"192.0.2.1:443":      "https://192.0.2.1:443/claim/v1/about",
		"[2001:db8::1]:8443": "https://[2001:db8::1]:8443/claim/v1/about",
	} {
		got := urlOf(address, aboutPath)
		r, err := http.NewRequest(http.MethodGet, got, nil)
		if got != want || err != nil || r.URL.Host != address {
			t.Errorf("%s: %s, %v", address, got, err)
		}
	}
}
