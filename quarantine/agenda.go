package quarantine

// urgency orders the records that must be written. Many of one sort never keep those of
// another waiting: a person's click is written before the reports of a whole fleet, and
// those before what time alone brought about.
type urgency uint8

const (
	timed    urgency = iota + 1 // a lease ended, or settings changed: it is found again at any later time
	reported                    // a report that the journal holds
	clicked                     // a person's decision that the journal holds
)

// agenda is three lines of devices whose record must be written, each oldest first. A
// device stands where its state says; what else is in the lines is skipped.
type agenda struct {
	lines [clicked + 1][]*state
	turn  uint
}

// put adds a device, or moves it to a line that is served earlier.
func (a *agenda) put(st *state, u urgency) {
	if st.todo >= u {
		return
	}
	st.todo = u
	a.lines[u] = append(a.lines[u], st)
}

// take removes and returns up to most devices of one line. No line waits for ever: every
// fourth turn begins with reports, and every sixteenth with what is timed.
func (a *agenda) take(most int) []*state {
	a.turn++
	order := [...]urgency{clicked, reported, timed}
	switch {
	case a.turn%16 == 0:
		order = [...]urgency{timed, clicked, reported}
	case a.turn%4 == 0:
		order = [...]urgency{reported, clicked, timed}
	}
	for _, u := range order {
		if some := a.takeFrom(u, most); len(some) > 0 {
			return some
		}
	}
	return nil
}

func (a *agenda) takeFrom(u urgency, most int) []*state {
	var some []*state
	line := a.lines[u]
	for len(line) > 0 && len(some) < most {
		st := line[0]
		line[0], line = nil, line[1:]
		if st.todo != u {
			continue // served in another line
		}
		st.todo = 0
		if st.nth >= 0 {
			some = append(some, st)
		}
	}
	a.lines[u] = line
	return some
}

// urgency is how soon the device's record must be written.
func (st *state) urgency() urgency {
	u := timed
	for _, c := range st.pending {
		switch c.Kind {
		case Hold, Block, Revoke, SignOut, Wipe:
			return clicked
		default:
			u = reported
		}
	}
	return u
}
