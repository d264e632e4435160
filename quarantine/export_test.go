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
