package screen

import (
	"slices"
	"time"

	"lazaret/appliance"
)

// pace bounds how often something is written: not twice within gap, and where a burst is
// given not more often than that many times in a row, once for each refill from then on.
// The zero pace bounds nothing.
type pace struct {
	gap, refill time.Duration
	burst       int

	last  time.Time
	spent int       // of burst
	since time.Time // when spent was right
}

// video and serial are the paces of the two kinds of console: a serial line may be kept as
// a log for years, and what flaps must not fill it.
func video() pace  { return pace{gap: time.Second} }
func serial() pace { return pace{gap: time.Second, refill: 30 * time.Second, burst: 20} }

// wait says how long to wait before writing; 0 is now, and counts as written.
func (p *pace) wait(now time.Time) time.Duration {
	if d := p.last.Add(p.gap).Sub(now); d > 0 && !p.last.IsZero() && d <= p.gap {
		return d
	}
	if p.burst > 0 {
		for p.spent > 0 && !now.Before(p.since.Add(p.refill)) {
			p.spent--
			p.since = p.since.Add(p.refill)
		}
		if p.spent == 0 {
			p.since = now
		}
		if p.spent == p.burst {
			return p.since.Add(p.refill).Sub(now)
		}
		p.spent++
	}
	p.last = now
	return 0
}

// newsGap is the gap of news: a person may be waiting for them, and a program is.
const newsGap = 100 * time.Millisecond

// news is wait for what was never written before: it need not wait for the burst, though it
// counts as part of it, and follows what was written after newsGap.
func (p *pace) news(now time.Time) time.Duration {
	free := *p
	free.gap, free.burst = min(p.gap, newsGap), 0
	if d := free.wait(now); d > 0 {
		return d
	}
	if p.wait(now) > 0 {
		p.last = now
	}
	return 0
}

// gist is what of a status somebody may be waiting for at the console: a new one is written
// at once. What comes again, as of a machine that goes to and fro, has the pace of all else.
type gist struct {
	stage       appliance.Stage
	code, print string
	ready       int // processes
}

func gistOf(st appliance.Status) gist {
	g := gist{stage: st.Stage, code: st.Code, print: st.Print}
	for _, p := range st.Parts {
		if p.Ready {
			g.ready++
		}
	}
	return g
}

// mostGists bounds what is remembered of them.
const mostGists = 16

// due says how long to wait before st is written, which has something new; 0 is now, and
// counts as written.
func (t *terminal) due(st appliance.Status, now time.Time) time.Duration {
	g := gistOf(st)
	if slices.Contains(t.gists, g) {
		return t.pace.wait(now)
	}
	wait := t.pace.news(now)
	if wait == 0 {
		t.gists = append(t.gists, g)
		if n := len(t.gists); n > mostGists {
			t.gists = slices.Clone(t.gists[n-mostGists:])
		}
	}
	return wait
}
