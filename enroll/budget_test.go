package enroll

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

func TestBudget(t *testing.T) {
	m := newLimiter(Limits{Entries: 10, Holders: 100, Each: 5, Window: 10 * time.Minute})
	now := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	flood := func(b *budget, identity string) (written int) {
		for range 100 {
			if m.entry(b, identity, now) {
				written++
			}
		}
		return written
	}
	if n := flood(&m.strangers, ""); n != 10 {
		t.Errorf("wrote %d of a flood, want 10", n)
	}
	if n := m.leftOut(&m.strangers, now.Add(59*time.Second)); n != 0 {
		t.Errorf("the count of %d was written within a minute", n)
	}
	if n, again := m.leftOut(&m.strangers, now.Add(time.Minute)), m.leftOut(&m.strangers, now.Add(time.Hour)); n != 90 || again != 0 {
		t.Errorf("%d left out, then %d; want 90, then nothing", n, again)
	}
	now = now.Add(time.Minute)
	if n := flood(&m.strangers, ""); n != 1 { // a tenth of the window has passed
		t.Errorf("wrote %d a minute later, want 1", n)
	}
	now = now.Add(10 * time.Minute)
	if n := flood(&m.strangers, ""); n != 10 {
		t.Errorf("wrote %d a window later, want 10", n)
	}
	if n := flood(&m.alerts, ""); n != 10 {
		t.Errorf("refusals of strangers left %d alerts, want 10", n)
	}
	for i := range 3 {
		if n := flood(&m.holders, fmt.Sprint("device ", i)); n != 5 {
			t.Errorf("device %d wrote %d, want 5", i, n)
		}
	}
	if n := flood(&m.alarms, "device 0"); n != 5 {
		t.Errorf("refusals left %d alarms, want 5", n)
	}
	now = now.Add(-time.Hour) // a clock set back must not silence anything
	if n := flood(&m.strangers, ""); n != 10 {
		t.Errorf("wrote %d after the clock went back, want 10", n)
	}
}

// TestFloodOfStrangers: what strangers can write, for as long as they like, is bounded to
// what a disk does not notice, and the log says how much it does not show.
func TestFloodOfStrangers(t *testing.T) {
	g := newGateway(t)
	d := g.holder(t, code.Code{Reference: "ZZZZZZZZ", Secret: "0123456789ABCDEF"})
	const minutes, each = 20, 50
	for minute := range minutes {
		for i := range each {
			d.from = fmt.Sprintf("198.51.%d.%d:1000", minute, i)
			d.post(d.genm())
		}
		g.later(time.Minute)
	}
	written, summaries, told := 0, 0, 0
	for _, e := range g.log.all() {
		switch e.Action {
		case "enroll.refuse":
			written++
		case "enroll.leftout":
			summaries++
			var n int
			fmt.Sscan(e.Detail["entries"], &n)
			told += n
		}
	}
	if most := 30 + 3*minutes; written > most || written < 30 {
		t.Errorf("%d refusals written in %d minutes, want 30 to %d", written, minutes, most)
	}
	if summaries < minutes/2 || summaries > minutes {
		t.Errorf("%d summaries in %d minutes, want about one a minute", summaries, minutes)
	}
	g.summarize(t.Context(), g.now())
	for _, e := range g.log.all()[len(g.log.all())-1:] {
		var n int
		fmt.Sscan(e.Detail["entries"], &n)
		told += n
	}
	if written+told != minutes*each {
		t.Errorf("%d written and %d counted, want %d in all", written, told, minutes*each)
	}
}

// TestNobodySilencesAnotherDevice: a device that floods the log with refusals and alarms
// of its own leaves room for the alarms about every other.
func TestNobodySilencesAnotherDevice(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Holders = 40 })
	noisy := g.device(t, Request{})
	noisy.enroll()
	thief := g.holder(t, noisy.code)
	for range 200 {
		if m := thief.parse(thief.post(thief.p10cr())); m.Body.Kind != cmp.Error { // an alarm each
			t.Fatalf("kind %d", m.Body.Kind)
		}
		noisy.edit = func(m *cmp.Message) { m.Body.Kind = cmp.KUR }
		noisy.refused(noisy.ir(), cmp.WrongIntegrity, "signed") // a refusal each
	}
	of := func(action string, code code.Code) (n int) {
		for _, e := range g.log.all() {
			if e.Action == action && e.OTP == code.Reference {
				n++
			}
		}
		return n
	}
	if a, r := of("enroll.alarm", noisy.code), of("enroll.refuse", noisy.code); a != 10 || r != 10 {
		t.Errorf("%d alarms and %d refusals of the noisy one, want 10 each", a, r)
	}
	victim := g.device(t, Request{})
	victim.enroll()
	other := g.holder(t, victim.code)
	other.refused(other.p10cr(), cmp.DuplicateCertReq, "other keys")
	if of("enroll.alarm", victim.code) != 1 {
		t.Error("the alarm about another device was silenced")
	}
}

// TestSummaryComesWithoutAnotherEntry: when a flood ends, housekeeping writes the count.
func TestSummaryComesWithoutAnotherEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, func(c *Config) { c.Clock = time.Now; c.Limits.Entries = 2 })
		done := make(chan struct{})
		go func() { defer close(done); g.Run(t.Context()) }()
		t.Cleanup(func() { <-done })
		synctest.Wait()
		d := g.holder(t, code.Code{Reference: "ZZZZZZZZ", Secret: "0123456789ABCDEF"})
		for range 4 {
			d.post(d.genm())
		}
		if g.log.has("enroll.leftout", "") {
			t.Error("the count came at once")
		}
		time.Sleep(2*time.Minute + time.Second)
		synctest.Wait()
		if !g.log.has("enroll.leftout", "2 refusals of strangers") {
			t.Errorf("log %+v", g.log.all())
		}
	})
}
