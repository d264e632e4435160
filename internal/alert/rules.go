package alert

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// View is everything that rules look at, at one moment. A part that is nil was not looked
// at, so that nothing of its kind is resolved either.
type View struct {
	Now         time.Time
	Devices     []quarantine.Record
	Silence     func(quarantine.Record) time.Duration // how long a device was silent while there was somebody to listen
	Conduct     quarantine.Conduct
	Sources     map[string]quarantine.Source
	Health      []source.Health
	Began       time.Time // when Health began to be counted
	Expiries    []Expiry
	Guesses     *Guesses
	Store       *StoreHealth
	Gate        *quarantine.Status
	Streams     []StreamHealth // receivers of events
	Many        *Deferred
	Machine     *MachineHealth     // the appliance; nil too where it is none
	Certificate *CertificateHealth // for those who know no root of ours
	Pools       map[string]quarantine.Pool
	Names       []NameHealth // what pools reach by name
	Deaf        bool         // the tunnel could not be asked, so that nobody's silence is known
}

// Expiry is a certificate of the gateway's own.
type Expiry struct {
	What     string // "certificate of the issuing CA for devices"
	NotAfter time.Time
	Renewed  bool // by the gateway itself, so that it never should come near
}

// Guesses counts refused attempts at one-time passwords.
type Guesses struct {
	Window time.Duration
	All    int
	By     map[string]int // address to attempts
}

// StoreHealth is what the store says of itself.
type StoreHealth struct {
	Alarm       string // its quota or its disk; empty: well
	Size, Quota int64  // bytes
	Clock       string // what is wrong with the clock; empty: nothing
}

// StreamHealth is what a receiver of events is at.
type StreamHealth struct {
	Name    string
	Problem string
	Parked  bool // nothing is tried any more until a person says so
}

// Deferred are devices that were due for a wipe or a block in such a number that it was not
// done unasked.
type Deferred struct {
	Devices int
	Action  quarantine.FailureAction
}

// mostEach is how many alerts one rule raises of single devices; beyond it tells the number.
const mostEach = 50

// Look finds all conditions of a view, and says which kinds it looked for.
func Look(v View) (looked []Kind, found []Condition) {
	for _, r := range []struct {
		kind Kind
		can  bool
		find func(View) []Condition
	}{
		{InactiveDevice, v.Devices != nil && v.Silence != nil, inactive},
		{PolicyFault, v.Devices != nil, policyFaults},
		{SilentSource, v.Sources != nil, silentSources},
		{FailingSource, v.Sources != nil, failingSources},
		{Expiring, v.Expiries != nil, expiring},
		{Guessing, v.Guesses != nil, guessing},
		{Quota, v.Store != nil, quota},
		{Clock, v.Store != nil, clock},
		{Enforcement, v.Gate != nil, enforcement},
		{Stream, v.Streams != nil, streams},
		{InactiveMany, v.Many != nil, many},
		{Version, v.Machine != nil, behind},
		{Channel, v.Machine != nil, channel},
		{Update, v.Machine != nil, failedUpdate},
		{PoolFull, v.Pools != nil && v.Devices != nil, fullPools},
		{NameUnresolved, v.Names != nil, lostNames},
		{ServerCertificate, v.Certificate != nil, serverCertificate},
	} {
		if r.can {
			looked, found = append(looked, r.kind), append(found, r.find(v)...)
		}
	}
	return looked, found
}

// Defaults of Conduct (G10).
const (
	DefaultAlertAfter = 21 * 24 * time.Hour
	DefaultActAfter   = 90 * 24 * time.Hour
)

func alertAfter(c quarantine.Conduct) time.Duration {
	if c.AlertAfter > 0 {
		return c.AlertAfter
	}
	return DefaultAlertAfter
}

func actAfter(c quarantine.Conduct) time.Duration {
	if c.ActAfter > 0 {
		return c.ActAfter
	}
	return DefaultActAfter
}

