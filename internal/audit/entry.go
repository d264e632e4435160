// Package audit keeps the audit log: entries chained by SHA-256 in segment files, so
// that an edit, a deletion, a reordering and, with a saved head, a cut tail are found
// offline by anyone who has the files.
package audit

import "time"

// Actor is who did it.
type Actor struct {
	Kind    string `json:"kind"` // "administrator", "token", "device", "otp", "gateway", "stranger"
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"` // where the request came from
}

// Entry is one thing that happened.
type Entry struct {
	Version  int               `json:"v"`
	ID       string            `json:"id"`       // random, tells a repeated entry from a second one
	Revision int64             `json:"revision"` // of the store, at which the change was made
	Time     time.Time         `json:"time"`
	Actor    Actor             `json:"actor"`
	Action   string            `json:"action"` // noun.verb: "device.block", "otp.create", "pool.put"
	Device   string            `json:"device,omitempty"`
	Subject  string            `json:"subject,omitempty"` // name of what was acted on, for a person
	Detail   map[string]string `json:"detail,omitempty"`
}
