// Package poll asks device management products, every so often, how their devices do, and
// hands the answers on as reports. What all of them share is here: when to ask, how long to
// wait after a failure, how much to read, which device of ours a host of theirs is, and how
// old its answer counts as. What a product's answers look like is in a package of its own.
//
// A product's word is as new as the device's own last contact with it, and not as new as the
// question: a device that was compliant when it was last seen, a month ago, is not compliant
// now. Where anything is missing, mistyped, unheard of or dated ahead, the device is unknown,
// which is not compliant.
package poll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// Host is what a product says of one device. The zero Host is unknown.
type Host struct {
	ID        string    // the product's own
	Serial    string    // hardware serial number
	Name      string    // of the computer
	CheckedIn time.Time // the device's own last contact that the verdict rests on; zero: none is known
	Verdict   quarantine.Verdict
	Validity  time.Duration // from CheckedIn, where the product ends it earlier than usual; else zero
	Detail    string        // why, one sentence
	Facts     map[string]string
	Fault     string // the field that could not be read, with what is wrong with it; the host is unknown then
}

// Product is one kind of product, as configured.
type Product interface {
	// Hosts hands over all hosts, page by page. It returns nil if, and only if, it has seen
	// every page. The first error of take ends it.
	Hosts(ctx context.Context, c *Client, take func(page []Host) error) error
}

// Single is a Product that can be asked for one host, by its own ID.
type Single interface {
	// Host returns the host; ErrGone if there is none of that ID.
	Host(ctx context.Context, c *Client, id string) (Host, error)
}

// ErrGone reports a host that the product does not have.
var ErrGone = errors.New("the product has no such host")

const (
	// DefaultInterval is the time between two rounds when nothing else is configured.
	DefaultInterval = 5 * time.Minute
	// MaxHosts bounds what one round reads.
	MaxHosts = 200_000
	// chunk is how many reports go to the gate in one call.
	chunk = 10_000

	firstBackoff = 30 * time.Second // after the first failure in a row; doubles with each
	lastBackoff  = 30 * time.Minute
	longestWait  = time.Hour // that a product may ask for
	hintSpacing  = 10 * time.Second
	maxHinted    = 50 // hosts asked one by one; for more, all are asked
)

// Config is what a Poller is made of.
type Config struct {
	Name    string            // required: of the source
	Source  quarantine.Source // required: its settings; a poller with other settings is another poller
	Product Product           // required
	Client  *Client           // required
	Gate    source.Gate       // required
	Ledger  *source.Ledger    // required

	// Profile returns an enrollment profile; required where Source.For names groups.
	Profile func(ctx context.Context, name string) (quarantine.Profile, error)

	Match    Match            // optional: MatchSerial
	Interval time.Duration    // optional: DefaultInterval
	Deadline time.Duration    // optional: of one round, 10 minutes
	Now      func() time.Time // optional: time.Now
	Log      *slog.Logger     // optional: discards
}

// Poller asks one product. Run starts it.
type Poller struct {
	Config
	hinted chan struct{} // capacity 1: something waits in hints

	mu    sync.Mutex
	hints map[string]bool // IDs of hosts to ask for soon
	all   bool            // or for all of them

	// Of the goroutine of Run alone:
	failures int
	twice    map[string]bool           // keys that several hosts had in the last complete round
	missing  map[quarantine.ID]int     // complete rounds in a row that lacked a device seen before
	refused  map[quarantine.ID]refusal // what the gate refused, so that it is not told again and again
}

// refusal is a report that the gate refused for good.
type refusal struct {
	at      time.Time
	verdict quarantine.Verdict
}

// New makes a Poller; Run starts it.
func New(c Config) (*Poller, error) {
	for what, missing := range map[string]bool{
		"name": c.Name == "", "product": c.Product == nil, "client": c.Client == nil, "gate": c.Gate == nil,
		"ledger": c.Ledger == nil, "profiles": c.Profile == nil && len(c.Source.For.Groups) > 0,
	} {
		if missing {
			return nil, fmt.Errorf("making poller %q: no %s", c.Name, what)
		}
	}
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	if c.Deadline <= 0 {
		c.Deadline = 10 * time.Minute
	}
	if c.Match == "" {
		c.Match = MatchSerial
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Poller{
		Config: c, hinted: make(chan struct{}, 1), hints: map[string]bool{}, twice: map[string]bool{},
		missing: map[quarantine.ID]int{}, refused: map[quarantine.ID]refusal{},
	}, nil
}

// Hint says that something changed at hosts with these IDs of the product's, or somewhere
// when there are none: they are asked for soon. It carries no fact and waits for nothing.
func (p *Poller) Hint(ids ...string) {
	p.mu.Lock()
	for _, id := range ids {
		if len(p.hints) <= maxHinted {
			p.hints[id] = true
		}
	}
	p.all = p.all || len(ids) == 0 || len(p.hints) > maxHinted
	p.mu.Unlock()
	select {
	case p.hinted <- struct{}{}:
	default:
	}
}

// Run asks until ctx ends; it returns nil then. The first round is at once.
func (p *Poller) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time // of the last attempt
	for {
		hint := p.hinted
		if p.failures > 0 {
			hint = nil // it waits for the product to be well again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			p.Hint() // a round of all, which takes hints with it
		case <-hint:
			if !pause(ctx, last.Add(hintSpacing).Sub(p.Now())) {
				return nil
			}
		}
		ids, all := p.takeHints()
		last = p.Now()
		if !all && p.askSome(ctx, ids) {
			continue
		}
		wait := p.delay(p.Round(ctx))
		timer.Reset(wait)
		p.Ledger.Next(p.Name, p.Source.Kind, p.Now().Add(wait))
	}
}

// takeHints empties what Hint left. Without any, all hosts are meant.
func (p *Poller) takeHints() (ids []string, all bool) {
	select {
	case <-p.hinted: // what it announced is taken now
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.hints {
		ids = append(ids, id)
	}
	all = p.all || len(ids) == 0
	p.all = false
	clear(p.hints)
	return ids, all
}

// delay is the time until the next round, after one that ended with err: the interval, or
// longer after each failure in a row, and never before the product wants to be asked again.
// It is a little less or more each time, so that gateways do not ask in step.
func (p *Poller) delay(err error) time.Duration {
	d := p.Interval
	if err != nil {
		p.failures++
		d = lastBackoff
		if n := p.failures - 1; n < 10 {
			d = min(firstBackoff<<n, lastBackoff)
		}
	} else {
		p.failures = 0
	}
	d = d*9/10 + rand.N(d/5+1)
	if t, ok := errors.AsType[*Throttled](err); ok {
		d = max(d, min(t.After, longestWait))
	}
	return d
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
