package poll

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"lazaret/quarantine"
)

const (
	maxFacts  = 64 // as in any report
	maxFact   = 64
	maxValue  = 256
	maxDetail = 512

	goneDetail = "it is not managed there any more"
)

// Put adds a fact, or changes it, unless it would not fit into a report.
func Put(facts map[string]string, name, value string) {
	value = strings.TrimSpace(strings.ToValidUTF8(value, ""))
	_, had := facts[name]
	if name == "" || value == "" || len(name) > maxFact || len(value) > maxValue || len(facts) >= maxFacts && !had {
		return
	}
	facts[name] = value
}

// worse orders verdicts for what several hosts say of one device.
func worse(a, b quarantine.Verdict) bool { return rank(a) > rank(b) }

func rank(v quarantine.Verdict) int {
	switch v {
	case quarantine.Compliant:
		return 0
	case quarantine.NonCompliant:
		return 2
	default:
		return 1
	}
}

// settle makes a host's word what it is worth, and says what is wrong with it, if anything: a
// fault makes it unknown, and so does a last contact that is missing, or ahead of now, where
// it would be compliant. ahead is how far the product's clock is.
func (h Host) settle(now time.Time, ahead time.Duration) (Host, string) {
	problem := h.Fault
	if ahead > 0 && !h.CheckedIn.IsZero() {
		// An old contact must not become a new one because the clock that told it was ahead. By
		// whole minutes, so that it is the same the next time.
		h.CheckedIn = h.CheckedIn.Add(-(ahead + time.Minute - 1).Truncate(time.Minute))
	}
	if h.CheckedIn.After(now.Add(maxSkew)) {
		problem = cmp.Or(problem, "its last contact is dated ahead of now")
		h.CheckedIn = time.Time{}
	}
	if h.CheckedIn.After(now) {
		h.CheckedIn = now
	}
	switch {
	case h.Fault != "":
		h.Verdict, h.Facts, h.Detail = "", nil, "the answer makes no sense: "+h.Fault
	case problem != "" && h.Verdict == quarantine.Compliant:
		h.Verdict, h.Detail = "", problem
	case h.Verdict == quarantine.Compliant && h.CheckedIn.IsZero():
		h.Verdict, h.Detail = "", "the device was never in contact with it"
	}
	return h, problem
}

// together is what several hosts of one key say: the worst of it, and the oldest contact.
func together(hosts []Host) Host {
	all := hosts[0]
	for _, h := range hosts[1:] {
		oldest := all.CheckedIn
		if h.CheckedIn.Before(oldest) {
			oldest = h.CheckedIn
		}
		if worse(h.Verdict, all.Verdict) {
			all = h
		}
		all.CheckedIn = oldest
	}
	if len(hosts) > 1 {
		all.Detail = fmt.Sprintf("%d hosts there are this device: %s", len(hosts), all.Detail)
	}
	return all
}

// reporter turns hosts into reports of one source.
type reporter struct {
	name     string
	source   quarantine.Source
	now      time.Time
	interval time.Duration
}

// validity is how long the source's word counts.
func (p reporter) validity() time.Duration {
	if p.source.MaxValidity > 0 {
		return p.source.MaxValidity
	}
	return quarantine.DefaultValidity
}

