package quarantine

import "time"

// Life is the time in which a report of a source counts, from inclusive, until exclusive:
// what PlainPolicy holds it to, for other policies.
func Life(r Report, s Source) (from, until time.Time) {
	l := lifeOf(r, s)
	return l.from, l.until
}
