package quarantine

import (
	"maps"
	"time"
)

// Mark is what stays of a rule that failed. A device that could shake it off by a moment's
// obedience, or by saying nothing, would never be held to the rule. The zero Mark is none.
type Mark struct {
	Since  time.Time `json:"since,omitzero"`   // its grace runs from then; zero: it had none
	Held   time.Time `json:"held,omitzero"`    // since when it holds again; zero: it fails
	Broken bool      `json:"broken,omitempty"` // by known facts, and has neither held nor been waived since
}

// marksAs reports whether the marks are those on record.
func marksAs(record, now map[string]Mark) bool {
	return maps.EqualFunc(record, now, func(a, b Mark) bool {
		return a.Since.Equal(b.Since) && a.Held.Equal(b.Held) && a.Broken == b.Broken
	})
}

// stricter is what both marks hold against a device.
func (m Mark) stricter(n Mark) Mark {
	m.Broken = m.Broken || n.Broken
	if m.Since.IsZero() || !n.Since.IsZero() && n.Since.Before(m.Since) {
		m.Since = n.Since
	}
	switch {
	case m.Held.IsZero() || n.Held.IsZero():
		m.Held = time.Time{}
	case n.Held.After(m.Held):
		m.Held = n.Held
	}
	return m
}

// withMarks is a record with marks that are not recorded yet, in a map of its own: while the
// store is down they stay all the same.
func (r Record) withMarks(marks map[string]Mark) Record {
	if len(marks) == 0 {
		return r
	}
	all := maps.Clone(marks)
	for ref, m := range r.Marks {
		if n, ok := all[ref]; ok {
			m = m.stricter(n)
		}
		all[ref] = m
	}
	r.Marks = all
	return r
}

// noteMarks remembers marks that are not those on record. The caller holds mu.
func (st *state) noteMarks(now map[string]Mark) {
	st.marks = nil
	if !marksAs(st.rec.Marks, now) {
		st.marks = now
	}
}
