package tunnel

import (
	"fmt"
	"strings"
)

// Failure is one change that could not be made, and why.
type Failure struct {
	PeerChange
	Err error
}

func (f Failure) Error() string {
	verb := "setting"
	if f.Remove {
		verb = "removing"
	}
	return fmt.Sprintf("%s peer %s: %v", verb, f.Peer.Key, f.Err)
}

func (f Failure) Unwrap() error { return f.Err }

// Failures is the error of Link.Apply: every change that could not be made.
type Failures []Failure

// told is how many failures the text names: enough for a log; 35,000 would not be read.
const told = 10

func (f Failures) Error() string {
	var lines []string
	for _, one := range f[:min(told, len(f))] {
		lines = append(lines, one.Error())
	}
	if len(f) > told {
		lines = append(lines, fmt.Sprintf("and %d peers more", len(f)-told))
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.Is find the reason of any of them.
func (f Failures) Unwrap() []error {
	all := make([]error, len(f))
	for i := range f {
		all[i] = f[i]
	}
	return all
}

// allFailed is every change, failed for the same reason; without any, the reason.
func allFailed(changes []PeerChange, err error) error {
	if len(changes) == 0 {
		return err
	}
	out := make(Failures, len(changes))
	for i, c := range changes {
		out[i] = Failure{c, err}
	}
	return out
}
