// Package alert keeps what a person should know of and do something about: conditions that
// rules find, kept once however often they are found, acknowledged by people, resolved when
// the condition is gone, and told by mail and syslog. It changes nothing else.
package alert

import (
	"time"

	"lazaret/quarantine"
)

// Kind says which rule found it.
type Kind string

const (
	InactiveDevice Kind = "inactive-device" // G10
	InactiveMany   Kind = "inactive-many"   // more devices are due for a wipe at once than is done unasked
	SilentSource   Kind = "silent-source"
	FailingSource  Kind = "failing-source"
	Expiring       Kind = "certificate-expiring" // G12
	Guessing       Kind = "guessing"
	Quota          Kind = "quota"
	Clock          Kind = "clock" // rolled back, or jumped
	Enforcement    Kind = "enforcement"
	PolicyFault    Kind = "policy-fault"
	Stream         Kind = "stream"         // a receiver of events that cannot be reached
	Version        Kind = "version-behind" // G1
	Channel        Kind = "update-channel"
	Update         Kind = "update-failed"

	PoolFull       Kind = "pool-full"
	NameUnresolved Kind = "name-unresolved" // of what a pool reaches

	ServerCertificate Kind = "server-certificate" // G8
)

// Severity orders alerts.
type Severity string

const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// State is how far an alert has come. The empty state is none.
//
//	raised --acknowledge--> acknowledged
//	   \                        /
//	    +------- resolved -----+      (by itself, or by a person; raised again if it comes back)
type State string

const (
	Raised       State = "raised"
	Acknowledged State = "acknowledged"
	Resolved     State = "resolved"
)

// Condition is what a rule finds. Two with one Kind and Subject are the same.
type Condition struct {
	Kind     Kind
	Subject  string // what it is about: a device's ID, a source's name
	Severity Severity
	Text     string // one sentence
	Remedy   string // what to do, one sentence
}

// ID names the condition and its alert.
func (c Condition) ID() string {
	if c.Subject == "" {
		return string(c.Kind)
	}
	return string(c.Kind) + "/" + c.Subject
}

// Alert is a condition over time.
type Alert struct {
	V        int       `json:"v"`
	ID       string    `json:"id"`
	Kind     Kind      `json:"kind"`
	Subject  string    `json:"subject,omitempty"`
	Severity Severity  `json:"severity"`
	Text     string    `json:"text"`
	Remedy   string    `json:"remedy,omitempty"`
	State    State     `json:"state"`
	Since    time.Time `json:"since"` // raised for the last time
	First    time.Time `json:"first"` // raised for the first time
	Count    int       `json:"count"` // how often it was raised

	Acknowledgement quarantine.Decision `json:"acknowledgement,omitzero"`
	Resolution      quarantine.Decision `json:"resolution,omitzero"`

	// Told is what each outlet was told last: the alert's Count and State.
	Told map[string]string `json:"told,omitempty"`
}

// raise returns the alert with the condition in it; changed says whether that is news.
func (a Alert) raise(c Condition, now time.Time) (next Alert, changed bool) {
	fresh := a.State != Raised && a.State != Acknowledged
	worse := !fresh && c.Severity == Critical && a.Severity != Critical
	if fresh || worse {
		if a.First.IsZero() {
			a.First = now
		}
		a.Since, a.State, a.Count = now, Raised, a.Count+1
		a.Acknowledgement, a.Resolution = quarantine.Decision{}, quarantine.Decision{}
	}
	changed = fresh || worse || a.Severity != c.Severity || a.Text != c.Text || a.Remedy != c.Remedy
	a.V, a.ID, a.Kind, a.Subject = 1, c.ID(), c.Kind, c.Subject
	a.Severity, a.Text, a.Remedy = c.Severity, c.Text, c.Remedy
	return a, changed
}

// resolve returns the alert as resolved by somebody.
func (a Alert) resolve(by quarantine.Actor, why string, now time.Time) Alert {
	a.State, a.Resolution = Resolved, quarantine.Decision{By: by, At: now, Why: why}
	return a
}

// rank orders severities, the worst last.
func (s Severity) rank() int {
	switch s {
	case Critical:
		return 2
	case Warning:
		return 1
	default:
		return 0
	}
}
