package manage

import (
	"errors"
	"fmt"
	"testing"

	"lazaret/internal/agentapi"
)

// TestLiesAboutNumbersAreRefused: a device that says it has begun a command, or has the
// result of one, whose number was never near being given, is refused and leaves nothing: the
// next honest session gets its commands. What a restored gateway may have forgotten is
// believed, and moves the numbers by a bounded step.
func TestLiesAboutNumbersAreRefused(t *testing.T) {
	result := func(n uint64) agentapi.Result {
		return agentapi.Result{Command: "c-nothing", Kind: agentapi.Lock, Sequence: n, State: agentapi.Done}
	}
	for name, lie := range map[string]func(s *talk) agentapi.Exchange{
		"all begun":        func(s *talk) agentapi.Exchange { return s.message(agentapi.MaxSequence) },
		"some begun":       func(s *talk) agentapi.Exchange { return s.message(beyond + 1) },
		"the last result":  func(s *talk) agentapi.Exchange { return s.message(0, result(agentapi.MaxSequence)) },
		"above the last":   func(s *talk) agentapi.Exchange { return s.message(0, result(^uint64(0))) },
		"a result far off": func(s *talk) agentapi.Exchange { return s.message(0, result(1), result(beyond+1)) },
		"a result of none": func(s *talk) agentapi.Exchange { return s.message(0, result(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			if _, err := l.Exchange(t.Context(), l.peer, lie(l.greet())); !errors.Is(err, ErrSession) {
				t.Errorf("the lie: %v", err)
			}
			l.start() // and after a restart
			l.seq = 0
			c := l.issue(agentapi.Lock)
			s := l.greet()
			if got := s.say(s.welcome.Executed); s.welcome.Executed != 0 || len(got) != 1 || got[0].ID != c.ID || got[0].Sequence != 1 {
				t.Errorf("given %+v, executed %d", got, s.welcome.Executed)
			}
		})
	}
	l := newLab(t)
	for range 3 {
		l.greet().say(beyond) // the same lie again leads no further
	}
	if c := l.issue(agentapi.Lock); c.Sequence != beyond+1 {
		t.Errorf("the next command has number %d", c.Sequence)
	}
}

// TestBooksThatBelievedALieAreMended: a stored book that says what no device can have done
// gives its commands all the same, under numbers that a device takes that enrolled again.
func TestBooksThatBelievedALieAreMended(t *testing.T) {
	for name, text := range map[string]string{
		"all begun":           `{"v":1,"sessions":65,"next":1,"executed":18446744073709551615,"commands":[]}`,
		"and a command added": `{"v":1,"sessions":65,"next":9007199254740993,"executed":9007199254740992,"commands":[]}`,
	} {
		l := newLab(t)
		l.store.items[prefix+"d-1"] = Item{Name: prefix + "d-1", Value: []byte(text), Revision: 1}
		l.store.rev = 1
		l.start()
		c := l.issue(agentapi.Lock)
		s := l.greet()
		got := s.say(s.welcome.Executed)
		if len(got) != 1 || got[0].ID != c.ID || got[0].Sequence <= s.welcome.Executed || got[0].Sequence > 2*beyond {
			t.Errorf("%s: given %+v, executed %d", name, got, s.welcome.Executed)
		}
	}
}

// TestInventedResultsFillNoLog: of commands that never were, the audit log has one entry a
// session, and those of real ones all the same.
func TestInventedResultsFillNoLog(t *testing.T) {
	l := newLab(t)
	l.issue(agentapi.Lock)
	for session := range 2 {
		s := l.greet()
		given := s.say(0)
		before := len(l.audit)
		for i := range 20 {
			var all []agentapi.Result
			for j := range agentapi.MaxTogether {
				all = append(all, agentapi.Result{Command: fmt.Sprintf("c-%d-%d", i, j), Kind: agentapi.Wipe, Sequence: 1, State: agentapi.Done, Detail: "invented"})
			}
			s.say(0, all...)
		}
		if n := len(l.audit) - before; n != 1 {
			t.Errorf("%d entries in the audit log for 640 results of commands that never were, want 1", n)
		}
		if session == 1 {
			s.say(0, answer(given[0], agentapi.Done))
			if last := l.audit[len(l.audit)-1]; last.ID != given[0].ID || last.Detail["state"] != agentapi.Done {
				t.Errorf("the log's last entry is %+v", last)
			}
		}
	}
}

// TestNumberUsedMeanwhile: a session that was greeted and has not spoken is none once its
// number may have been used elsewhere, as this desk learns from the stored book.
func TestNumberUsedMeanwhile(t *testing.T) {
	l := newLab(t)
	slow, first := l.greet(), l.Manager
	l.start() // another desk on the same store
	l.seq = 0
	l.greet().say(0)
	l.Manager = first
	c := l.issue(agentapi.Lock) // reads the book anew, since the other one wrote it
	if w := must(l.Hello(t.Context(), l.peer, slow.hello)); !w.Resync {
		t.Fatalf("the number was not used: %+v", w)
	}
	if _, err := l.Exchange(t.Context(), l.peer, slow.message(0)); !errors.Is(err, ErrSession) || l.state(c.ID) != Queued {
		t.Errorf("a session of a used number: %v, and the command is %s", err, l.state(c.ID))
	}
	if got := l.greet().say(0); len(got) != 1 || got[0].ID != c.ID {
		t.Errorf("given above it: %+v", got)
	}
}
