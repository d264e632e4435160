package webhook

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// Answer is the body of an answer to a message that was taken, and of one that is to be sent
// again.
type Answer struct {
	OK       bool     `json:"ok"`                 // nothing in it was refused
	Repeated bool     `json:"repeated,omitempty"` // it was taken before; nothing was done now
	Results  []Result `json:"results,omitempty"`  // of its reports, in their order
}

// Result is what became of one report: a decision, or a problem. It has the form of the
// administration API's answer to many reports.
type Result struct {
	Device   string    `json:"device"` // id, or what the report named where nothing is known by it
	Decision *Decision `json:"decision,omitempty"`
	Enforced bool      `json:"enforced"` // false with a decision: recorded, and enforced as soon as the data plane answers
	Problem  *Problem  `json:"problem,omitempty"`
}

// Decision is where a device stands now.
type Decision struct {
	Stage string    `json:"stage"`
	Pool  string    `json:"pool"`
	Until time.Time `json:"until,omitzero"`
}

// final are the errors that sending again does not mend, and that the sender may see.
var final = []struct {
	err    error
	remedy string
}{
	{errReport, "see docs/webhooks.md for the form"},
	{errTwins, "name the device by its id"},
	{quarantine.ErrUnknownDevice, "name it by id, name or serial number"},
	{quarantine.ErrForbidden, "ask an administrator what this source may speak for"},
	{quarantine.ErrStale, "send reports in the order they were made"},
	{quarantine.ErrFuture, "set the clock of the reporting server"},
	{quarantine.ErrFinal, "enroll it anew with a one-time password"},
	{quarantine.ErrMalformed, "see docs/webhooks.md for the form"},
	{quarantine.ErrBlocked, "ask an administrator to unblock it"},
}

var errTwins = errors.New("several devices have this serial number")

// reports hands reports to the gate, all in one call, and says what became of each, how many
// were refused, and whether the whole is to be sent again since some failed for a reason of
// the gateway's own. What is sent again and was taken says nothing new.
func (c *call) reports(all []report) (results []Result, refused int, again bool) {
	results = make([]Result, len(all))
	var good []quarantine.Report
	var at []int // of good, in results
	settle := func(i int, id quarantine.ID, err error) {
		p, ours := c.problem(id, err)
		results[i].Problem = &p
		again = again || ours
		refused++
	}
	for i, r := range all {
		results[i].Device = r.device
		id, err := quarantine.ID(""), r.problem
		if err == nil {
			id, err = c.find(r.device)
		}
		if err != nil {
			settle(i, id, err)
			continue
		}
		results[i].Device = string(id)
		r.Report.Device, r.Report.Source, r.Report.Received = id, c.name, c.now
		good, at = append(good, r.Report), append(at, i)
	}
	if len(good) == 0 {
		return results, refused, again
	}
	for n, got := range c.h.cfg.Gate.Reports(c.ctx, source.Actor(c.name, c.remote), good) {
		i := at[n]
		if got.Err != nil && !errors.Is(got.Err, quarantine.ErrNotEnforced) {
			settle(i, good[n].Device, got.Err)
			continue
		}
		p := got.Placement
		results[i].Decision = &Decision{string(p.Stage), p.Pool, p.Until}
		results[i].Enforced = got.Err == nil
	}
	return results, refused, again
}

// find returns a device by id, name or the serial number of one device that is not revoked.
func (c *call) find(ref string) (quarantine.ID, error) {
	d, err := c.h.cfg.Gate.Device(ref)
	if err != nil && !errors.Is(err, quarantine.ErrUnknownDevice) {
		return "", err
	}
	if err == nil && string(d.ID) == ref {
		return d.ID, nil
	}
	live := slices.DeleteFunc(slices.Clone(c.h.cfg.Gate.BySerial(ref)), func(d quarantine.Record) bool { return d.Stage == quarantine.Revoked })
	if err == nil { // by its name, unless another has that for a serial number
		if slices.ContainsFunc(live, func(other quarantine.Record) bool { return other.ID != d.ID }) {
			return "", fmt.Errorf("looking up %.64q: %w", ref, errTwins)
		}
		return d.ID, nil
	}
	switch len(live) {
	case 0:
		return "", fmt.Errorf("looking up %.64q: %w", ref, quarantine.ErrUnknownDevice)
	case 1:
		return live[0].ID, nil
	}
	return "", fmt.Errorf("looking up %.64q: %w", ref, errTwins)
}

// problem is what the sender may see of an error, and whether it is the gateway's own.
func (c *call) problem(id quarantine.ID, err error) (p Problem, ours bool) {
	if errors.Is(err, quarantine.ErrForbidden) {
		c.audit(&c.h.holders, source.Actor(c.name, c.remote), id, err.Error())
	}
	for _, f := range final {
		if errors.Is(err, f.err) {
			return Problem{err.Error(), f.remedy}, false
		}
	}
	if errors.Is(err, quarantine.ErrNotReady) {
		return Problem{err.Error(), "send it again in a few seconds"}, true
	}
	c.h.cfg.Log.Error("taking a webhook's report", "source", c.name, "device", string(id), "err", err)
	return Problem{"internal error", "send it again in a moment"}, true
}