// report is what is to be told of a device, if that is anything new. h is settled.
//
// A good word is dated by the device's last contact. So is a bad one, but where it would have
// run out by the next rounds: the product says it now, so it stands now. A bad word is never
// dated before what it takes back.
func (p reporter) report(r quarantine.Record, h Host) (quarantine.Report, bool) {
	last, had := r.Reports[p.name]
	n := quarantine.Report{
		Device: r.ID, Source: p.name, Verdict: h.Verdict, At: h.CheckedIn, Validity: p.validity(), Received: p.now,
		Facts: p.facts(h), Detail: clip(h.Detail),
	}
	if h.Validity > 0 {
		n.Validity = min(n.Validity, h.Validity)
	}
	same := had && last.Verdict == n.Verdict && last.Detail == n.Detail && last.Validity == n.Validity && maps.Equal(last.Facts, n.Facts)
	if n.Verdict == quarantine.Compliant {
		if had && (n.At.Before(last.At) || n.At.Equal(last.At) && same) {
			return n, false // an older word beats none, and the same is known
		}
		return p.numbered(n, last), true
	}
	if had && n.At.Before(last.At) {
		n.At = last.At
	}
	soon := p.now.Add(2 * p.interval)
	if n.Verdict == quarantine.NonCompliant && !n.At.Add(n.Validity).After(soon) {
		n.At = p.now
		if same && last.At.Add(last.Validity).After(soon) {
			return n, false
		}
	}
	if n.At.IsZero() {
		n.At = p.now.Add(-n.Validity) // it is in the way of no word that counts
	}
	if same && !n.At.After(last.At) {
		return n, false
	}
	return p.numbered(n, last), true
}

// gone is what is told of a device that is managed no more. It is dated like the last word of
// it: if that was too soon, the next contact, or the last one, counts again.
func (p reporter) gone(r quarantine.Record) (quarantine.Report, bool) {
	last := r.Reports[p.name]
	if last.Verdict == quarantine.NonCompliant && last.Detail == goneDetail {
		return last, false
	}
	n := quarantine.Report{
		Device: r.ID, Source: p.name, Verdict: quarantine.NonCompliant, At: last.At, Validity: p.validity(), Received: p.now, Detail: goneDetail,
		Facts: p.allowed(map[string]string{"mdm.enrolled": "false", "device.managed": "false", "mdm.compliant": "false"}),
	}
	return p.numbered(n, last), true
}

// numbered gives a report the number that makes it newer than the last one of the same time.
func (p reporter) numbered(n, last quarantine.Report) quarantine.Report {
	n.Sequence = uint64(max(p.now.UnixMilli(), 1))
	if n.At.Equal(last.At) {
		n.Sequence = max(n.Sequence, last.Sequence+1)
	}
	return n
}

// facts are those of a host, with what every product knows, as far as the source may speak
// of them.
func (p reporter) facts(h Host) map[string]string {
	if h.Fault != "" {
		return nil
	}
	facts := map[string]string{"mdm.enrolled": "true", "device.managed": "true"}
	for _, name := range slices.Sorted(maps.Keys(h.Facts)) {
		Put(facts, name, h.Facts[name])
	}
	if rank(h.Verdict) != rank("") {
		facts["mdm.compliant"] = strconv.FormatBool(h.Verdict == quarantine.Compliant)
	}
	if !h.CheckedIn.IsZero() {
		// Coarse, so that a report that says nothing else that is new need not be recorded.
		facts["mdm.last_seen"] = h.CheckedIn.UTC().Truncate(max(p.validity()/4, time.Second)).Format(time.RFC3339)
	}
	return p.allowed(facts)
}

// allowed are the facts that the source may speak of.
func (p reporter) allowed(facts map[string]string) map[string]string {
	maps.DeleteFunc(facts, func(name, _ string) bool { return !p.source.Speaks(name) })
	return facts
}

// systems are the names of operating systems as the vocabulary of facts has them.
var systems = map[string]string{
	"darwin": "macos", "mac os x": "macos", "macmdm": "macos", "chrome": "chromeos", "chrome os": "chromeos", "ipad": "ipados", "iphone": "ios",
}

// PutSystem adds the name of an operating system.
func PutSystem(facts map[string]string, name string) {
	name = strings.ToLower(strings.TrimSpace(name))
	Put(facts, "os.name", cmp.Or(systems[name], name))
}

var versionForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+(\.[0-9]+)+$`) })

// PutVersion adds the version of an operating system: the last word of text that is dotted
// numbers.
func PutVersion(facts map[string]string, text string) {
	for _, word := range slices.Backward(strings.Fields(text)) {
		if versionForm().MatchString(word) {
			Put(facts, "os.version", word)
			return
		}
	}
}

func clip(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail]
	}
	return strings.ToValidUTF8(s, "")
}
