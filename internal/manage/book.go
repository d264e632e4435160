package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

const (
	prefix = "command/" // names of stored books

	// MaxWaiting bounds the commands that wait for one device, and those that are kept of it.
	MaxWaiting = agentapi.MaxTogether
	// Life is how long a command may wait, unless it says otherwise.
	Life = 7 * 24 * time.Hour
	// MaxLife bounds what it may say.
	MaxLife = 90 * 24 * time.Hour

	// ahead is how many sessions are opened between two writes of their number: after a
	// restart a device is told to go on above all that may have been opened.
	ahead = 64
	// farthest is how far a device's number may be above the gateway's, which a restored
	// gateway's is: nobody uses up in one step all the numbers that there are.
	farthest = 1 << 20
	// beyond is how far the command that a device says it has begun may be above the last one
	// that this gateway numbered: a restored gateway has forgotten some. Whoever lies moves
	// the numbers of one command by so much, and each is good for another.
	beyond = 1 << 10
)

// State is how far a command is.
type State string

const (
	Queued    State = "queued"
	Sent      State = "sent"  // given to the device, which has not answered
	Begun     State = "begun" // erase: the program runs, and may leave nobody to answer
	Done      State = "done"
	Failed    State = "failed"
	Unknown   State = "unknown" // begun by the device, which ended before it ended
	Refused   State = "refused"
	Cancelled State = "cancelled"
	Expired   State = "expired"
)

// Over says that nothing more is to come.
func (s State) Over() bool { return s != Queued && s != Sent && s != Begun }

// Command is a command as kept.
type Command struct {
	ID       string            `json:"id"`
	Kind     string            `json:"kind"`
	Args     map[string]string `json:"args,omitempty"`
	Sequence uint64            `json:"sequence"`
	Why      string            `json:"why,omitempty"`
	By       quarantine.Actor  `json:"by"`
	Issued   time.Time         `json:"issued"`
	Expires  time.Time         `json:"expires"`
	Standing bool              `json:"standing,omitempty"` // the device's record orders it
	State    State             `json:"state"`
	Sent     time.Time         `json:"sent,omitzero"`
	Answered time.Time         `json:"answered,omitzero"`
	Detail   string            `json:"detail,omitempty"`
}

// book is what is stored of one device.
type book struct {
	Version  int       `json:"v"`        // 1
	Reserved uint64    `json:"sessions"` // no session above this number was opened
	Next     uint64    `json:"next"`     // the last number that was given to a command
	Executed uint64    `json:"executed"` // the highest that the device is known to have begun
	Commands []Command `json:"commands"` // oldest first
}

func (b book) clone() book {
	b.Commands = slices.Clone(b.Commands)
	for i := range b.Commands {
		b.Commands[i].Args = maps.Clone(b.Commands[i].Args)
	}
	return b
}

// find returns a command of the book, nil for none.
func (b *book) find(id string) *Command {
	i := slices.IndexFunc(b.Commands, func(c Command) bool { return c.ID == id })
	if i < 0 {
		return nil
	}
	return &b.Commands[i]
}

// add numbers a command and puts it last; what is over makes room, oldest first.
func (b *book) add(c Command) error {
	for len(b.Commands) >= MaxWaiting {
		i := slices.IndexFunc(b.Commands, func(c Command) bool { return c.State.Over() })
		if i < 0 {
			return ErrFull
		}
		b.Commands = slices.Delete(b.Commands, i, i+1)
	}
	b.Next = max(b.Next, b.Executed) + 1
	c.Sequence = b.Next
	b.Commands = append(b.Commands, c)
	return nil
}

// open says whether a command is for the device to have now.
func (c Command) open(now time.Time) bool {
	return (c.State == Queued || c.State == Sent) && now.Before(c.Expires)
}

// waiting says whether anything is.
func (b *book) waiting(now time.Time) bool {
	return slices.ContainsFunc(b.Commands, func(c Command) bool { return c.open(now) })
}

// due says whether expire would change anything.
func (b *book) due(now time.Time) bool {
	return slices.ContainsFunc(b.Commands, func(c Command) bool { return (c.State == Queued || c.State == Sent) && !c.open(now) })
}

