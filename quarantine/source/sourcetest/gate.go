// Package sourcetest stands in for the gate in tests of sources.
package sourcetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"lazaret/quarantine"
)

// Gate files reports in records as the real one does, and judges them by the plain policy.
type Gate struct {
	Source quarantine.Source
	Now    func() time.Time
	Calls  []int // reports in each call
	Refuse error // of every report, where set

	mu      sync.Mutex
	records map[quarantine.ID]quarantine.Record
	told    int
}

// NewGate makes a Gate that keeps those records, of devices that one source reports on.
func NewGate(src quarantine.Source, now func() time.Time, records ...quarantine.Record) *Gate {
	g := &Gate{records: map[quarantine.ID]quarantine.Record{}, Source: src, Now: now}
	for _, r := range records {
		g.records[r.ID] = r
	}
	return g
}

// Reports implements source.Gate.
func (g *Gate) Reports(_ context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.Calls = append(g.Calls, len(all))
	g.told += len(all)
	out := make([]quarantine.Result, len(all))
	for i, r := range all {
		switch {
		case g.Refuse != nil:
			out[i].Err = g.Refuse
			continue
		case by.Kind != "source" || by.Name != r.Source:
			out[i].Err = errors.New("not by the source itself")
			continue
		}
		next, err := g.records[r.Device].With(quarantine.Change{Kind: quarantine.Reported, Device: r.Device, By: by, At: g.Now(), Report: &r})
		if err != nil {
			out[i].Err = err
			continue
		}
		g.records[r.Device] = next
	}
	return out
}

// Change implements source.Gate: it refuses.
func (g *Gate) Change(context.Context, quarantine.Actor, quarantine.Change) (quarantine.Placement, error) {
	return quarantine.Placement{}, errors.New("not for pollers")
}

// Device implements source.Gate.
func (g *Gate) Device(id string) (quarantine.Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.records {
		if string(r.ID) == id || r.Name == id {
			return r, nil
		}
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

// BySerial implements source.Gate.
func (g *Gate) BySerial(serial string) []quarantine.Record {
	return slices.DeleteFunc(g.Devices(), func(r quarantine.Record) bool { return r.Serial != serial })
}

// Devices implements source.Gate.
func (g *Gate) Devices() []quarantine.Record {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []quarantine.Record
	for _, r := range g.records {
		out = append(out, r)
	}
	return out
}

// Released reports whether the device's reports release it.
func (g *Gate) Released(id quarantine.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return quarantine.PlainPolicy{}.Judge(quarantine.Facts{
		Now: g.Now(), Record: g.records[id], Sources: map[string]quarantine.Source{g.Source.Name: g.Source},
	}).Release
}

// Last is the last report on a device.
func (g *Gate) Last(id quarantine.ID) quarantine.Report {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.records[id].Reports[g.Source.Name]
}

// Told is how many reports came.
func (g *Gate) Told() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told
}