func inactive(v View) []Condition {
	after := alertAfter(v.Conduct)
	var out []Condition
	for _, r := range v.Devices {
		if silent := v.Silence(r); counts(r) && silent >= after {
			out = append(out, Condition{InactiveDevice, string(r.ID), Warning,
				fmt.Sprintf("device %s of %s was not heard of for %s", r.Name, r.Owner, days(silent)),
				fmt.Sprintf("find it, or end its enrollment: lazaretctl device revoke %s", r.Name)})
		}
	}
	return atMost(out, "devices were not heard of for "+days(after), "list them with lazaretctl device list --inactive")
}

// counts reports whether a device is one that should be heard of.
func counts(r quarantine.Record) bool {
	return (r.Stage == quarantine.Quarantined || r.Stage == quarantine.Routed) && !r.Wipe.Set()
}

// atMost replaces too many conditions of one kind by one that gives their number.
func atMost(all []Condition, what, remedy string) []Condition {
	if len(all) <= mostEach {
		return all
	}
	return []Condition{{all[0].Kind, "", all[0].Severity, fmt.Sprintf("%d %s", len(all), what), remedy}}
}

func policyFaults(v View) []Condition {
	devices := map[string]int{}
	example := map[string]quarantine.Reason{}
	for _, r := range v.Devices {
		for _, why := range r.Reasons {
			if why.Fault {
				name := why.Set + "/" + why.Rule
				devices[name]++
				example[name] = why
			}
		}
	}
	var out []Condition
	for name, n := range devices {
		out = append(out, Condition{PolicyFault, name, Critical,
			fmt.Sprintf("rule %s cannot be evaluated for %s, and counts as failing there, but for grace and waivers: %s", name, plural(n, "device"), example[name].Text),
			"mend the policy set: lazaretctl policy check"})
	}
	return sorted(out)
}

func silentSources(v View) []Condition {
	heard := map[string]time.Time{}
	for _, h := range v.Health {
		heard[h.Source] = h.Heard
	}
	var out []Condition
	for name, s := range v.Sources {
		last := heard[name]
		if last.Before(v.Began) {
			last = v.Began // nobody counted before
		}
		if silent := v.Now.Sub(last); s.Silent > 0 && silent >= s.Silent {
			out = append(out, Condition{SilentSource, name, Critical,
				fmt.Sprintf("source %s was not heard of for %s: releases that rest on its word end with it", name, days(silent)),
				fmt.Sprintf("see what it meets: lazaretctl source health %s", name)})
		}
	}
	return sorted(out)
}

// failures is how many attempts in a row fail before it is told.
const failures = 3

func failingSources(v View) []Condition {
	var out []Condition
	for _, h := range v.Health {
		if _, known := v.Sources[h.Source]; known && h.Failures >= failures {
			out = append(out, Condition{FailingSource, h.Source, Warning,
				fmt.Sprintf("source %s failed %d times in a row: %s", h.Source, h.Failures, h.Problem),
				fmt.Sprintf("see lazaretctl source health %s", h.Source)})
		}
	}
	return sorted(out)
}

// Lives left at which an expiring certificate is told of.
const (
	expiresSoon = 30 * 24 * time.Hour
	expiresNow  = 7 * 24 * time.Hour
	// renewalFails is what is left of a certificate that the gateway should have renewed.
	renewalFails = 3 * 24 * time.Hour
)

func expiring(v View) []Condition {
	var out []Condition
	for _, e := range v.Expiries {
		left := e.NotAfter.Sub(v.Now)
		soon := expiresSoon
		if e.Renewed {
			soon = renewalFails
		}
		if left > soon {
			continue
		}
		c := Condition{Kind: Expiring, Subject: e.What, Severity: Warning, Remedy: "replace it before it ends",
			Text: fmt.Sprintf("the %s ends on %s", e.What, e.NotAfter.UTC().Format(time.DateOnly))}
		if e.Renewed {
			c.Remedy = "the gateway renews it by itself and could not: see its log"
		}
		if left <= expiresNow {
			c.Severity = Critical
		}
		out = append(out, c)
	}
	return out
}

