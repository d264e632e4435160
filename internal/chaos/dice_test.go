package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
)

// seedVariable says with which seed to draw, to repeat what a failed test drew. What the
// machine does meanwhile is not repeated.
const seedVariable = "CHAOS_SEED"

// seed is that of this process and of those that it starts.
var seed = func() uint64 {
	text := os.Getenv(seedVariable)
	if text == "" {
		return rand.Uint64()
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", seedVariable, err))
	}
	return n
}()

// dice draws everything that is random here.
var dice = newDice(seed)

func newDice(seed uint64) *rand.Rand { return rand.New(&lockedSource{from: rand.NewPCG(seed, 1)}) }

// lockedSource serves several goroutines.
type lockedSource struct {
	mu   sync.Mutex
	from rand.Source
}

// Uint64 implements rand.Source.
func (l *lockedSource) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from.Uint64()
}

// One seed draws one life of devices, and another one another.
func TestSeed(t *testing.T) {
	lives := func(seed uint64) (orders []string) {
		old := dice
		defer func() { dice = old }()
		dice = newDice(seed)
		l := &lab{acked: map[int]placement{}}
		for range 100 {
			n := 1 + dice.IntN(movers)
			o := l.draw(n)
			l.acked[n] = o.then
			orders = append(orders, fmt.Sprint(n, o.change.Kind, o.then))
		}
		return orders
	}
	first, again, other := fmt.Sprint(lives(7)), fmt.Sprint(lives(7)), fmt.Sprint(lives(8))
	if first != again || first == other {
		t.Errorf("the same seed draws the same: %v; another one the same: %v", first == again, first == other)
	}
}
