package alert

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

const day = 24 * time.Hour

func device(id string, silent time.Duration) quarantine.Record {
	return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(id), Name: id, Owner: "u", Stage: quarantine.Routed}, Seen: noon.Add(-silent)}
}

func silence(r quarantine.Record) time.Duration { return noon.Sub(r.Seen) }

// TestRules asks each rule on both sides of where it begins to hold.
func TestRules(t *testing.T) {
	wiped := device("w", 100*day)
	wiped.Wipe = quarantine.Decision{At: noon}
	blocked := device("b", 100*day)
	blocked.Stage = quarantine.Blocked
	faulty := device("f", 0)
	faulty.Reasons = []quarantine.Reason{{Set: "base", Rule: "disk", Fault: true, Text: "no such fact"}, {Set: "base", Rule: "os"}}
	mdm := map[string]quarantine.Source{"mdm": {Name: "mdm", Silent: time.Hour}, "quiet": {Name: "quiet"}}
	heard := func(ago time.Duration, failures int) []source.Health {
		return []source.Health{{Source: "mdm", Heard: noon.Add(-ago), Failures: failures, Problem: "503"}, {Source: "gone", Failures: 9}}
	}
	for name, c := range map[string]struct {
		view View
		want string // "ID severity", sorted, joined
	}{
		"a device silent for less than 21 days":   {View{Devices: []quarantine.Record{device("d", 21*day-time.Minute)}, Silence: silence}, ""},
		"a device silent for 21 days":             {View{Devices: []quarantine.Record{device("d", 21*day)}, Silence: silence}, "inactive-device/d warning"},
		"a shorter time by conduct":               {View{Devices: []quarantine.Record{device("d", 8*day)}, Silence: silence, Conduct: quarantine.Conduct{AlertAfter: 7 * day}}, "inactive-device/d warning"},
		"wiped and blocked devices":               {View{Devices: []quarantine.Record{wiped, blocked}, Silence: silence}, ""},
		"a rule that cannot be evaluated":         {View{Devices: []quarantine.Record{faulty}}, "policy-fault/base/disk critical"},
		"a source heard of in time":               {View{Sources: mdm, Health: heard(59*time.Minute, 2), Began: noon.Add(-day)}, ""},
		"a source not heard of":                   {View{Sources: mdm, Health: heard(time.Hour, 0), Began: noon.Add(-day)}, "silent-source/mdm critical"},
		"a source not heard of since the start":   {View{Sources: mdm, Began: noon.Add(-59 * time.Minute)}, ""},
		"a source not heard of after the start":   {View{Sources: mdm, Began: noon.Add(-time.Hour)}, "silent-source/mdm critical"},
		"a source that fails":                     {View{Sources: mdm, Health: heard(0, 3), Began: noon}, "failing-source/mdm warning"},
		"a certificate with 31 days":              {View{Expiries: []Expiry{{"x", noon.Add(31 * day), false}}}, ""},
		"a certificate with 30 days":              {View{Expiries: []Expiry{{"x", noon.Add(30 * day), false}}}, "certificate-expiring/x warning"},
		"a certificate with 7 days":               {View{Expiries: []Expiry{{"x", noon.Add(7 * day), false}}}, "certificate-expiring/x critical"},
		"a renewed one with 7 days":               {View{Expiries: []Expiry{{"x", noon.Add(7 * day), true}}}, ""},
		"a renewed one with 3 days":               {View{Expiries: []Expiry{{"x", noon.Add(3 * day), true}}}, "certificate-expiring/x critical"},
		"a newer version for a week":              {View{Machine: &MachineHealth{Available: "2", Since: noon.Add(-7 * day)}}, "version-behind warning"},
		"a newer version for less":                {View{Machine: &MachineHealth{Available: "2", Since: noon.Add(-7*day + time.Minute)}}, ""},
		"a channel silent for three days":         {View{Machine: &MachineHealth{Channel: "https://u", Checked: noon.Add(-3 * day), Booted: noon.Add(-9 * day)}}, "update-channel warning"},
		"one silent while the machine was off":    {View{Machine: &MachineHealth{Channel: "https://u", Checked: noon.Add(-9 * day), Booted: noon.Add(-day)}}, ""},
		"no channel":                              {View{Machine: &MachineHealth{Booted: noon.Add(-9 * day)}}, ""},
		"an update that came back":                {View{Machine: &MachineHealth{Failed: "2"}}, "update-failed warning"},
		"49 guesses of one":                       {View{Guesses: &Guesses{time.Hour, 49, map[string]int{"192.0.2.1": 49}}}, ""},
		"50 guesses of one":                       {View{Guesses: &Guesses{time.Hour, 50, map[string]int{"192.0.2.1": 50}}}, "guessing/192.0.2.1 warning"},
		"200 guesses of many":                     {View{Guesses: &Guesses{time.Hour, 200, nil}}, "guessing critical"},
		"half of the quota":                       {View{Store: &StoreHealth{Size: 50, Quota: 100}}, ""},
		"more than half of the quota":             {View{Store: &StoreHealth{Size: 51, Quota: 100}}, "quota warning"},
		"an alarm of the store":                   {View{Store: &StoreHealth{Alarm: "disk full"}}, "quota critical"},
		"a clock that is wrong":                   {View{Store: &StoreHealth{Clock: "behind"}}, "clock critical"},
		"enforced and fresh":                      {View{Gate: &quarantine.Status{Planned: true, Fresh: true}}, ""},
		"not enforced":                            {View{Gate: &quarantine.Status{Fresh: true}}, "enforcement critical"},
		"not fresh":                               {View{Gate: &quarantine.Status{Planned: true}}, "enforcement critical"},
		"a receiver that is parked, and one late": {View{Streams: []StreamHealth{{"a", "410", true}, {"b", "503", false}, {"c", "", false}}}, "stream/a warning, stream/b info"},
		"wipes that were not done":                {View{Many: &Deferred{12, quarantine.FailWipe}}, "inactive-many critical"},
	} {
		c.view.Now = noon
		_, found := Look(c.view)
		var got []string
		for _, f := range found {
			got = append(got, f.ID()+" "+string(f.Severity))
			if f.Text == "" || f.Remedy == "" {
				t.Errorf("%s: %s says %q and to do %q", name, f.ID(), f.Text, f.Remedy)
			}
		}
		slices.Sort(got)
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
	}
}

