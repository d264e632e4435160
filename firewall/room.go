package firewall

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
)

// rooms are for how many elements sets were made, by name.
//
// The kernel keeps the elements of a timed set in a hash table that begins with next to no
// buckets. While one transaction adds very many, the table cannot be replaced by a larger one:
// the worker that does so waits for the processor that the transaction is using. What it needs
// meanwhile is hung behind the small one, table behind table, and each element that is added is
// looked for in all of them. That was half of what filling a table for 100,000 devices cost.
//
// So a set that is to hold many elements is made with a size, which is for how many the hash
// table begins. A size is a bound besides, and one is given to it that is of no consequence in
// the same transaction, which changes nothing else about the set. What comes upon it all the same leaves the
// table in doubt, and filling it gives its sets another.
//
// The sets that are not timed are made without: with a size the kernel keeps them
// in a table that never grows.
type rooms map[string]int

const (
	// manyElements is from how many on a set is made for its elements: up to there, growing costs little.
	manyElements = 4096
	// leastBound and boundFactor say how many elements a set that was made for some may hold.
	leastBound, boundFactor = 1 << 20, 8
)

// errSize says that the kernel did not lift a set's size (Linux before 6.6).
var errSize = errors.New("the kernel does not change the size of a set")

// bound is the size that a set made for n elements has in the end.
func bound(n int) uint32 { return uint32(min(max(leastBound, boundFactor*n), 1<<31)) }

// outgrown is for how many elements the sets are to be made anew; none if those that there are
// will do for b.
func (t *Table) outgrown(b batch) rooms {
	made, need := rooms{}, false
	for _, f := range families {
		for _, name := range []string{routedSet(f), fixedMap(f)} {
			if n := len(b[name]); n >= manyElements && !t.narrow {
				made[name] = n
				need = need || t.held == nil || n > 2*t.rooms[name]
			}
		}
	}
	if !need {
		return nil
	}
	return made
}

// makeRoom queues the making of a set for n elements.
func makeRoom(c *nftables.Conn, s *nftables.Set, n int) error {
	lifted := *s
	s.Size, lifted.Size = uint32(n), bound(n)
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	return c.AddSet(&lifted, nil)
}

// lifted looks whether the sets that were made for some elements take more than those.
func (t *Table) lifted(r Ruleset, made rooms) error {
	for name, n := range made {
		size, err := t.sizeOf(r.Table, name)
		if err != nil {
			t.held = nil
			return fmt.Errorf("%w: reading the size of %s: %w", ErrDoubt, name, err)
		}
		if size != bound(n) {
			return fmt.Errorf("%w: %s has %d, want %d", errSize, name, size, bound(n))
		}
	}
	if len(made) > 0 {
		t.rooms = made
	}
	return nil
}

// kernelSize is what sizeOf is outside of tests; zero is no bound.
func (t *Table) kernelSize(table, name string) (uint32, error) {
	s, err := t.conn.GetSetByName(kernelTable(table), name)
	if err != nil {
		return 0, err
	}
	return s.Size, nil
}