// expire ends what has waited for too long.
func (b *book) expire(now time.Time) {
	for i := range b.Commands {
		c := &b.Commands[i]
		if c.State != Queued && c.State != Sent || c.open(now) {
			continue
		}
		c.Detail = "the device did not come for it"
		if c.State == Sent {
			c.Detail = "the device was given it and did not answer"
		}
		c.State = Expired
	}
}

// endAll ends all that waits.
func (b *book) endAll(s State, detail string, now time.Time) {
	for i := range b.Commands {
		if c := &b.Commands[i]; c.State == Queued || c.State == Sent {
			c.State, c.Detail, c.Answered = s, detail, now
		}
	}
}

// knows says whether a command of that number can have been given to the device.
func (b *book) knows(sequence uint64) bool { return sequence <= b.Next+beyond }

// meet takes in what the device says that it has begun. A gateway that was restored may
// hold commands that were never sent under numbers that the device has left behind: they
// get new ones. Those that were sent keep theirs, since the device may have done them.
func (b *book) meet(executed uint64) (changed bool) {
	if executed > b.Executed {
		b.Executed, changed = executed, true
	}
	for i := range b.Commands {
		if c := &b.Commands[i]; c.State == Queued && c.Sequence <= b.Executed {
			b.Next = max(b.Next, b.Executed) + 1
			c.Sequence, changed = b.Next, true
		}
	}
	return changed
}

// take files a device's result. It says whether that is news. A command that is done stays
// so, and one that was taken back or expired meanwhile gets what really became of it.
func (b *book) take(r agentapi.Result, now time.Time) (c Command, news bool) {
	b.Executed = max(b.Executed, r.Sequence)
	known := b.find(r.Command)
	if known == nil || known.Sequence != r.Sequence || known.Kind != r.Kind {
		return Command{ID: r.Command, Kind: r.Kind, Sequence: r.Sequence, State: State(r.State), Detail: r.Detail}, false
	}
	state := State(r.State)
	if r.State == agentapi.Begun && r.Kind == agentapi.Wipe {
		state = Done
	}
	switch known.State {
	case Done, Failed, Unknown, Refused:
		return *known, false
	}
	if known.State == state {
		return *known, false
	}
	known.State, known.Detail, known.Answered = state, r.Detail, now
	return *known, true
}

// mend undoes what a lie about numbers left in a book while it was believed. Where no
// number is left to give, counting begins anew: a device that counted along is refused
// until it enrolls again, and begins at zero then.
func (b *book) mend() {
	if b.Next > agentapi.MaxSequence-beyond {
		b.Next, b.Executed = 0, 0
		for i := range b.Commands {
			b.Next++
			b.Commands[i].Sequence = b.Next
		}
	}
	b.Executed = min(b.Executed, b.Next+beyond)
}

// load takes in what is stored.
func (e *entry) load(it Item) error {
	var b book
	if err := json.Unmarshal(it.Value, &b); err != nil {
		return fmt.Errorf("reading commands of device %s: %w", e.id, err)
	}
	if b.Version != 1 {
		return fmt.Errorf("reading commands of device %s: they are of version %d, this gateway reads 1", e.id, b.Version)
	}
	b.mend()
	e.book, e.rev, e.last = b, it.Revision, max(e.last, b.Reserved)
	return nil
}

// attempts is how often a book is written when somebody else writes it too.
const attempts = 5

// save changes the book and stores it; nothing is changed where it fails. The caller holds
// the entry's lock.
func (m *Manager) save(ctx context.Context, e *entry, by quarantine.Actor, change func(*book) error) error {
	for try := 1; ; try++ {
		next := e.book.clone()
		if err := change(&next); err != nil {
			return err
		}
		text, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("keeping commands: %w", err)
		}
		it, err := m.Store.Put(ctx, by, Item{Name: prefix + string(e.id), Value: text, Revision: e.rev})
		if err == nil {
			e.book, e.rev = next, it.Revision
			return nil
		}
		if !errors.Is(err, quarantine.ErrConflict) || try == attempts {
			return fmt.Errorf("keeping commands: %w", err)
		}
		if it, err = m.Store.Get(ctx, prefix+string(e.id)); err != nil {
			return fmt.Errorf("reading commands: %w", err)
		}
		if err := e.load(it); err != nil {
			return err
		}
	}
}
