package code

import (
	"slices"
	"testing"
)

// TestCheckSymbolExhaustively: over the whole alphabet, for codes of both kinds, every wrong
// symbol at every place and every swap of any two symbols at any two places breaks the check.
// The check is linear, so what the other places hold does not matter. A code's first and last
// place have the same weight, and are the one exception.
func TestCheckSymbolExhaustively(t *testing.T) {
	for name, c := range map[string]struct {
		places   int // the check symbol's included
		check    func([]byte) byte
		unshown  [2]int // places whose swap does not show
		excepted bool
	}{
		"enrollment": {codeLen, check, [2]int{0, codeLen - 1}, true},
		"claim":      {21, shifted, [2]int{}, false},
		"longest":    {maxChecked + 1, shifted, [2]int{}, false},
	} {
		last := c.places - 1
		sound := func(v []byte) bool { return c.check(v[:last]) == v[last] }
		base := make([]byte, c.places)
		for i := range last {
			base[i] = byte(7*i+3) % 32
		}
		base[last] = c.check(base[:last])
		for i := range c.places {
			for wrong := range byte(32) {
				v := slices.Clone(base)
				if v[i] = wrong; sound(v) != (wrong == base[i]) {
					t.Errorf("%s: symbol %d as %d instead of %d passes", name, i+1, wrong, base[i])
				}
			}
		}
		for i := range c.places {
			for j := i + 1; j < c.places; j++ {
				missed := swapsMissed(base, i, j, c.check)
				if excepted := c.excepted && c.unshown == [2]int{i, j}; (missed > 0) != excepted {
					t.Errorf("%s: %d swaps of places %d and %d pass", name, missed, i+1, j+1)
				}
			}
		}
	}
}

// swapsMissed counts the pairs of different symbols that may be swapped at two places
// unnoticed, for every pair that can stand there.
func swapsMissed(base []byte, i, j int, check func([]byte) byte) (missed int) {
	last := len(base) - 1
	for a := range byte(32) {
		for b := range byte(32) {
			v := slices.Clone(base)
			v[i], v[j] = a, b
			if j < last {
				v[last] = check(v[:last])
			} else { // the check symbol is b: make it right by a place that is neither
				k := 1
				if i == 1 {
					k = 2
				}
				for v[k] = 0; check(v[:last]) != b; v[k]++ {
				}
			}
			v[i], v[j] = v[j], v[i]
			if a != b && check(v[:last]) == v[last] {
				missed++
			}
		}
	}
	return missed
}
