package appliance

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is when updates are installed unasked: on some days, or all where Days is empty,
// from From for Length. It may reach into the next day. Times are UTC.
type Window struct {
	Days         []time.Weekday
	From, Length time.Duration // from midnight
}

// defaultWindow is what an empty text means.
const defaultWindow = "02:00-05:00"

var weekdays = map[string]time.Weekday{"sun": time.Sunday, "mon": time.Monday, "tue": time.Tuesday, "wed": time.Wednesday, "thu": time.Thursday, "fri": time.Friday, "sat": time.Saturday}

// ParseWindow reads a window like "Sun 02:00-05:00" or "Mon,Thu 23:00-01:00"; an empty text
// is 02:00-05:00 every day.
func ParseWindow(text string) (Window, error) {
	wrong := fmt.Errorf("%w: window %q: write it like \"Sun 02:00-05:00\", in UTC", ErrRefused, text)
	fields := strings.Fields(text)
	switch len(fields) {
	case 0:
		fields = []string{defaultWindow}
	case 1, 2:
	default:
		return Window{}, wrong
	}
	var w Window
	if len(fields) == 2 {
		for name := range strings.SplitSeq(fields[0], ",") {
			day, ok := weekdays[strings.ToLower(name)]
			if !ok || slices.Contains(w.Days, day) {
				return Window{}, wrong
			}
			w.Days = append(w.Days, day)
		}
	}
	from, to, ok := strings.Cut(fields[len(fields)-1], "-")
	a, err := time.Parse("15:04", from)
	b, err2 := time.Parse("15:04", to)
	if !ok || err != nil || err2 != nil || a.Equal(b) {
		return Window{}, wrong
	}
	w.From = time.Duration(a.Hour())*time.Hour + time.Duration(a.Minute())*time.Minute
	if w.Length = b.Sub(a); w.Length < 0 {
		w.Length += 24 * time.Hour
	}
	return w, nil
}

// Contains reports whether t is in the window.
func (w Window) Contains(t time.Time) bool {
	t = t.UTC()
	for _, day := range []time.Time{t, t.AddDate(0, 0, -1)} {
		begin := time.Date(day.Year(), day.Month(), day.Day(), 0, 0, 0, 0, time.UTC).Add(w.From)
		if (len(w.Days) == 0 || slices.Contains(w.Days, begin.Weekday())) && !t.Before(begin) && t.Before(begin.Add(w.Length)) {
			return true
		}
	}
	return false
}
