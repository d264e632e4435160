package poll

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// gate files reports in records as the real one does, and judges them by the plain policy.
type gate struct {
	mu      sync.Mutex
	records map[quarantine.ID]quarantine.Record
	source  quarantine.Source
	calls   []int // reports in each call
	all     []quarantine.Report
	refuse  error
	now     func() time.Time
}

func newGate(src quarantine.Source, now func() time.Time, records ...quarantine.Record) *gate {
	g := &gate{records: map[quarantine.ID]quarantine.Record{}, source: src, now: now}
	for _, r := range records {
		g.records[r.ID] = r
	}
	return g
}

func (g *gate) Reports(_ context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, len(all))
	g.all = append(g.all, all...)
	out := make([]quarantine.Result, len(all))
	for i, r := range all {
		switch {
		case g.refuse != nil:
			out[i].Err = g.refuse
			continue
		case by.Kind != "source" || by.Name != r.Source:
			out[i].Err = errors.New("not by the source itself")
			continue
		}
		next, err := g.records[r.Device].With(quarantine.Change{Kind: quarantine.Reported, Device: r.Device, By: by, At: g.now(), Report: &r})
		if err != nil {
			out[i].Err = err
			continue
		}
		g.records[r.Device] = next
	}
	return out
}

func (g *gate) Change(context.Context, quarantine.Actor, quarantine.Change) (quarantine.Placement, error) {
	return quarantine.Placement{}, errors.New("not for pollers")
}

func (g *gate) Device(id string) (quarantine.Record, error) {
	return g.records[quarantine.ID(id)], nil
}

func (g *gate) BySerial(string) []quarantine.Record { return nil }

func (g *gate) Devices() []quarantine.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []quarantine.Record
	for _, r := range g.records {
		out = append(out, r)
	}
	return out
}

// released reports whether the device's reports release it.
func (g *gate) released(id quarantine.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return quarantine.PlainPolicy{}.Judge(quarantine.Facts{
		Now: g.now(), Record: g.records[id], Sources: map[string]quarantine.Source{g.source.Name: g.source},
	}).Release
}

func (g *gate) last(id quarantine.ID) quarantine.Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.records[id].Reports[g.source.Name]
}

func (g *gate) told() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

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
	gate    *gate
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
	l.gate, l.product = newGate(mdm, now, records...), &product{now: now}
	c := Config{Name: "mdm", Source: mdm, Product: l.product, Client: client, Gate: l.gate, Ledger: l.ledger, Now: now, Interval: 5 * time.Minute}
	if change != nil {
		change(&c)
	}
	l.gate.source = c.Source
	if l.Poller, err = New(c); err != nil {
		t.Fatal(err)
	}
	return l
}

// ask makes one round, after some time.
func (l *lab) ask(t *testing.T, later time.Duration) error {
	t.Helper()
	l.at = l.at.Add(later)
	return l.round(t.Context())
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
