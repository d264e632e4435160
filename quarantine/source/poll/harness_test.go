package poll

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/sourcetest"
)

// product gives what a test puts into it.
type product struct {
	mu    sync.Mutex
	pages [][]Host
	err   error // after the pages
	asked []time.Time
	one   func(id string) (Host, error)
	ones  []string
	now   func() time.Time
}

func (p *product) Hosts(_ context.Context, _ *Client, take func([]Host) error) error {
	p.mu.Lock()
	pages, err := p.pages, p.err
	p.asked = append(p.asked, p.now())
	p.mu.Unlock()
	for _, page := range pages {
		if err := take(page); err != nil {
			return err
		}
	}
	return err
}

func (p *product) Host(_ context.Context, _ *Client, id string) (Host, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ones = append(p.ones, id)
	if p.one == nil {
		return Host{}, ErrGone
	}
	return p.one(id)
}

// single is how many hosts were asked for one by one.
func (p *product) single() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ones)
}

func (p *product) set(err error, hosts ...Host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pages, p.err = nil, err
	if len(hosts) > 0 {
		p.pages = [][]Host{hosts}
	}
}

func (p *product) rounds() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time{}, p.asked...)
}

// lab is a poller with all that it needs.
type lab struct {
	*Poller
	gate    *sourcetest.Gate
	product *product
	ledger  *source.Ledger
	at      time.Time // what the clock shows; zero: the time itself
}

var (
	noon  = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	mdm   = quarantine.Source{Name: "mdm", Kind: quarantine.SourceFleet, MayRelease: true, MaxValidity: 2 * time.Hour, Facts: []string{"*"}}
	phone = quarantine.Record{Device: quarantine.Device{ID: "dev1", Name: "phone", Serial: "C02AAAA1"}}
)

func newLab(t *testing.T, at time.Time, change func(*Config), records ...quarantine.Record) *lab {
	t.Helper()
	l := &lab{at: at, ledger: &source.Ledger{}}
	now := func() time.Time {
		if l.at.IsZero() {
			return time.Now()
		}
		return l.at
	}
	client, err := NewClient(ClientConfig{Base: "https://mdm.example.com", Auth: Bearer("x"), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if len(records) == 0 {
		records = []quarantine.Record{phone}
	}
	l.gate, l.product = sourcetest.NewGate(mdm, now, records...), &product{now: now}
	c := Config{Name: "mdm", Source: mdm, Product: l.product, Client: client, Gate: l.gate, Ledger: l.ledger, Now: now, Interval: 5 * time.Minute}
	if change != nil {
		change(&c)
	}
	l.gate.Source = c.Source
	if l.Poller, err = New(c); err != nil {
		t.Fatal(err)
	}
	return l
}

// ask makes one round, after some time.
func (l *lab) ask(t *testing.T, later time.Duration) error {
	t.Helper()
	l.at = l.at.Add(later)
	return l.Round(t.Context())
}

func (l *lab) health(t *testing.T) source.Health {
	t.Helper()
	all := l.ledger.List()
	if len(all) != 1 {
		t.Fatalf("health of %d sources", len(all))
	}
	return all[0]
}

// host is a compliant host that is dev1, last in contact some time before noon.
func host(before time.Duration) Host {
	return Host{ID: "1", Serial: "C02AAAA1", Name: "phone", CheckedIn: noon.Add(-before), Verdict: quarantine.Compliant, Facts: map[string]string{"disk.encrypted": "true"}}
}

// bad makes it another verdict.
func (h Host) bad(v quarantine.Verdict) Host {
	h.Verdict = v
	return h
}

func (h Host) named(n int) Host {
	h.ID, h.Serial, h.Name = fmt.Sprint(n), fmt.Sprintf("SERIAL%d", n), fmt.Sprintf("host%d", n)
	return h
}

func device(n int) quarantine.Record {
	return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(fmt.Sprintf("d%05d", n)), Name: fmt.Sprintf("host%d", n), Serial: fmt.Sprintf("SERIAL%d", n)}}
}
