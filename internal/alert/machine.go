package alert

import (
	"fmt"
	"time"
)

// MachineHealth is what is known of an appliance's versions.
type MachineHealth struct {
	Version   string    // that runs
	Available string    // a newer one; empty: none is known
	Since     time.Time // when it was first seen
	Channel   string    // URL; empty: none is asked
	Checked   time.Time // when the channel answered last
	Booted    time.Time
	Problem   string // why it does not answer
	Failed    string // the version that was tried last and came back
	Last      string // how that went, a sentence
}

const (
	// behindAfter is how long a newer version may be known before it is told of.
	behindAfter = 7 * 24 * time.Hour
	// channelAfter is how long a channel may be silent, or show what is out of date.
	channelAfter = 3 * 24 * time.Hour
)

func behind(v View) []Condition {
	m := v.Machine
	if m.Available == "" || v.Now.Sub(m.Since) < behindAfter {
		return nil
	}
	return []Condition{{Version, "", Warning,
		fmt.Sprintf("version %s runs, and version %s is there since %s", m.Version, m.Available, m.Since.UTC().Format(time.DateOnly)),
		"update the machine: lazaretctl machine update; or have it do so by itself: lazaretctl machine updates set --automatic"}}
}

func channel(v View) []Condition {
	m := v.Machine
	last := m.Checked
	if last.Before(m.Booted) {
		last = m.Booted
	}
	if m.Channel == "" || v.Now.Sub(last) < channelAfter {
		return nil
	}
	return []Condition{{Channel, "", Warning,
		"nothing is known of newer versions: " + orElse(m.Problem, "the update channel was not asked"),
		"see that the firewall and the proxy let the gateway reach it: lazaretctl machine updates check"}}
}

func failedUpdate(v View) []Condition {
	if v.Machine.Failed == "" {
		return nil
	}
	return []Condition{{Update, "", Warning,
		fmt.Sprintf("version %s runs again, after version %s was tried. %s", v.Machine.Version, v.Machine.Failed, v.Machine.Last),
		"see lazaretctl machine log; a newer version, or the same given by hand, ends this"}}
}
