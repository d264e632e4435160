package api

import "time"

// CommandRequest orders a device to do something (N7).
type CommandRequest struct {
	Kind string            `json:"kind"` // "lock", "wipe", "erase", "renew", "rotate", "pool", "gateway" or "notify"
	Why  string            `json:"why,omitempty"`
	Args map[string]string `json:"args,omitempty"` // notify: "text"
	Life string            `json:"life,omitempty"` // how long it may wait, like "24h"; default 7 days, 90 at most
}

// Command is a command and what became of it.
type Command struct {
	ID       string            `json:"id"`
	Device   string            `json:"device"`
	Name     string            `json:"name"` // of the device
	Kind     string            `json:"kind"`
	Args     map[string]string `json:"args,omitempty"`
	Why      string            `json:"why,omitempty"`
	By       string            `json:"by"`
	Issued   time.Time         `json:"issued"`
	Expires  time.Time         `json:"expires"`
	Sequence uint64            `json:"sequence"`
	Standing bool              `json:"standing,omitempty"` // the device's record orders it, until that is taken back
	State    string            `json:"state"`              // "queued", "sent", "begun", "done", "failed", "unknown", "refused", "cancelled" or "expired"
	Over     bool              `json:"over"`               // nothing more is to come
	Sent     time.Time         `json:"sent,omitzero"`
	Answered time.Time         `json:"answered,omitzero"`
	Detail   string            `json:"detail,omitempty"`
}
