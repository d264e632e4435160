package main

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// What others do on the machine makes samples longer, never shorter: the least of each side
// is what counts, whichever rounds they are from.
func TestLeast(t *testing.T) {
	ours, base := rounds{{900, 320, 700}, {300, 5000}}, rounds{{210, 800}, {200}, {4000}}
	if got := ours.least(); got != 300 {
		t.Errorf("least %d, want 300", got)
	}
	if got := ours.leastOver(base); got != 1.5 {
		t.Errorf("ratio %v, want 1.5", got)
	}
	if got := ours.leastOver(nil); got != 0 {
		t.Errorf("ratio to nothing %v", got)
	}
}

func TestRates(t *testing.T) {
	r := rates{5, 1, 8, 2, 7, 3, 6, 4}
	if got := r.best(); got != 7.5 {
		t.Errorf("mean of the best quarter %v, want that of 7 and 8", got)
	}
	if got := r.median(); got != 4 {
		t.Errorf("median %v, want 4", got)
	}
	if got := (rates{3, 9}).best(); got != 9 {
		t.Errorf("best of two %v, want 9", got)
	}
	if (rates{}).best() != 0 || (rates{}).median() != 0 {
		t.Error("nothing has a rate")
	}
}

func TestChoose(t *testing.T) {
	names := func(list string) (out []string) {
		t.Helper()
		got, err := choose(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range got {
			out = append(out, g.name)
		}
		return out
	}
	if got := names(""); !slices.Equal(got, groupNames()) {
		t.Errorf("without names: %v", got)
	}
	if got := names("packet,move"); !slices.Equal(got, []string{"move", "packet"}) {
		t.Errorf("two names: %v", got)
	}
}

func TestMeminfo(t *testing.T) {
	text := []byte("MemTotal:       24683000 kB\nSlab:             395948 kB\nSUnreclaim:        49072 kB\nVmallocUsed:       14460 kB\nHugePages_Total:       0\n")
	if got := parseMeminfo(text, "SUnreclaim", "VmallocUsed"); got != (49072+14460)*1024 {
		t.Errorf("%d bytes", got)
	}
	if got := parseMeminfo(text, "Missing"); got != 0 {
		t.Errorf("a field that is not there has %d bytes", got)
	}
}

// A set's answer, as Linux 6.18 gives it.
func TestParseCount(t *testing.T) {
	answer := []byte{1, 0, 0, 0, 6, 0, 1, 0, 'x', 0, 0, 0, 6, 0, 2, 0, 's', 0, 0, 0, 8, 0, 20, 0, 0, 1, 0x86, 0xa0}
	if n, ok, err := parseCount(answer); n != 100_000 || !ok || err != nil {
		t.Errorf("%d, %v, %v; want 100000", n, ok, err)
	}
	if _, ok, err := parseCount(answer[:20]); ok || err != nil {
		t.Errorf("an answer without a number: %v, %v", ok, err)
	}
	if _, _, err := parseCount([]byte{1}); err == nil {
		t.Error("a byte was taken for an answer")
	}
}

// Example_row is a row as a person reads it.
func Example_row() {
	r := row{Name: "tunnel", Value: 1.5, Base: number(1.6), Unit: "Gbit/s", Ratio: number(0.9375), Bound: number(0.95), AtLeast: true}
	r.judge()
	fmt.Println(r, r.OK, millis(1500*time.Microsecond))
	// Output: tunnel: 1.50 Gbit/s against 1.60, ratio 0.938, bound >= 0.950 false 1.5
}
