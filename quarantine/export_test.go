package quarantine

import "time"

// ReadJournal is the journal's parser, for fuzzing without a disk.
var ReadJournal = readJournal

// Merged puts a change among those pending.
var Merged = merged

// WatchLock has f called at the end of every hold of the gate's lock, under it.
func (g *Gate) WatchLock(f func(held time.Duration)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.since, g.mu.watch = time.Now(), f
}

// ServeAgenda takes one device at a time, that many times, while there are always some of
// every urgency, and counts how many were timed, reported and clicked.
func ServeAgenda(turns int) (counts [3]int) {
	var a agenda
	for i := range turns {
		for u := timed; u <= clicked; u++ {
			a.put(&state{nth: i}, u)
		}
		before := [...]int{len(a.lines[timed]), len(a.lines[reported]), len(a.lines[clicked])}
		a.take(1)
		for u := range before {
			counts[u] += before[u] - len(a.lines[u+1])
		}
	}
	return counts
}