// TestManyInactiveAreOneAlert keeps a thousand silent devices from a thousand mails.
func TestManyInactiveAreOneAlert(t *testing.T) {
	v := View{Now: noon, Silence: silence}
	for i := range 1000 {
		v.Devices = append(v.Devices, device(fmt.Sprint(i), 30*day))
	}
	_, found := Look(v)
	if len(found) != 1 || !strings.HasPrefix(found[0].Text, "1000 devices") {
		t.Errorf("found %d conditions, %+v; want one that says 1000 devices", len(found), found[:min(len(found), 2)])
	}
}

// TestDue acts on few, and on many only where there are many more.
func TestDue(t *testing.T) {
	fleet := func(silentFor90, others int) (all []quarantine.Record) {
		for i := range silentFor90 {
			all = append(all, device(fmt.Sprint("old", i), 90*day))
		}
		for i := range others {
			all = append(all, device(fmt.Sprint("new", i), time.Duration(i%40)*day))
		}
		return all
	}
	for _, c := range []struct {
		silent, others, due, deferred int
		conduct                       quarantine.Conduct
		action                        quarantine.FailureAction
	}{
		{1, 0, 1, 0, quarantine.Conduct{}, quarantine.FailWipe},
		{10, 0, 10, 0, quarantine.Conduct{OnInactive: quarantine.FailBlock}, quarantine.FailBlock},
		{11, 0, 0, 11, quarantine.Conduct{}, quarantine.FailWipe},
		{11, 98, 0, 11, quarantine.Conduct{}, quarantine.FailWipe},
		{11, 99, 11, 0, quarantine.Conduct{}, quarantine.FailWipe},
		{5, 5, 0, 0, quarantine.Conduct{OnInactive: quarantine.FailReport}, quarantine.FailReport},
		{5, 0, 0, 0, quarantine.Conduct{ActAfter: 91 * day}, quarantine.FailWipe},
	} {
		due, action, deferred := Due(fleet(c.silent, c.others), silence, c.conduct, noon)
		if len(due) != c.due || action != c.action || deferred.Devices != c.deferred {
			t.Errorf("%d silent of %d: %d due to %s, %d deferred; want %d, %s, %d", c.silent, c.silent+c.others,
				len(due), action, deferred.Devices, c.due, c.action, c.deferred)
		}
	}
}

// TestDueOneByOne lets nobody hear of 200 devices, which were last heard of within some hours,
// minutes apart: the fault is not theirs.
func TestDueOneByOne(t *testing.T) {
	for name, apart := range map[string]time.Duration{"within a working day": 3 * time.Minute, "within a month": 3 * time.Hour} {
		var devices []quarantine.Record
		for i := range 200 {
			devices = append(devices, quarantine.Record{Device: quarantine.Device{ID: quarantine.ID(fmt.Sprint("d", i)), Stage: quarantine.Routed},
				Seen: noon.Add(time.Duration(i) * apart)})
		}
		wiped, deferrals := 0, 0
		for now := noon.Add(90*day - time.Hour); now.Before(noon.Add(90*day + 200*apart)); now = now.Add(apart) {
			due, _, deferred := Due(devices, func(r quarantine.Record) time.Duration { return now.Sub(LastSeen(r)) }, quarantine.Conduct{}, now)
			if deferred.Devices > 0 {
				deferrals++
			}
			for _, d := range due {
				i := slices.IndexFunc(devices, func(r quarantine.Record) bool { return r.ID == d.ID })
				devices[i].Wipe = quarantine.Decision{By: inactivity, At: now}
				wiped++
			}
		}
		if wiped > 0 || deferrals == 0 {
			t.Errorf("%s: %d of 200 devices wiped for our own silence, %d deferrals; want none", name, wiped, deferrals)
		}
	}
}

