package main

import (
	"slices"
	"time"
)

// samples are durations of one thing.
type samples []time.Duration

// quantile returns the smallest sample that at least the part q of all samples does not
// exceed; zero of none.
func (s samples) quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

func (s samples) median() time.Duration { return s.quantile(0.5) }

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rounds holds one set of samples for each round.
type rounds []samples

// median is the median of the rounds' medians.
func (r rounds) median() time.Duration {
	var m samples
	for _, s := range r {
		m = append(m, s.median())
	}
	return m.median()
}

// over is the median of the rounds' own ratios: what slows one round down slows both of
// its sides.
func (r rounds) over(base rounds) float64 {
	var ratios []float64
	for i := range min(len(r), len(base)) {
		if b := base[i].median(); b > 0 {
			ratios = append(ratios, float64(r[i].median())/float64(b))
		}
	}
	if len(ratios) == 0 {
		return 0
	}
	slices.Sort(ratios)
	return ratios[(len(ratios)-1)/2]
}

// least is the smallest sample: what the work itself takes on a machine that others use
// too, which can only add to it. Zero of none.
func (s samples) least() time.Duration { return s.quantile(0) }

// least is the smallest sample of all rounds.
func (r rounds) least() time.Duration {
	var m samples
	for _, s := range r {
		m = append(m, s.least())
	}
	return m.least()
}

// leastOver divides the smallest samples of all rounds; zero where there are none.
func (r rounds) leastOver(base rounds) float64 {
	b := base.least()
	if b == 0 {
		return 0
	}
	return float64(r.least()) / float64(b)
}

// rates are amounts in a time, of which more is better.
type rates []float64

func (r rates) median() float64 {
	if len(r) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(r))[(len(r)-1)/2]
}

// best is the mean of the best quarter, of one at least: what others use of the machine can
// only slow a turn down.
func (r rates) best() float64 {
	if len(r) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(r))
	sorted = sorted[len(sorted)-max(1, len(sorted)/4):]
	sum := 0.0
	for _, x := range sorted {
		sum += x
	}
	return sum / float64(len(sorted))
}
