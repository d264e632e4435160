package console

import (
	"testing"
	"time"

	"lazaret/quarantine"
)

// What is shown as a report's validity is what it counts for, not what it happened to say.
func TestValidity(t *testing.T) {
	for _, x := range []struct{ asked, most, want time.Duration }{
		{0, 0, time.Hour},
		{0, 30 * time.Minute, 30 * time.Minute},
		{0, 8 * time.Hour, time.Hour},
		{2 * time.Hour, 0, time.Hour},
		{2 * time.Hour, 8 * time.Hour, 2 * time.Hour},
		{9 * time.Hour, 8 * time.Hour, 8 * time.Hour},
	} {
		got := validity(quarantine.Report{Validity: x.asked}, quarantine.Source{MaxValidity: x.most})
		if got != x.want {
			t.Errorf("asked %s of at most %s: %s, want %s", x.asked, x.most, got, x.want)
		}
	}
}
