package ssf

import (
	"context"
	"crypto/subtle"
	"maps"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// Counts are what became of a stream's tokens and events since this control plane began.
type Counts struct {
	Accepted  uint64              `json:"accepted"`  // tokens, repeated ones too
	Repeated  uint64              `json:"repeated"`  // tokens that were taken in before
	Postponed uint64              `json:"postponed"` // tokens that the transmitter is to send again
	Refused   map[set.Code]uint64 `json:"refused"`   // tokens, by error
	Moved     uint64              `json:"moved"`     // facts that the gate took
	Late      uint64              `json:"late"`      // events older than what was known
	Noted     uint64              `json:"noted"`     // events that move nobody
	Unknown   uint64              `json:"unknown"`   // events of types that are not known here
}

// Status is how a stream does.
type Status struct {
	Counts
	Endpoint   string    `json:"endpoint,omitempty"`      // delivery push: path below the enrollment address
	Stream     string    `json:"stream,omitempty"`        // enabled, paused or disabled, as the transmitter said
	Reason     string    `json:"reason,omitempty"`        // why, as it said
	StreamAt   time.Time `json:"stream_at,omitzero"`      // when it said so
	AskedAt    time.Time `json:"asked_at,omitzero"`       // last verification that was asked for
	VerifiedAt time.Time `json:"verified_at,omitzero"`    // last one that came back
	PolledAt   time.Time `json:"polled_at,omitzero"`      // delivery poll: last answer
	Problem    string    `json:"problem,omitempty"`       // with the settings
	StreamID   string    `json:"stream_id,omitempty"`     // as used
	Remembered int       `json:"remembered"`              // tokens that would be known again
	Floor      time.Time `json:"remembers_from,omitzero"` // tokens issued before are refused, since there were too many
}

// state is a stream's Status while it changes. Its zero value is ready.
type state struct {
	mu      sync.Mutex
	status  Status
	waiting []waiting // verifications that were asked for
	full    bool      // a word on an account was not kept, since there are too many
}

// waiting is a verification that has not come back.
type waiting struct {
	state string
	done  chan struct{}
}

const maxWaiting = 8

func (s *state) count(add func(*Counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Refused == nil {
		s.status.Refused = map[set.Code]uint64{}
	}
	add(&s.status.Counts)
}

// fill notes whether there is room for words on accounts.
func (s *state) fill(full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.full = full
}

func (s *state) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// expect notes that a verification is on its way.
func (s *state) expect(text string, at time.Time) waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := waiting{text, make(chan struct{})}
	if len(s.waiting) == maxWaiting {
		s.waiting = s.waiting[1:]
	}
	s.waiting = append(s.waiting, w)
	s.status.AskedAt = at
	return w
}

// verified takes a verification event in. One that nobody asked for, with a state or without
// (SSF 1.0 section 8.1.4.1), says that the stream works, and answers nobody.
func (s *state) verified(e set.Event, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ok := e.Text("state")
	if !ok {
		s.status.VerifiedAt = at
		return
	}
	for i, w := range s.waiting {
		if subtle.ConstantTimeCompare([]byte(w.state), []byte(text)) == 1 {
			s.status.VerifiedAt = at
			close(w.done)
			s.waiting = append(s.waiting[:i:i], s.waiting[i+1:]...)
			return
		}
	}
}

// Status tells how a stream does.
func (r *Receiver) Status(_ context.Context, name string) (Status, error) {
	st, err := r.stream(name)
	if err != nil {
		return Status{}, err
	}
	st.state.mu.Lock()
	out, full := st.state.status, st.state.full
	out.Refused = maps.Clone(out.Refused)
	st.state.mu.Unlock()
	if out.Refused == nil {
		out.Refused = map[set.Code]uint64{}
	}
	if st.settings.Delivery == Push {
		out.Endpoint = PushPath + name
	}
	if full {
		out.Problem = errFull.Error()
	}
	if st.fault != nil {
		out.Problem = st.fault.Error()
	}
	st.seen.mu.Lock()
	defer st.seen.mu.Unlock()
	out.Remembered = len(st.seen.index)
	if st.seen.floor > 0 {
		out.Floor = time.Unix(st.seen.floor, 0).UTC()
	}
	return out, nil
}

// updated takes a stream-updated event in (SSF 1.0 section 8.1.5).
func (r *Receiver) updated(st *stream, a act) {
	status, _ := a.event.Text("status")
	why, _ := a.event.Text("reason")
	r.streamIs(st, status, why, a.at)
}

// streamIs notes the stream's status as the transmitter gives it, unless a later one is known.
func (r *Receiver) streamIs(st *stream, status, why string, at time.Time) {
	switch status {
	case "enabled", "paused", "disabled":
	default:
		status = "unknown"
	}
	later := false
	st.state.set(func(s *Status) {
		if later = at.Before(s.StreamAt); !later {
			s.Stream, s.Reason, s.StreamAt = status, printable(why), at
		}
	})
	if !later && (status == "paused" || status == "disabled") {
		err := &notEnabled{status, printable(why)}
		r.cfg.Log.Warn("a stream is not enabled", "stream", st.name, "status", status, "why", err.why)
		r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, r.cfg.Now(), err)
	}
}

// notEnabled is a stream on which nothing comes.
type notEnabled struct{ status, why string }

func (e *notEnabled) Error() string {
	return detail("the transmitter has the stream "+e.status, e.why)
}
