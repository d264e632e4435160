package enroll

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Limits bound what strangers can make the desk do. Zero fields take the defaults.
type Limits struct {
	InFlight  int           // messages worked on at once; 64. A quarter more for addresses that fail often
	Queue     int           // messages waiting for that; 512. Beyond, or after Patience: 503
	Patience  time.Duration // 5 seconds
	Slowed    int           // refusals held back at once; 256. Beyond: 429 at once
	Delay     time.Duration // how long a slowed refusal is held back; 2 seconds
	SlowAfter int           // failures of one reference or address within Window that slow it down; 5
	AlertAt   int           // failures within Window that raise an alert; 50
	Window    time.Duration // 10 minutes
	Keys      int           // references remembered, and addresses; 32768 each

	// Audit entries that somebody can cause again and again, per Window. What is left out
	// is counted, and the count written once a minute.
	Entries int // refusals of strangers, and as many alerts about them; 30 each
	Holders int // refusals of those who hold a code or a certificate, and as many alarms; 600 each
	Each    int // of one such holder, refusals and alarms apart; 10
}

func (l Limits) withDefaults() Limits {
	ints := []struct {
		field *int
		value int
	}{{&l.InFlight, 64}, {&l.Queue, 512}, {&l.Slowed, 256}, {&l.SlowAfter, 5}, {&l.AlertAt, 50}, {&l.Keys, 32768},
		{&l.Entries, 30}, {&l.Holders, 600}, {&l.Each, 10}}
	for _, d := range ints {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	durations := []struct {
		field *time.Duration
		value time.Duration
	}{{&l.Patience, 5 * time.Second}, {&l.Delay, 2 * time.Second}, {&l.Window, 10 * time.Minute}}
	for _, d := range durations {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	return l
}

// limiter slows down who fails often, and bounds the work of everybody together. It
// locks nobody out: a valid MAC is answered at once however many failures came before
// it, since references travel in the clear and addresses are shared.
type limiter struct {
	Limits
	salt     [16]byte // references are kept as salted hashes
	ordinary lane
	suspect  lane // of addresses that fail often: they wait for each other, not for everybody
	slow     chan struct{}

	mu         sync.Mutex
	references tallies
	addresses  tallies

	// Four, so that no stranger uses up what is for others, and no refusal what is for an alarm.
	strangers, alerts budget // of audit entries about those without a valid MAC
	holders, alarms   budget // about the others
}

func newLimiter(l Limits) *limiter {
	l = l.withDefaults()
	m := &limiter{
		Limits:     l,
		ordinary:   newLane(l.InFlight, l.Queue),
		suspect:    newLane(max(1, l.InFlight/4), max(1, l.Queue/4)),
		slow:       make(chan struct{}, l.Slowed),
		references: tallies{},
		addresses:  tallies{},
	}
	m.strangers = budget{what: "refusals of strangers", most: m.Entries}
	m.alerts = budget{what: "alerts about strangers", most: m.Entries}
	m.holders = budget{what: "refusals and reports of devices and codes", most: m.Holders, each: m.Each, identities: tallies{}}
	m.alarms = budget{what: "alarms about devices and codes", most: m.Holders, each: m.Each, identities: tallies{}}
	_, _ = rand.Read(m.salt[:]) // never fails
	return m
}

// lane is how many may work at once, and how many may wait for it.
type lane struct{ work, queue chan struct{} }

func newLane(work, queue int) lane {
	return lane{make(chan struct{}, work), make(chan struct{}, queue)}
}

// enter waits for a turn to work. It returns nil when there is none to be had; else
// what must be called when the work is done.
func (m *limiter) enter(ctx context.Context, now time.Time, from netip.Prefix) (leave func()) {
	l := m.ordinary
	if m.slowed(now, from) {
		l = m.suspect
	}
	leave = func() { <-l.work }
	select {
	case l.work <- struct{}{}:
		return leave
	default:
	}
	select {
	case l.queue <- struct{}{}:
		defer func() { <-l.queue }()
	default:
		return nil
	}
	patience := time.NewTimer(m.Patience)
	defer patience.Stop()
	select {
	case l.work <- struct{}{}:
		return leave
	case <-patience.C:
	case <-ctx.Done():
	}
	return nil
}

func (m *limiter) slowed(now time.Time, from netip.Prefix) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses.count(addressKey(from), now, m.Window) >= m.SlowAfter
}

// fail counts a failure and says whether its answer is to be held back, and whether
// this very failure is the one that raises the alert.
func (m *limiter) fail(now time.Time, reference []byte, from netip.Prefix) (slow, alert bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.addresses.add(addressKey(from), now, m.Window, m.Keys)
	r := 0
	if reference != nil {
		r = m.references.add(m.referenceKey(reference), now, m.Window, m.Keys)
	}
	return a >= m.SlowAfter || r >= m.SlowAfter, a == m.AlertAt || r == m.AlertAt
}

// hold keeps a refusal back. It returns false, at once, when too many are held already.
func (m *limiter) hold(ctx context.Context) bool {
	select {
	case m.slow <- struct{}{}:
	default:
		return false
	}
	defer func() { <-m.slow }()
	delay := time.NewTimer(m.Delay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
	}
	return true
}

type tallyKey [16]byte

func addressKey(p netip.Prefix) (k tallyKey) {
	k = p.Addr().As16()
	return k
}

func (m *limiter) referenceKey(reference []byte) (k tallyKey) {
	sum := sha256.Sum256(append(m.salt[:], reference...))
	copy(k[:], sum[:])
	return k
}

// tally counts failures since the first one, and starts again a window later.
type tally struct {
	since time.Time
	n     int
}

func (t tally) over(now time.Time, window time.Duration) bool {
	age := now.Sub(t.since)
	return age >= window || age < 0
}

type tallies map[tallyKey]tally

func (t tallies) count(k tallyKey, now time.Time, window time.Duration) int {
	if v, ok := t[k]; ok && !v.over(now, window) {
		return v.n
	}
	return 0
}

func (t tallies) add(k tallyKey, now time.Time, window time.Duration, limit int) int {
	v, ok := t[k]
	if !ok && len(t) >= limit {
		t.evict(now, window)
	}
	if v.over(now, window) {
		v = tally{since: now}
	}
	v.n++
	t[k] = v
	return v.n
}

// evict makes room for one: of a few entries in Go's random order, the first that is
// over, else the one with the fewest failures. So a flood of new keys pushes out its own.
func (t tallies) evict(now time.Time, window time.Duration) {
	const tries = 16
	var victim tallyKey
	fewest, seen := 0, 0
	for k, v := range t {
		if seen == 0 || v.n < fewest {
			victim, fewest = k, v.n
		}
		seen++
		if v.over(now, window) {
			victim = k
			break
		}
		if seen == tries {
			break
		}
	}
	delete(t, victim)
}
