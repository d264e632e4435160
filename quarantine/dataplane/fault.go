package dataplane

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"lazaret/quarantine"
)

// fault is one device that is not as an order says, on the wire. The order was taken
// all the same: it is this device's matter alone.
type fault struct {
	Device quarantine.ID `json:"device"`
	Code   code          `json:"code"`
	Text   string        `json:"text,omitempty"`

	// Of an outdated one: the counters of what is enforced.
	Revision int64  `json:"revision,omitempty"`
	Tighten  uint64 `json:"tighten,omitempty"`
}

// newFault puts err on the wire.
func newFault(id quarantine.ID, err error) fault {
	m := encode(0, err)
	f := fault{Device: id, Code: m.Code, Text: short(m.Text, maxReason)}
	if k, ok := errors.AsType[*quarantine.Kept](err); ok {
		f.Revision, f.Tighten = k.Revision, k.Tighten
	}
	return f
}

// err is what the control plane makes of it.
func (f fault) err() error {
	if f.Code == outdated {
		return &remote{&quarantine.Kept{Revision: f.Revision, Tighten: f.Tighten}, f.Text}
	}
	return decode(message{Code: cmp.Or(f.Code, notEnforced), Text: f.Text})
}

const (
	maxFaults = 2048 // of one answer, at the most
	maxReason = 200  // bytes of one fault's text
	maxEvents = 100  // of one plan
)

// unmet is what the last plan left undone, ordered by device.
func (p *Plane) unmet() []fault {
	all := make(map[quarantine.ID]fault, len(p.lacking)+len(p.kept))
	for k, why := range p.lacking {
		id := p.mirror.keys[k]
		all[id] = newFault(id, fmt.Errorf("%w: %w", quarantine.ErrPeer, why))
	}
	for id, why := range p.kept { // of both, the one that a person must mend
		all[id] = newFault(id, why)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b fault) int { return cmp.Compare(a.Device, b.Device) })
}

// reportUnmet logs and tells of the devices that are not as the plan says. The answer
// lists them all; the events are for a control plane's log.
func (p *Plane) reportUnmet() {
	all := p.unmet()
	for i, f := range all {
		if i == maxEvents {
			p.log.Error("and more devices are not as the plan says", "devices", len(all)-i)
			return
		}
		p.log.Error("a device is not as the plan says", "device", f.Device, "error", f.Text)
		p.tell(Event{Kind: eventOf[f.Code], Device: f.Device, Detail: f.Text, Revision: f.Revision, Tighten: f.Tighten})
	}
}

var eventOf = map[code]EventKind{noPeer: NoPeer, outdated: Kept}

func short(text string, most int) string { return text[:min(most, len(text))] }

// withFaults adds to an answer as many faults as one frame takes, and the number of
// those left out.
func withFaults(m message, all []fault) message {
	for n := min(len(all), maxFaults); ; n /= 2 {
		m.Faults, m.More = all[:n], len(all)-n
		if _, err := frame(m); err == nil || n == 0 {
			return m
		}
	}
}