// TestDueWithThoseActedOnLately counts the devices of the last week with those that are due.
func TestDueWithThoseActedOnLately(t *testing.T) {
	for ago, want := range map[time.Duration]int{7 * day: 0, 7*day + time.Minute: 1} {
		devices := []quarantine.Record{device("due", 90*day)}
		for i := range 10 {
			r := device(fmt.Sprint("wiped", i), time.Duration(100+5*i)*day)
			r.Wipe = quarantine.Decision{By: inactivity, At: noon.Add(-ago)}
			devices = append(devices, r)
		}
		if due, _, deferred := Due(devices, silence, quarantine.Conduct{}, noon); len(due) != want || deferred.Devices != 1-want {
			t.Errorf("with 10 wiped %s ago: %d due, %d deferred; want %d due", ago, len(due), deferred.Devices, want)
		}
	}
}

// TestDueNotAgainstAPerson leaves a device alone that a person just spoke for.
func TestDueNotAgainstAPerson(t *testing.T) {
	word := quarantine.Decision{By: quarantine.Actor{Kind: "administrator", Name: "ann"}, At: noon.Add(-time.Minute)}
	for name, speak := range map[string]func(r *quarantine.Record){
		"unblocked": func(r *quarantine.Record) { r.Unblocking = word },
		"unwiped":   func(r *quarantine.Record) { r.Unwiping = word },
		"approved":  func(r *quarantine.Record) { r.Approval = word },
	} {
		r := device("d", 91*day)
		speak(&r)
		due, action, _ := Due([]quarantine.Record{r}, func(r quarantine.Record) time.Duration { return noon.Sub(LastSeen(r)) }, quarantine.Conduct{}, noon)
		if len(due) > 0 {
			t.Errorf("%s by a person a minute ago, and to %s again", name, action)
		}
	}
}

// TestSilenceLeavesOutOutages switches the gateway off for three months.
func TestSilenceLeavesOutOutages(t *testing.T) {
	var w Watched
	for h := range 48 {
		w = w.At(noon.Add(time.Duration(h) * 30 * time.Minute))
	}
	seen := noon.Add(12 * time.Hour)
	back := noon.Add(90 * day)
	w = w.At(back)
	if got, want := w.Silence(seen, back), 11*time.Hour+30*time.Minute; got != want {
		t.Errorf("silent for %s, want %s: the gateway was off for the rest", got, want)
	}
	if got := w.Silence(noon.Add(-50*day), back); got > 24*time.Hour {
		t.Errorf("silent for %s before anybody listened", got)
	}
	w = w.At(back.Add(-10 * day)) // the clock was wrong
	if got := w.Silence(seen, back.Add(-10*day)); got != 0 {
		t.Errorf("silent for %s although the clock went back", got)
	}
}

// TestSilenceNeverExceedsWhatWasWatched draws beats and finds no silence longer than the
// beats that are near one another can show.
func TestSilenceNeverExceedsWhatWasWatched(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Watched
		now, listened := noon, time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "beats") {
			step := time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(t, "step"))
			if step <= missed && !w.Last.IsZero() {
				listened += step
			}
			now = now.Add(step)
			w = w.At(now)
		}
		seen := noon.Add(-time.Duration(rapid.Int64Range(0, int64(day)).Draw(t, "seen")))
		if got := w.Silence(seen, now); got > listened {
			t.Fatalf("silent for %s, listened for %s: %+v", got, listened, w)
		}
	})
}

func TestOutletSettings(t *testing.T) {
	good := OutletSettings{V: 1, Name: "mail", URL: "smtps://mail.example.com", From: "lazaret@example.com", To: []string{"ops@example.com"}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*OutletSettings){
		"name":   func(s *OutletSettings) { s.Name = "a b" },
		"scheme": func(s *OutletSettings) { s.URL = "http://mail.example.com" },
		"url":    func(s *OutletSettings) { s.URL = "smtps://user:secret@mail.example.com" },
		"from":   func(s *OutletSettings) { s.From = "nobody" },
		"to":     func(s *OutletSettings) { s.To = nil },
		"least":  func(s *OutletSettings) { s.Least = "loud" },
		"roots":  func(s *OutletSettings) { s.RootsPEM = "x" },
	} {
		s := good
		change(&s)
		err := s.Check()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("a password is in %v", err)
		}
	}
	if _, err := NewWatcher(Config{}); err == nil || errors.Unwrap(err) != nil {
		t.Errorf("a watcher of nothing: %v", err)
	}
}
