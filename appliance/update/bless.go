package update

import (
	"fmt"
	"strings"
	"time"
)

// Steady is how long everything must have been well, without a break, before a slot is
// blessed; Deadline is how long after its start that may be. A slot that is not by then is
// left for the one before (Manager.GiveUp). One that does not come so far, because it
// crashes or hangs, is left by the boot loader after Tries starts.
const (
	Steady   = 30 * time.Second
	Deadline = 5 * time.Minute
)

// Health is what a machine knows of itself after it was started. The zero Health is ill.
type Health struct {
	API      bool          // the control plane answers on its listeners
	Firewall bool          // the kernel holds the table that was recorded
	Tunnel   bool          // the WireGuard link is up, with its key
	Store    bool          // the store is healthy: it reads and writes
	Steady   time.Duration // for how long all of these have been so, without a break
	Up       time.Duration // since the machine was started
}

// Bless decides whether the running slot is kept, and says why it is not yet.
func Bless(h Health) (bool, string) {
	var ill []string
	for _, c := range []struct {
		well bool
		what string
	}{{h.API, "the API does not answer"}, {h.Firewall, "the firewall is not as recorded"}, {h.Tunnel, "the tunnel is down"}, {h.Store, "the store is not healthy"}} {
		if !c.well {
			ill = append(ill, c.what)
		}
	}
	switch {
	case len(ill) > 0:
		return false, strings.Join(ill, ", ")
	case h.Steady < Steady:
		return false, fmt.Sprintf("well for %s of %s", h.Steady.Round(time.Second), Steady)
	}
	return true, ""
}

// Overdue reports whether a slot that is not blessed has had its time.
func Overdue(h Health) bool {
	ok, _ := Bless(h)
	return !ok && h.Up >= Deadline
}