// Attempts at one-time passwords within the window that are told of: from anywhere, and
// from one address.
const (
	guessesAll = 200
	guessesOne = 50
)

func guessing(v View) []Condition {
	const remedy = "nothing was given away, and one-time passwords are refused after a few attempts each; close the network they come from if it goes on"
	var out []Condition
	for from, n := range v.Guesses.By {
		if n >= guessesOne {
			out = append(out, Condition{Guessing, from, Warning,
				fmt.Sprintf("%s asked with wrong one-time passwords %s or more in %s", from, plural(n/10*10, "time"), days(v.Guesses.Window)), remedy})
		}
	}
	if len(out) > mostEach {
		out = nil // the number of all says it
	}
	if v.Guesses.All >= guessesAll {
		out = append(out, Condition{Guessing, "", Critical,
			fmt.Sprintf("%d or more wrong one-time passwords in %s", v.Guesses.All/100*100, days(v.Guesses.Window)), remedy})
	}
	return sorted(out)
}

func quota(v View) []Condition {
	if v.Store.Alarm != "" {
		return []Condition{{Quota, "", Critical, v.Store.Alarm, "free the disk, or give the store a larger one"}}
	}
	if v.Store.Quota > 0 && v.Store.Size > v.Store.Quota/2 {
		return []Condition{{Quota, "", Warning, "the store takes more than half of what it may", "see lazaretctl status, and forget revoked devices that nobody needs"}}
	}
	return nil
}

func clock(v View) []Condition {
	if v.Store.Clock == "" {
		return nil
	}
	return []Condition{{Clock, "", Critical, "nothing is issued: " + v.Store.Clock,
		"set the clock; where the stored time is wrong, run lazaretd clock reset. After a rollback of the machine, restore instead"}}
}

func enforcement(v View) []Condition {
	switch g := v.Gate; {
	case !g.Planned:
		return []Condition{{Enforcement, "", Critical, "what was decided is not enforced: " + orElse(g.Problem, "no complete plan is applied"), "see that lazaretd dataplane runs"}}
	case !g.Fresh:
		return []Condition{{Enforcement, "", Critical, "freshness ran out, nobody is routed: " + orElse(g.Problem, "the store does not answer"), "see the gateway's log and lazaretctl status"}}
	}
	return nil
}

func streams(v View) []Condition {
	var out []Condition
	for _, s := range v.Streams {
		switch {
		case s.Parked:
			out = append(out, Condition{Stream, s.Name, Warning, fmt.Sprintf("events for %s are kept and not sent any more: %s", s.Name, s.Problem), "mend it, then lazaretctl stream resume " + s.Name})
		case s.Problem != "":
			out = append(out, Condition{Stream, s.Name, Info, fmt.Sprintf("events for %s are late: %s", s.Name, s.Problem), "see lazaretctl stream show " + s.Name})
		}
	}
	return out
}

func many(v View) []Condition {
	if v.Many.Devices == 0 {
		return nil
	}
	return []Condition{{InactiveMany, "", Critical,
		fmt.Sprintf("%s were silent for so long that they were due to be told to %s; for so many at once it is not done unasked", plural(v.Many.Devices, "device"), v.Many.Action),
		"see why nobody heard of them; then revoke or wipe them by hand, with lazaretctl device list --inactive"}}
}

func sorted(all []Condition) []Condition {
	slices.SortFunc(all, func(a, b Condition) int { return strings.Compare(a.Subject, b.Subject) })
	return all
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// days writes a time the way people say it.
func days(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return plural(int(d/(24*time.Hour)), "day")
	case d >= 2*time.Hour:
		return plural(int(d/time.Hour), "hour")
	default:
		return plural(int(d/time.Minute), "minute")
	}
}
