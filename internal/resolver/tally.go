package resolver

import "sync"

// tally counts what is under way: in all, and of each device, so that one alone cannot use
// up what all share.
type tally[K comparable] struct {
	most, mostEach int

	mu   sync.Mutex
	all  int
	each map[K]int
}

func newTally[K comparable](most, mostEach int) *tally[K] {
	return &tally[K]{most: most, mostEach: mostEach, each: make(map[K]int)}
}

// enter reports whether there is room for one more of k. It does not wait.
func (t *tally[K]) enter(k K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all >= t.most || t.each[k] >= t.mostEach {
		return false
	}
	t.all++
	t.each[k]++
	return true
}

// leave undoes an enter that found room.
func (t *tally[K]) leave(k K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all--
	if t.each[k]--; t.each[k] == 0 {
		delete(t.each, k)
	}
}
