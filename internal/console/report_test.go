package console

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

// TestManyReportsTakeLittleMemory: a body that unfolds to more than reports may hold is not
// kept, whether there are too many reports or too much in each.
func TestManyReportsTakeLittleMemory(t *testing.T) {
	l := newLab(t)
	fill := func(element string, n int) string { return "[" + strings.Repeat(element+",", n-1) + element + "]" }
	var facts strings.Builder // as many in one report as a thousandth of a body holds
	for i := range 1000 / len(`"aa":"",`) {
		facts.WriteString(`,"` + string(rune('a'+i/26)) + string(rune('a'+i%26)) + `":""`)
	}
	for what, c := range map[string]struct {
		body string
		want int
	}{
		"nothing in many":      {fill("{}", maxBody/3-1), http.StatusBadRequest},
		"much in each":         {fill(`{"device":"dev1","verdict":"compliant","facts":{`+facts.String()[1:]+`}}`, 950), http.StatusOK},
		"too many":             {fill("{}", maxReports+1), http.StatusBadRequest},
		"as many as there may": {fill("{}", maxReports), http.StatusOK},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch", c.body)
		runtime.ReadMemStats(&after)
		if got.Code != c.want {
			t.Errorf("%s: %d %.200s", what, got.Code, got.Body)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 40*maxBody { // and nearly all of it is let go at once
			t.Errorf("%s: %d bytes of body took %d MiB", what, len(c.body), took>>20)
		} else {
			t.Logf("%s: %d bytes of body took %d KiB", what, len(c.body), took>>10)
		}
	}
	if len(l.gate.changes) > 0 {
		t.Errorf("%d of them were taken", len(l.gate.changes))
	}
	for _, broken := range []string{"[", "[{}", "[{},", "[{}}", "[{}] {}", "null", `"x"`, `[{"unknown":1}]`, "[1]"} {
		if got := l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports/batch", broken); got.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", broken, got.Code, got.Body)
		}
	}
}

type countRefused struct{ why []string }

func (c *countRefused) Refused(_ context.Context, _ quarantine.Actor, _ quarantine.ID, why string) error {
	c.why = append(c.why, why)
	return nil
}

// TestTokenFillsNoAuditLog: what a token is refused is named some times a minute; the rest is
// counted, and told with the next that is named.
func TestTokenFillsNoAuditLog(t *testing.T) {
	l, c := newLab(t), &countRefused{}
	now := time.Now()
	l.cfg.Refused, l.cfg.Now = c, func() time.Time { return now }
	ask := func() {
		l.ask(l.API(), who{token: "lzt_mdm"}, "POST", "/api/v1/reports", `{"device":"dev1","source":"scanner","verdict":"compliant"}`)
	}
	for range refusalsEach + 100 {
		ask()
	}
	if len(c.why) != refusalsEach {
		t.Fatalf("%d refusals are named in a minute, want %d", len(c.why), refusalsEach)
	}
	now = now.Add(time.Minute)
	ask()
	ask()
	if len(c.why) != refusalsEach+2 || !strings.Contains(c.why[refusalsEach], "(100 refusals before it") || strings.Contains(c.why[refusalsEach+1], "before it") {
		t.Errorf("the next minute: %q", c.why[refusalsEach:])
	}
}
