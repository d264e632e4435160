package stream

import (
	"fmt"
	"time"

	"lazaret/internal/audit"
)

// Types are the names of all events.
var Types = []string{
	"device.enrolled", "device.moved", "device.blocked", "device.unblocked", "device.revoked", "device.renewed", "device.lapsed",
	"command.issued", "command.cancelled", "command.result", "alert.raised", "alert.acknowledged", "alert.resolved", "ping",
}

// follows are the events that follow from an action in the audit log, whatever it moved.
var follows = map[string]string{
	"device.enroll": "device.enrolled", "device.reenroll": "device.enrolled", "device.block": "device.blocked",
	"device.unblock": "device.unblocked", "device.revoke": "device.revoked", "device.renew": "device.renewed", "device.lapse": "device.lapsed",
	"command.issue": "command.issued", "command.cancel": "command.cancelled", "command.result": "command.result",
	"alert.raise": "alert.raised", "alert.acknowledge": "alert.acknowledged", "alert.resolve": "alert.resolved",
}

// Event is what a receiver is told: the body of a webhook. Its form only ever grows while
// Version stays.
type Event struct {
	Type     string    `json:"type"`
	Time     time.Time `json:"timestamp"` // when it happened
	Version  int       `json:"version"`
	ID       string    `json:"id"`       // the same whenever it is told again
	Gateway  string    `json:"gateway"`  // that recorded it
	Sequence uint64    `json:"sequence"` // of the audit log; 0: a ping
	Revision int64     `json:"revision"` // of the store
	Data     Data      `json:"data"`
}

// Data is what an event is about.
type Data struct {
	Device  *Device           `json:"device,omitempty"`
	From    *Place            `json:"from,omitempty"` // device.moved
	To      *Place            `json:"to,omitempty"`
	Rule    string            `json:"rule,omitempty"`   // that decided
	Reason  string            `json:"reason,omitempty"` // one sentence
	Source  string            `json:"source,omitempty"` // whose report moved it
	Verdict string            `json:"verdict,omitempty"`
	Why     string            `json:"why,omitempty"`   // as a person gave it
	Until   string            `json:"until,omitempty"` // end of the present placement
	User    string            `json:"user,omitempty"`  // device.enrolled
	Profile string            `json:"profile,omitempty"`
	By      *Actor            `json:"by,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"` // of commands and alerts
	Subject string            `json:"subject,omitempty"`
}

// Device names a device.
type Device struct {
	ID   string `json:"id"`
	Name string `json:"name,omitempty"`
}

// Place is where a device stood or stands.
type Place struct {
	Stage string `json:"stage"`
	Pool  string `json:"pool,omitempty"`
}

// Actor is who did it. The address is told only where the receiver is to know it.
type Actor struct {
	Kind    string `json:"kind"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
}

const eventVersion = 1

// moved reports whether an entry moved its device.
func moved(e audit.Entry) bool {
	from, to := e.Detail["from"], e.Detail["to"]
	return e.Device != "" && from != "" && to != "" && (from != to || e.Detail["from pool"] != "" && e.Detail["from pool"] != e.Detail["pool"])
}

// events are what follows from an entry of the audit log: none from most.
func events(gateway string, n audit.Numbered) []Event {
	var out []Event
	add := func(name string) {
		out = append(out, Event{Type: name, Time: n.Time.UTC(), Version: eventVersion, ID: fmt.Sprintf("evt_%s_%d", n.ID, len(out)),
			Gateway: gateway, Sequence: n.Sequence, Revision: n.Revision, Data: data(n.Entry, name)})
	}
	if name := follows[n.Action]; name != "" {
		add(name)
	}
	if moved(n.Entry) {
		add("device.moved")
	}
	return out
}

func data(e audit.Entry, name string) Data {
	d := Data{By: &Actor{e.Actor.Kind, e.Actor.Name, e.Actor.Address}}
	if e.Device == "" || follows[e.Action] != "" && e.Detail["to"] == "" {
		d.Subject = e.Subject
		d.Detail = e.Detail
	}
	if e.Device == "" {
		return d
	}
	d.Device = &Device{ID: e.Device}
	if e.Detail["to"] == "" {
		return d
	}
	d.Device.Name = e.Subject
	d.To = &Place{e.Detail["to"], e.Detail["pool"]}
	if name == "device.moved" {
		pool := e.Detail["from pool"]
		if pool == "" {
			pool = e.Detail["pool"]
		}
		d.From = &Place{e.Detail["from"], pool}
	}
	d.Rule, d.Reason, d.Source, d.Verdict = e.Detail["rule"], e.Detail["reason"], e.Detail["source"], e.Detail["verdict"]
	d.Why, d.Until, d.User, d.Profile = e.Detail["why"], e.Detail["until"], e.Detail["user"], e.Detail["profile"]
	return d
}

// shown is the event as a receiver may know it.
func (e Event) shown(r Receiver) Event {
	if !r.Addresses && e.Data.By != nil {
		by := *e.Data.By
		by.Address = ""
		e.Data.By = &by
	}
	return e
}
