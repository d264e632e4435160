package quarantine

import "time"

// Life is the time in which a report of a source counts, from inclusive, until exclusive:
// what PlainPolicy holds it to, for other policies. A report that says nothing, neither a
// verdict nor a fact, counts at no time: such a one keeps the place, in the order of its
// source's reports, of what was said of a device before it enrolled again or was restored.
func Life(r Report, s Source) (from, until time.Time) {
	l := lifeOf(r, s)
	if r.Verdict == "" && len(r.Facts) == 0 {
		return l.from, l.from
	}
	return l.from, l.until
}
