package clock

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// sample is one server's word: the true time lies within Distance of our time plus Offset.
type sample struct {
	Server   string
	Offset   time.Duration
	Distance time.Duration // root distance (RFC 5905 section 11.2), with the way to the server
}

// slack is added to every distance: what a busy machine may be late by.
const slack = 5 * time.Millisecond

// needed is how many of the configured servers must agree: more than half of them, so that
// one of three may lie or be dead. Of two, both that answer.
func needed(configured, answered int) int {
	if configured <= 2 {
		return max(answered, 1)
	}
	return configured/2 + 1
}

// agree returns the middle of where most samples overlap (Marzullo's algorithm, as in RFC 5905
// section 11.2.1), and the nearest of the servers that are part of it.
func agree(samples []sample, configured int) (time.Duration, string, error) {
	type edge struct {
		at   time.Duration
		kind int // -1 begins, 1 ends
	}
	var edges []edge
	for _, s := range samples {
		edges = append(edges, edge{s.Offset - s.Distance - slack, -1}, edge{s.Offset + s.Distance + slack, 1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), a.kind-b.kind) })
	best, count := 0, 0
	var low, high time.Duration
	for i, e := range edges {
		count -= e.kind
		if count > best {
			best, low, high = count, e.at, edges[i+1].at // the last edge ends
		}
	}
	if need := needed(configured, len(samples)); best < need {
		if len(samples) < need {
			return 0, "", fmt.Errorf("%d of %d time servers answered; %d must", len(samples), configured, need)
		}
		return 0, "", errors.New("the time servers do not agree")
	}
	middle := low + (high-low)/2
	var from sample
	for _, s := range samples {
		if (s.Offset-middle).Abs() <= s.Distance+slack && (from.Server == "" || s.Distance < from.Distance) {
			from = s
		}
	}
	return middle, from.Server, nil
}
