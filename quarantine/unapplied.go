package quarantine

import "time"

// While there is no data plane, every move is in vain, and the next plan brings all of
// them: the log tells the first, and then how many they were, once a minute.

// tellEvery is how often the log tells of moves in vain, at the most.
const tellEvery = time.Minute

// tally counts what the log does not tell.
type tally struct {
	told  time.Duration // boot time of the last line; zero: none since the last plan
	since int           // moves in vain after that line
}

// unapplied notes a move that the data plane did not take. Nobody waits for its answer.
func (g *Gate) unapplied(id ID, err error) {
	now := g.Clock.Boot()
	g.mu.Lock()
	v := &g.vain
	if v.told != 0 && now-v.told < tellEvery {
		v.since++
		g.mu.Unlock()
		return
	}
	others := v.since
	v.told, v.since = now, 0
	g.mu.Unlock()
	g.Log.Warn("a device's move is not applied; the next plan brings it, unless it is the device's own matter",
		"device", id, "error", err, "others since the last such line", others)
}

// allApplied is called when a plan was taken: it has brought what was in vain.
func (g *Gate) allApplied() {
	g.mu.Lock()
	n := g.vain.since
	g.vain = tally{}
	g.mu.Unlock()
	if n > 0 {
		g.Log.Info("a plan brought moves that were not applied", "moves since the last line about them", n)
	}
}
