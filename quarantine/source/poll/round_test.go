package poll

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

// TestAgeOfAVerdict: a good word is as old as the device's own contact, however often the
// product repeats it.
func TestAgeOfAVerdict(t *testing.T) {
	l := newLab(t, noon, nil)
	l.product.set(nil, host(30*time.Minute))
	if err := l.ask(t, 0); err != nil || !l.gate.Released("dev1") {
		t.Fatalf("seen half an hour ago: %v, %+v", err, l.gate.Last("dev1"))
	}
	if n := l.gate.Last("dev1"); !n.At.Equal(noon.Add(-30*time.Minute)) || n.Facts["disk.encrypted"] != "true" || n.Facts["mdm.compliant"] != "true" {
		t.Errorf("reported as %+v", n)
	}
	for range 20 { // an hour and forty minutes
		if err := l.ask(t, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if l.gate.Released("dev1") {
		t.Error("released by a contact of more than two hours ago")
	}
	if l.gate.Told() != 1 {
		t.Errorf("the same was reported %d times", l.gate.Told())
	}
	l.product.set(nil, host(-100*time.Minute))
	if err := l.ask(t, time.Minute); err != nil || !l.gate.Released("dev1") {
		t.Errorf("after a new contact: %v, %+v", err, l.gate.Last("dev1"))
	}
}

// TestBadWordsStand: whatever the order of contacts and verdicts, what the product says now
// that is bad holds, and is taken back by what it says then.
func TestBadWordsStand(t *testing.T) {
	l := newLab(t, noon, nil)
	step := func(what string, want bool, h Host) {
		t.Helper()
		l.product.set(nil, h)
		if err := l.ask(t, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := l.gate.Released("dev1"); got != want {
			t.Fatalf("%s: released is %v, by %+v", what, got, l.gate.Last("dev1"))
		}
	}
	step("compliant", true, host(0))
	step("not compliant, of the same contact", false, host(0).bad(quarantine.NonCompliant))
	step("compliant again, of the same contact", true, host(0))
	step("unknown", false, host(0).bad(""))
	step("compliant", true, host(0))
	step("not compliant, of an older contact", false, host(time.Hour).bad(quarantine.NonCompliant))
	step("compliant of an older contact", false, host(30*time.Minute))
	step("compliant of a newer contact", true, host(-30*time.Minute))
	step("not compliant, of a contact a month ago", false, host(30*24*time.Hour).bad(quarantine.NonCompliant))
	if n := l.gate.Last("dev1"); !n.At.Add(n.Validity).After(l.at.Add(10 * time.Minute)) {
		t.Errorf("it does not stand until the next rounds: %+v", n)
	}
	if n := l.health(t).Refused; n != 0 {
		t.Errorf("%d reports were refused", n)
	}
	told := l.gate.Told()
	l.product.set(nil, host(30*24*time.Hour).bad(quarantine.NonCompliant))
	for range 30 { // it goes on standing for as long as it is said
		if err := l.ask(t, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
		if n := l.gate.Last("dev1"); !n.At.Add(n.Validity).After(l.at) || n.Verdict != quarantine.NonCompliant {
			t.Fatalf("it ran out: %+v", n)
		}
	}
	if n := l.gate.Told() - told; n > 3 {
		t.Errorf("told %d times in 150 minutes, of a validity of two hours", n)
	}
}

// TestClocksThatLie: no time that a product tells makes a device newer than it is.
func TestClocksThatLie(t *testing.T) {
	for what, c := range map[string]struct {
		seen     time.Duration // before noon
		skew     time.Duration // of the product's clock
		released bool
		problem  string
	}{
		"right":                         {time.Minute, 0, true, ""},
		"a little ahead":                {-time.Minute, 0, true, ""},
		"far ahead":                     {-time.Hour, 0, false, "dated ahead"},
		"a century ahead":               {-100 * 365 * 24 * time.Hour, 0, false, "dated ahead"},
		"old, by a clock ahead":         {30 * time.Minute, 3 * time.Hour, false, "ahead of this gateway's"},
		"new, by a clock ahead":         {-3 * time.Hour, 3 * time.Hour, true, "ahead of this gateway's"},
		"new, by a clock behind":        {time.Hour, -time.Hour, true, "behind this gateway's"},
		"never":                         {noon.Sub(time.Time{}), 0, false, ""},
		"an hour old, clock far behind": {3 * time.Hour, -2 * time.Hour, false, "behind this gateway's"},
	} {
		l := newLab(t, noon, nil)
		h := host(c.seen)
		if what == "never" {
			h.CheckedIn = time.Time{}
		}
		l.product.pages = [][]Host{{h}}
		skewed := skewing{l.product, c.skew}
		l.Product = skewed
		if err := l.ask(t, 0); err != nil {
			t.Fatal(err)
		}
		if got := l.gate.Released("dev1"); got != c.released {
			t.Errorf("%s: released is %v, by %+v", what, got, l.gate.Last("dev1"))
		}
		if p := l.health(t).Problem; (c.problem == "") != (p == "") || !strings.Contains(p, c.problem) {
			t.Errorf("%s: the problem is %q, want %q", what, p, c.problem)
		}
	}
}

// skewing is a product whose server's clock is wrong.
type skewing struct {
	*product
	by time.Duration
}

func (s skewing) Hosts(ctx ctx, c *Client, take func([]Host) error) error {
	c.skew = s.by
	return s.product.Hosts(ctx, c, take)
}

// TestFutureBadWordStands: a clock that lies is no way out of a bad word.
func TestFutureBadWordStands(t *testing.T) {
	l := newLab(t, noon, nil)
	l.product.set(nil, host(time.Minute))
	if err := l.ask(t, 0); err != nil || !l.gate.Released("dev1") {
		t.Fatal("not released to begin with")
	}
	l.product.set(nil, host(-time.Hour).bad(quarantine.NonCompliant))
	if err := l.ask(t, 5*time.Minute); err != nil || l.gate.Released("dev1") || l.gate.Last("dev1").Verdict != quarantine.NonCompliant {
		t.Errorf("%v, %+v", err, l.gate.Last("dev1"))
	}
}

// TestFaultsAreUnknown: a host that cannot be read is unknown, takes back what it said, spoils
// no other, and is named.
func TestFaultsAreUnknown(t *testing.T) {
	l := newLab(t, noon, nil, device(1), device(2))
	l.product.set(nil, host(time.Minute).named(1), host(time.Minute).named(2))
	if err := l.ask(t, 0); err != nil || !l.gate.Released("d00001") || !l.gate.Released("d00002") {
		t.Fatal("not released to begin with")
	}
	broken := host(time.Minute).named(1)
	broken.Fault = `field "policies" is missing`
	l.product.set(nil, broken, host(time.Minute).named(2))
	if err := l.ask(t, 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	if l.gate.Released("d00001") || !l.gate.Released("d00002") {
		t.Errorf("released: %v, %v; want the second alone", l.gate.Released("d00001"), l.gate.Released("d00002"))
	}
	if p := l.health(t).Problem; !strings.Contains(p, "policies") || !strings.Contains(p, "host1") {
		t.Errorf("the problem is %q", p)
	}
	if n := l.gate.Last("d00001"); n.Verdict != "" || len(n.Facts) != 0 || !strings.Contains(n.Detail, "policies") {
		t.Errorf("reported as %+v", n)
	}
	l.product.set(nil, host(time.Minute).named(1), host(time.Minute).named(2))
	if err := l.ask(t, 5*time.Minute); err != nil || !l.gate.Released("d00001") || l.health(t).Problem != "" {
		t.Errorf("mended: %v, %+v, %q", err, l.gate.Last("d00001"), l.health(t).Problem)
	}
}

// TestOneSerialOfTwo: an identifier that two devices have releases neither; one that two hosts
// have is as good as the worse.
func TestOneSerialOfTwo(t *testing.T) {
	twin := device(2)
	twin.Serial = "serial1" // as it is typed
	revoked := device(3)
	revoked.Serial, revoked.Revocation = "SERIAL1", quarantine.Decision{At: noon}
	l := newLab(t, noon, nil, device(1), twin, revoked)
	l.product.set(nil, host(time.Minute).named(1))
	if err := l.ask(t, 0); err != nil || l.gate.Released("d00001") || l.gate.Released("d00002") {
		t.Errorf("two devices of one serial number: %v, released", err)
	}
	if p := l.health(t).Problem; !strings.Contains(p, "SERIAL1") {
		t.Errorf("the problem is %q", p)
	}
	l.product.set(nil, host(time.Minute).named(1).bad(quarantine.NonCompliant))
	if err := l.ask(t, 5*time.Minute); err != nil || l.gate.Last("d00001").Verdict != quarantine.NonCompliant || l.gate.Last("d00002").Verdict != quarantine.NonCompliant {
		t.Error("a bad word does not hold both")
	}

	l = newLab(t, noon, nil, device(1), revoked)
	other := host(0).named(1).bad(quarantine.NonCompliant)
	other.ID = "99"
	for _, hosts := range [][]Host{{host(0).named(1), other}, {other, host(0).named(1)}} {
		l.product.set(nil, hosts...)
		if err := l.ask(t, 5*time.Minute); err != nil || l.gate.Released("d00001") {
			t.Errorf("two hosts of one serial number: %v, released", err)
		}
	}
	// A round that saw one of them only cannot know.
	l.product.set(errors.New("cut"), host(-14*time.Minute).named(1))
	if err := l.ask(t, 5*time.Minute); err == nil || l.gate.Released("d00001") {
		t.Errorf("released by half a list: %v, %+v", err, l.gate.Last("d00001"))
	}
	other.Verdict = quarantine.Compliant
	l.product.set(nil, host(-14*time.Minute).named(1), other)
	if err := l.ask(t, 5*time.Minute); err != nil || !l.gate.Released("d00001") || !l.gate.Last("d00001").At.Equal(noon) {
		t.Errorf("both compliant: %v, %+v", err, l.gate.Last("d00001"))
	}
}

// TestPlaceholdersIdentifyNothing: what firmware says for want of a number is nobody's.
func TestPlaceholdersIdentifyNothing(t *testing.T) {
	for _, text := range []string{"", "0", "N/A", "none", "To Be Filled By O.E.M.", "System Serial Number", "Default string", "0000000000", "xxxxxxxx", "Not Specified"} {
		r := phone
		r.Serial = text
		l := newLab(t, noon, nil, r)
		h := host(0)
		h.Serial = text
		l.product.set(nil, h)
		if err := l.ask(t, 0); err != nil || l.gate.Told() != 0 {
			t.Errorf("%q: %v, %d reports", text, err, l.gate.Told())
		}
	}
	if serial(" c02 aaaa1 ") != "C02AAAA1" {
		t.Errorf("read as %q", serial(" c02 aaaa1 "))
	}
}

func TestMatchByName(t *testing.T) {
	l := newLab(t, noon, func(c *Config) { c.Match = MatchName })
	h := host(0)
	h.Serial, h.Name = "ELSEWHERE", "PHONE"
	l.product.set(nil, h)
	if err := l.ask(t, 0); err != nil || !l.gate.Released("dev1") {
		t.Errorf("%v, %+v", err, l.gate.Last("dev1"))
	}
	for text, want := range map[string]bool{"": true, "serial": true, "name": true, "email": false, "owner": false, "imei": false} {
		if _, err := ParseMatch(text); (err == nil) != want {
			t.Errorf("match %q: %v", text, err)
		}
	}
}

// TestScope: devices that the source may not speak for are left alone, and facts that it may
// not speak of are left out.
func TestScope(t *testing.T) {
	mac, other := device(1), device(2)
	mac.Platform, other.Platform = "macos", "linux"
	l := newLab(t, noon, func(c *Config) {
		c.Source.For.Platforms, c.Source.Facts = []string{"macos"}, []string{"mdm.*", "os.version"}
	}, mac, other)
	h := host(0).named(1)
	h.Facts = map[string]string{"os.version": "15.1", "os.name": "macos", "disk.encrypted": "true"}
	l.product.set(nil, h, host(0).named(2))
	if err := l.ask(t, 0); err != nil || !l.gate.Released("d00001") || l.gate.Told() != 1 {
		t.Fatalf("%v, %d reports", err, l.gate.Told())
	}
	facts := l.gate.Last("d00001").Facts
	if facts["os.version"] != "15.1" || facts["mdm.compliant"] != "true" || facts["disk.encrypted"] != "" || facts["os.name"] != "" || facts["device.managed"] != "" {
		t.Errorf("facts are %v", facts)
	}
}

// TestGone: a device is gone when two complete rounds in a row lack it, and back when it is.
func TestGone(t *testing.T) {
	l := newLab(t, noon, nil, device(1), device(2), device(3))
	both := []Host{host(0).named(1), host(0).named(2)}
	round := func(err error, hosts ...Host) {
		t.Helper()
		l.product.set(err, hosts...)
		if got := l.ask(t, time.Minute); (got == nil) != (err == nil) {
			t.Fatal(got)
		}
	}
	round(nil, both...)
	round(nil, both[1])
	if !l.gate.Released("d00001") {
		t.Error("gone after one round")
	}
	round(nil, both...) // there again
	round(nil, both[1])
	round(errors.New("cut"), both[1])
	round(errors.New("cut"), both[1])
	if !l.gate.Released("d00001") {
		t.Error("gone by rounds that broke off")
	}
	round(nil, both[1])
	if n := l.gate.Last("d00001"); l.gate.Released("d00001") || n.Verdict != quarantine.NonCompliant || n.Facts["mdm.enrolled"] != "false" {
		t.Errorf("still there after two complete rounds: %+v", n)
	}
	told := l.gate.Told()
	round(nil, both[1])
	round(nil, both[1])
	if l.gate.Told() != told {
		t.Error("told again and again")
	}
	if r, _ := l.gate.Device("d00003"); len(r.Reports) > 0 {
		t.Error("a device that never was there is gone")
	}
	round(nil, both...)
	if !l.gate.Released("d00001") {
		t.Errorf("not back: %+v", l.gate.Last("d00001"))
	}
	// A host without a readable identifier may be the missing one.
	nameless := Host{ID: "9", Fault: `field "hardware_serial" is missing`}
	for range 3 {
		round(nil, both[1], nameless)
	}
	if !l.gate.Released("d00001") {
		t.Error("gone although a host could not be told from it")
	}
}

// TestMassDisappearance: a list that lacks a large part is rather wrong than right.
func TestMassDisappearance(t *testing.T) {
	var records []quarantine.Record
	var hosts []Host
	for n := range 100 {
		records, hosts = append(records, device(n)), append(hosts, host(0).named(n))
	}
	l := newLab(t, noon, nil, records...)
	l.product.set(nil, hosts...)
	if err := l.ask(t, 0); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		l.product.set(nil)
		if err := l.ask(t, 5*time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if !l.gate.Released("d00001") || !strings.Contains(l.health(t).Problem, "100 of 100") {
		t.Errorf("an empty list took all away: %q", l.health(t).Problem)
	}
	l.at = noon.Add(2 * time.Hour)
	if l.gate.Released("d00001") {
		t.Error("what is known of them does not lapse")
	}
}

// TestIncompleteRound: what was read before an error counts, and the error is told.
func TestIncompleteRound(t *testing.T) {
	l := newLab(t, noon, nil, device(1), device(2))
	l.product.set(errors.New("page 2: broken pipe"), host(0).named(1))
	if err := l.ask(t, 0); err == nil || !l.gate.Released("d00001") {
		t.Errorf("%v, released is %v", err, l.gate.Released("d00001"))
	}
	h := l.health(t)
	if h.Failures != 1 || !strings.Contains(h.Problem, "broken pipe") || !h.Heard.IsZero() || h.Accepted != 1 {
		t.Errorf("health is %+v", h)
	}
}

// TestTenThousandHosts goes to the gate in one call, and a fleet twice as large in chunks.
func TestTenThousandHosts(t *testing.T) {
	const n = chunk + 5
	var records []quarantine.Record
	hosts := make([]Host, n)
	for i := range n {
		records, hosts[i] = append(records, device(i)), host(time.Minute).named(i)
	}
	l := newLab(t, noon, nil, records...)
	l.product.set(nil, hosts...)
	if err := l.ask(t, 0); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(l.gate.Calls) != fmt.Sprint([]int{chunk, 5}) || !l.gate.Released(device(n-1).ID) {
		t.Errorf("calls of %v", l.gate.Calls)
	}
	if err := l.ask(t, 5*time.Minute); err != nil || l.gate.Told() != n {
		t.Errorf("the same again: %v, %d reports", err, l.gate.Told()-n)
	}
	l.product.pages = [][]Host{make([]Host, 0, MaxHosts+1)}
	for i := range MaxHosts + 1 {
		l.product.pages[0] = append(l.product.pages[0], Host{ID: fmt.Sprint("x", i)})
	}
	if err := l.ask(t, 5*time.Minute); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many hosts: %v", err)
	}
}

func TestPagesThatRepeat(t *testing.T) {
	l := newLab(t, noon, nil)
	l.product.pages = [][]Host{{host(0)}, {host(0)}}
	if err := l.ask(t, 0); err == nil || !strings.Contains(err.Error(), "same page") {
		t.Errorf("the same page twice: %v", err)
	}
}

// TestRefusals: what the gate refuses for good is not told again; what failed is.
func TestRefusals(t *testing.T) {
	l := newLab(t, noon, nil)
	l.product.set(nil, host(0))
	l.gate.Refuse = fmt.Errorf("taking it: %w", quarantine.ErrForbidden)
	for range 3 {
		if err := l.ask(t, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if l.gate.Told() != 1 || l.health(t).Refused != 1 {
		t.Errorf("told %d times, health %+v", l.gate.Told(), l.health(t))
	}
	l.product.set(nil, host(-time.Minute))
	l.gate.Refuse = errors.New("the store does not answer")
	for range 3 {
		if err := l.ask(t, time.Minute); err != nil || !strings.Contains(l.health(t).Problem, "store") {
			t.Fatal(err, l.health(t))
		}
	}
	l.gate.Refuse = nil
	if err := l.ask(t, time.Minute); err != nil || !l.gate.Released("dev1") {
		t.Errorf("%v: not told when the store answers again", err)
	}
}

// TestPanicEndsTheRoundAlone: nothing that a product sends ends the gateway.
func TestPanicEndsTheRoundAlone(t *testing.T) {
	l := newLab(t, noon, nil)
	l.Product = panicking{}
	if err := l.ask(t, 0); err == nil || l.health(t).Failures != 1 {
		t.Errorf("%v, %+v", err, l.health(t))
	}
}

type ctx = context.Context

type panicking struct{}

func (panicking) Hosts(ctx, *Client, func([]Host) error) error { panic("index out of range") }

// A product of whose hosts most make no sense, as when its answers have another form, fails:
// it was not heard of. With half of them it was, and what is wrong is told.
func TestMostlySenselessIsFailure(t *testing.T) {
	for _, c := range []struct {
		faulty, hosts, failures int
	}{{1, 1, 1}, {2, 2, 1}, {2, 3, 1}, {1, 2, 0}, {1, 3, 0}, {0, 0, 0}} {
		l := newLab(t, noon, nil)
		var hosts []Host
		for n := range c.hosts {
			h := host(time.Minute).named(n)
			if n < c.faulty {
				h.Fault = "field complianceState is missing"
			}
			hosts = append(hosts, h)
		}
		l.product.set(nil, hosts...)
		if err := l.ask(t, 0); err != nil {
			t.Fatal(err)
		}
		h := l.health(t)
		if h.Failures != c.failures || h.Heard.IsZero() != (c.failures > 0) || strings.Contains(h.Problem, "complianceState") != (c.faulty > 0) {
			t.Errorf("%d of %d hosts are faulty: %+v", c.faulty, c.hosts, h)
		}
		if len(hosts) == 0 {
			continue
		}
		l.product.one = func(string) (Host, error) { return hosts[0], nil }
		l.askSome(t.Context(), []string{"0"})
		if again := l.health(t); c.faulty > 0 && again.Failures != c.failures {
			t.Errorf("after a faulty host was asked for by itself: %+v", again)
		}
	}
}
