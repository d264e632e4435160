package quarantine

import (
	"sync"
	"time"
)

// lock is a mutex that can tell how long it was held.
type lock struct {
	sync.Mutex
	since time.Time
	watch func(held time.Duration) // tests: called at the end of every hold, under the lock
}

func (l *lock) Lock() {
	l.Mutex.Lock()
	if l.watch != nil {
		l.since = time.Now()
	}
}

func (l *lock) Unlock() {
	if l.watch != nil {
		l.watch(time.Since(l.since))
	}
	l.Mutex.Unlock()
}
