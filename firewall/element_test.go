package firewall

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/nftables"
	"pgregory.net/rapid"
)

// TestTimeout has the values worked out by hand.
func TestTimeout(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	now := Deadline(100 * s)
	for _, c := range []struct {
		until, now  Deadline
		slack, most time.Duration
		want        time.Duration // zero: refused
	}{
		{0, now, 0, time.Hour, 0},
		{-1, now, 0, time.Hour, 0},
		{math.MinInt64, now, 0, time.Hour, 0},
		{now, now, 0, time.Hour, 0},
		{now - 1, now, 0, time.Hour, 0},
		{now + 1, now, 0, time.Hour, 0},
		{now + Deadline(999*ms), now, 0, time.Hour, 0},
		{now + Deadline(s) - 1, now, 0, time.Hour, 0},
		{now + Deadline(s), now, 0, time.Hour, s},
		{now + Deadline(s), now, 1, time.Hour, 0},
		{now + Deadline(90*s) + 999999, now, 0, time.Hour, 90 * s},
		{now + Deadline(90*s), now, 20 * ms, time.Hour, 89*s + 980*ms},
		{now + Deadline(90*s), now, -20 * ms, time.Hour, 90 * s},
		{now + Deadline(90*s), now, 0, time.Minute, time.Minute},
		{now + Deadline(90*s), now, 0, 0, 0},
		{now + Deadline(90*s), now, 0, -1, 0},
		{now + Deadline(90*s), now, math.MaxInt64, time.Hour, 0},
		{math.MaxInt64, now, 0, math.MaxInt64, 366 * 24 * time.Hour},
		{math.MaxInt64, 0, 0, math.MaxInt64, 366 * 24 * time.Hour},
		{math.MaxInt64, math.MinInt64, 0, math.MaxInt64, 0},
		{math.MaxInt64, -1, 0, math.MaxInt64, 0},
	} {
		got, err := timeout(c.until, c.now, c.slack, c.most)
		if got != c.want || (err != nil) != (c.want == 0) || err != nil && !errors.Is(err, errOver) {
			t.Errorf("until %d, now %d, slack %s, most %s: got %s, %v, want %s", c.until, c.now, c.slack, c.most, got, err, c.want)
		}
	}
}

// TestNoTimeoutIsPermanent draws any values at all: what is written has a timeout the
// kernel takes as one, and ends no later than asked.
func TestNoTimeoutIsPermanent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		until, now := Deadline(rapid.Int64().Draw(t, "until")), Deadline(rapid.Int64().Draw(t, "now"))
		slack, most := time.Duration(rapid.Int64().Draw(t, "slack")), time.Duration(rapid.Int64().Draw(t, "most"))
		e, err := timed(keyed(1), until, now, slack, most)
		if err != nil {
			if e != (element{}) {
				t.Fatal("refused, and yet an element")
			}
			return
		}
		if e.timeout < time.Second || e.timeout%time.Millisecond != 0 || e.timeout > longest || e.timeout > most {
			t.Fatalf("timeout %s", e.timeout)
		}
		if Deadline(e.timeout) > until-now {
			t.Fatalf("timeout %s ends after the deadline", e.timeout)
		}
	})
}

// TestTimedSets checks the second guard: sets whose elements are timed have a default.
func TestTimedSets(t *testing.T) {
	for _, s := range fullRuleset().sets() {
		k := s.kernel(kernelTable("lazaret"))
		timed := map[string]bool{"fresh": true, "alive": true, "routed4": true, "routed6": true, "fixed4": true, "fixed6": true,
			"verified": true, "generation": true}[s.name]
		if k.HasTimeout != timed || (k.Timeout >= time.Second) != timed {
			t.Errorf("set %s: timeout %v of %s", s.name, k.HasTimeout, k.Timeout)
		}
		if k.Size != 0 {
			t.Errorf("set %s has a size, which refuses elements while expired ones linger", s.name)
		}
	}
}

// TestDefaultTimeout writes elements without a timeout on purpose, past the constructor.
func TestDefaultTimeout(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table, r := open(t), fullRuleset()
	must(t, table.Fill(r, Elements{}))
	for name, key := range map[string][]byte{"fresh": {2}, "alive": {10}, "routed4": {10, 98, 0, 2}, "fixed4": {10, 99, 0, 2}} {
		e := keyed(key...)
		if name == "fixed4" {
			e.mark = 1
		}
		table.add(r, batch{name: {e}})
		must(t, table.commit())
		got, err := table.conn.GetSetElements(&nftables.Set{Table: kernelTable("lazaret"), Name: name})
		must(t, err)
		if len(got) != 1 || got[0].Expires <= 0 {
			t.Errorf("%s: %+v, want one element that expires", name, got)
		}
	}
}

func TestAfter(t *testing.T) {
	if After(0) != 0 || After(-time.Second) != 0 {
		t.Error("a deadline in the past is one")
	}
	before := Now()
	if d := After(time.Hour); d < before+Deadline(time.Hour) || d > Now()+Deadline(time.Hour) {
		t.Errorf("an hour from now is %d, now is %d", d, before)
	}
}
