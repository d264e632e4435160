package claim

import (
	"log/slog"
	"sync"
	"time"
)

// tellWrong is how often wrong proofs are told of.
const tellWrong = time.Minute

// tally counts wrong proofs. Whoever can reach the machine can give as many as the throttle
// lets through: each would be a line of a log that is small.
type tally struct {
	mu    sync.Mutex
	count int // not told of yet
	next  time.Time
}

// add counts one. The first is told of at once, the others with the first after a minute.
func (t *tally) add(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	if now := time.Now(); !now.Before(t.next) {
		t.next = now.Add(tellWrong)
		t.say(log)
	}
}

// tell tells of those nobody was told of.
func (t *tally) tell(log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count > 0 {
		t.say(log)
	}
}

// say is for whoever holds t.mu.
func (t *tally) say(log *slog.Logger) {
	log.Warn("claim refused: the proof of the code is wrong", "times", t.count)
	t.count = 0
}
