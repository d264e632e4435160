package daemon

import (
	"context"
	"errors"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// heard is the gate as the administration API asks it: it notes when a source was heard of.
// The other kinds of sources note it themselves.
type heard struct {
	*quarantine.Gate
	ledger *source.Ledger
}

// Change implements console.Gate.
func (h heard) Change(ctx context.Context, by quarantine.Actor, c quarantine.Change) (quarantine.Placement, error) {
	p, err := h.Gate.Change(ctx, by, c)
	if c.Kind == quarantine.Reported && c.Report != nil {
		h.note([]quarantine.Report{*c.Report}, []quarantine.Result{{Placement: p, Err: err}})
	}
	return p, err
}

// Reports implements console.Gate.
func (h heard) Reports(ctx context.Context, by quarantine.Actor, all []quarantine.Report) []quarantine.Result {
	results := h.Gate.Reports(ctx, by, all)
	h.note(all, results)
	return results
}

// note counts what was taken of each source. A source of which nothing was taken was not heard of.
func (h heard) note(all []quarantine.Report, results []quarantine.Result) {
	type count struct{ accepted, refused int }
	counts := map[string]*count{}
	for i, r := range results {
		name := all[i].Source
		if name == quarantine.AgentSource {
			continue
		}
		c := counts[name]
		if c == nil {
			c = &count{}
			counts[name] = c
		}
		if r.Err == nil || errors.Is(r.Err, quarantine.ErrNotEnforced) {
			c.accepted++
		} else {
			c.refused++
		}
	}
	kinds := map[string]quarantine.SourceKind{}
	for _, k := range h.ledger.List() {
		kinds[k.Source] = k.Kind
	}
	for name, c := range counts {
		if kind := kinds[name]; kind != "" && kind != quarantine.SourceAPI {
			h.ledger.Counted(name, kind, c.accepted, c.refused) // how it is asked does no better for it
		} else if c.accepted > 0 {
			h.ledger.Heard(name, quarantine.SourceAPI, time.Now(), c.accepted, c.refused)
		} else {
			h.ledger.Counted(name, quarantine.SourceAPI, 0, c.refused)
		}
	}
}
