// Package posture reads what a device can say of itself: its system and how it is patched,
// its disk, screen lock, firewall and boot, and signs that somebody meddled with the agent.
// It judges nothing. A fact that cannot be read for certain is missing, never guessed: a
// missing fact does not count as good. Names of facts are those of quarantine/policy.
package posture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// DefaultTimeout is how long one collector may take.
const DefaultTimeout = 5 * time.Second

// Bounds of what is reported: a gateway takes 64 facts of 256 bytes.
const (
	maxFacts = 48
	maxValue = 256
)

// Posture is what the collectors found.
type Posture struct {
	At    time.Time         `json:"at"`
	Facts map[string]string `json:"facts"`
	// Missing names the collectors that told not all they could, and why, by name.
	Missing []Missing `json:"missing,omitempty"`
}

// Missing is a collector whose facts are missing, or some of them.
type Missing struct {
	Collector string `json:"collector"`
	Why       string `json:"why"`
}

// Collector reads a few facts that belong together. Read returns what it knows also
// together with an error, which says what is missing and why. It should end with ctx; one
// that does not is left behind, and not started anew until it has ended.
type Collector struct {
	Name string
	Read func(ctx context.Context) (map[string]string, error)
}

// Set runs collectors. It is safe for concurrent use.
type Set struct {
	collectors []Collector
	timeout    time.Duration

	mu   sync.Mutex
	busy map[string]bool // still running, perhaps since an earlier Collect
}

// NewSet makes a set whose collectors have the given time each; zero: DefaultTimeout.
func NewSet(timeout time.Duration, collectors ...Collector) *Set {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &Set{collectors: collectors, timeout: timeout, busy: map[string]bool{}}
}

// own is this machine's.
var own = sync.OnceValue(func() *Set { return NewSet(0, system()...) })

// Collect reads this device's posture. It takes DefaultTimeout at most.
func Collect(ctx context.Context) Posture { return own().Collect(ctx) }

// result is what one collector said.
type result struct {
	name  string
	facts map[string]string
	err   error
}

var (
	errSlow = errors.New("it did not answer in time")
	errBusy = errors.New("it has not ended since it was last asked")
)

// Collect runs all collectors side by side and returns when each has answered or used up
// its time: a hanging one costs its own facts and nothing else.
func (s *Set) Collect(ctx context.Context) Posture {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	out := Posture{At: time.Now().UTC(), Facts: map[string]string{}}
	answers := make(chan result, len(s.collectors)) // room for all: nobody blocks on it
	waiting := map[string]bool{}
	for _, c := range s.collectors {
		if !s.begin(c.Name) {
			out.miss(c.Name, errBusy)
			continue
		}
		waiting[c.Name] = true
		go s.run(ctx, c, answers) // ends with Read; begin sees to it that there is one
	}
	for len(waiting) > 0 {
		select {
		case r := <-answers:
			delete(waiting, r.name)
			out.add(r)
		case <-ctx.Done():
			for _, name := range slices.Sorted(maps.Keys(waiting)) {
				out.miss(name, errSlow)
			}
			waiting = nil
		}
	}
	slices.SortFunc(out.Missing, func(a, b Missing) int { return strings.Compare(a.Collector, b.Collector) })
	return out
}

func (s *Set) begin(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[name] {
		return false
	}
	s.busy[name] = true
	return true
}

// run asks one collector; one that panics has said nothing.
func (s *Set) run(ctx context.Context, c Collector, answers chan<- result) {
	r := result{name: c.Name}
	defer func() {
		if p := recover(); p != nil {
			r.facts, r.err = nil, fmt.Errorf("it failed: %v", p)
		}
		s.mu.Lock()
		delete(s.busy, c.Name)
		s.mu.Unlock()
		answers <- r
	}()
	r.facts, r.err = c.Read(ctx)
}

func (p *Posture) miss(name string, err error) {
	p.Missing = append(p.Missing, Missing{Collector: name, Why: clip(err.Error())})
}

// add takes one collector's facts; what is too large or no text is left out, and said.
func (p *Posture) add(r result) {
	for _, name := range slices.Sorted(maps.Keys(r.facts)) {
		v := r.facts[name]
		switch {
		case len(v) > maxValue || !plain(v):
			r.err = errors.Join(r.err, fmt.Errorf("%s is no short text", name))
		case len(p.Facts) >= maxFacts:
			r.err = errors.Join(r.err, fmt.Errorf("%s is one fact too many", name))
		case v != "":
			p.Facts[name] = v
		}
	}
	if r.err != nil {
		p.miss(r.name, r.err)
	}
}

// plain says that a value is one line of text.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func clip(s string) string {
	if s = strings.ReplaceAll(s, "\n", "; "); len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "")
	}
	return s
}

// yes is how a bool stands in a fact.
func yes(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// one is a single fact.
func one(name, value string) map[string]string { return map[string]string{name: value} }
