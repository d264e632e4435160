package update

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

var spring = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func testChannel() Channel {
	r := func(version, follows, flavour string) Release {
		return Release{Version: version, Architecture: "amd64", Flavour: flavour, Follows: follows, File: "lazaret-" + version + ".update", Size: 1000, SHA256: strings.Repeat("0a", 32), Percent: 50, Start: spring, Hours: 100}
	}
	return Channel{Name: "stable", Created: spring, Expires: spring.Add(30 * 24 * time.Hour), Releases: []Release{
		r("1.0.0", "0.1.0", "cloud"), r("1.5.0", "0.9.0", "cloud"), r("2.0.0", "1.5.0", "cloud"), r("3.0.0", "1.0.0", "metal"),
	}}
}

// TestChannel: what a channel says is believed while it is signed and fresh, and a machine
// is offered what it may take.
func TestChannel(t *testing.T) {
	keys := testKeys(testKey(1))
	text, err := testChannel().Sign(testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		text        []byte
		now, before time.Time
		says        string
	}{
		{"fresh", text, spring.Add(time.Hour), time.Time{}, ""},
		{"seen before", text, spring.Add(time.Hour), spring, ""},
		{"a minute before its end", text, spring.Add(30*24*time.Hour - time.Minute), time.Time{}, ""},
		{"at its end", text, spring.Add(30 * 24 * time.Hour), time.Time{}, "was good until"},
		{"older than one seen", text, spring.Add(time.Hour), spring.Add(time.Minute), "newer one was seen"},
		{"of next week", text, spring.Add(-7 * 24 * time.Hour), time.Time{}, "clocks"},
		{"something behind it", append(bytes.Clone(text), 'x'), spring, time.Time{}, "follows"},
		{"a bundle", bundleOf(t, testManifest(new_, older), []byte("x"), testKey(1)), spring, time.Time{}, "kind"},
	} {
		_, err := OpenChannel(c.text, keys, c.now, c.before)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, appliance.ErrRefused) || !strings.Contains(fmt.Sprint(err), c.says)) {
			t.Errorf("%s: %v; want %q", c.name, err, c.says)
		}
	}
	if _, err := OpenChannel(text, testKeys(testKey(2)), spring, time.Time{}); !errors.Is(err, appliance.ErrRefused) {
		t.Errorf("by another key: %v", err)
	}
	for version, want := range map[string]string{"0.5.0": "1.0.0 2.0.0", "0.9.0": "1.5.0 2.0.0", "1.5.0": "2.0.0 2.0.0", "2.0.0": " ", "2.1.0": " "} {
		next, behind := testChannel().Next(version, "amd64", "cloud")
		if got := next.Version + " " + behind; got != want {
			t.Errorf("after %s comes %q; want %q", version, got, want)
		}
	}
}

// TestStaggering: half of all machines take it, one hundredth of the hours apart, and every
// machine's turn stays the same.
func TestStaggering(t *testing.T) {
	r := testChannel().Releases[0] // 50 percent, 100 hours
	for place := range 100 {
		for hour := range 120 {
			want := place < 50 && hour >= place
			if got := r.Due(place, spring.Add(time.Duration(hour)*time.Hour)); got != want {
				t.Fatalf("place %d after %d hours: %v", place, hour, got)
			}
		}
	}
	if r.Percent = 0; r.Due(0, spring.Add(1000*time.Hour)) {
		t.Error("a release that was taken back is taken")
	}
	if r.Percent = 100; !r.Due(99, spring.Add(1000*time.Hour)) || r.Due(0, spring.Add(-time.Second)) || (Release{Percent: 100}).Due(0, spring) {
		t.Error("the first, the last, or one without a start has no turn of its own")
	}
}

// TestWindow knows that the first of March 2026 is a Sunday.
func TestWindow(t *testing.T) {
	for _, c := range []struct {
		text, at string
		want     bool
	}{
		{"", "2026-03-03T02:00:00Z", true},
		{"", "2026-03-03T05:00:00Z", false},
		{"Sun 02:00-05:00", "2026-03-01T04:59:59Z", true},
		{"Sun 02:00-05:00", "2026-03-02T03:00:00Z", false},
		{"Sun,Mon 02:00-05:00", "2026-03-02T03:00:00Z", true},
		{"Sun 23:00-01:00", "2026-03-02T00:30:00Z", true},
		{"Sun 23:00-01:00", "2026-03-01T00:30:00Z", false},
		{"02:00-05:00", "2026-03-01T05:30:00+02:00", true},
	} {
		w, err := ParseWindow(c.text)
		at, err2 := time.Parse(time.RFC3339, c.at)
		if err != nil || err2 != nil || w.Contains(at) != c.want {
			t.Errorf("%q at %s: %v, %v", c.text, c.at, w.Contains(at), errors.Join(err, err2))
		}
	}
	for _, text := range []string{"Sun", "Sun 2-5", "Sun,Sun 02:00-05:00", "Day 02:00-05:00", "02:00-02:00", "02:00", "Sun 02:00-05:00 x", "25:00-26:00"} {
		if _, err := ParseWindow(text); !errors.Is(err, appliance.ErrRefused) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestSettings: no channel but over https, and nothing automatic without one.
func TestSettings(t *testing.T) {
	for u, ok := range map[appliance.Updates]bool{
		{}: true, {Channel: "https://updates.example/stable"}: true, {Channel: "https://updates.example/stable/", Automatic: true, Window: "Sun 02:00-05:00"}: true,
		{Automatic: true}: false, {Channel: "http://updates.example/"}: false, {Channel: "https://user:word@updates.example/"}: false,
		{Channel: "https://updates.example/?x"}: false, {Channel: "/stable"}: false, {Window: "soon"}: false,
	} {
		if err := CheckSettings(u); (err == nil) != ok {
			t.Errorf("%+v: %v", u, err)
		}
	}
}

// TestVersions orders versions as the examples of UAPI.10 do, and as this project's are.
func TestVersions(t *testing.T) {
	for _, row := range []string{
		"1.0~rc1 1.0 1.0.0 1.0.1 1.2 1.10 2 11 122.1 123",
		"0.1.0~dev 0.1.0 0.1.1~alpha1 0.1.1~beta.2 0.1.1~rc1 0.1.1~rc2 0.1.1~rc10 0.1.1 0.2.0",
	} {
		all := strings.Fields(row)
		for i, a := range all {
			for j, b := range all {
				if !ValidVersion(a) || sign(CompareVersions(a, b)) != sign(i-j) {
					t.Errorf("%s and %s: %d; want %d", a, b, CompareVersions(a, b), sign(i-j))
				}
			}
		}
	}
	for _, v := range []string{"", "1.", ".1", "1+3", "1_2", "1/2", "1.2.3.4.5", "v1", "1-", "../1", "1.0-DEV", "1.2.0-rc1", "1.2.0-1", "1.2.0~rc-1", strings.Repeat("1", 10)} {
		if ValidVersion(v) {
			t.Errorf("%q is a version", v)
		}
	}
	if CompareVersions("1.0", "1.00") != 0 || CompareVersions("01", "1") != 0 {
		t.Error("zeros in front count")
	}
	if CompareVersions("1.2.0-rc1", "1.2.0") <= 0 {
		t.Error("a dash sorts otherwise than the boot loader has it")
	}
	for v, says := range map[string]string{"1.2.0": "", "1.2.0~rc1": "", "1.2.0-rc1": "write 1.2.0~rc1", "1.2.0-beta.2": "write 1.2.0~beta.2", "1.2.0-alpha-1": "not like 1.2.3", "v1": "not like 1.2.3"} {
		if err := CheckVersion(v); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %q", v, err, says)
		}
	}
}

func sign(n int) int { return bit(n > 0) - bit(n < 0) }

// TestListedOutlivesRestarts: when the newest list was made is known after a restart, goes
// forward alone, and is of one channel.
func TestListedOutlivesRestarts(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC)
	start := func() *Manager {
		return manager(t, fresh(wide, SlotName(old)), dir, old, "", func(c *Config) { c.Now = func() time.Time { return now } })
	}
	m := start()
	if err := m.SetSettings(appliance.Updates{Channel: "https://updates.example/stable"}); err != nil {
		t.Fatal(err)
	}
	for _, listed := range []time.Time{now, now.Add(-time.Hour), {}} {
		if err := m.Heard(now, "", time.Time{}, "", listed); err != nil || !start().Listed().Equal(now) {
			t.Errorf("after a list of %s: %s, %v", listed, start().Listed(), err)
		}
	}
	if err := m.Heard(now, "", time.Time{}, "", now.Add(25*time.Hour)); !errors.Is(err, appliance.ErrRefused) || !start().Listed().Equal(now) {
		t.Errorf("of the future: %s, %v", start().Listed(), err)
	}
	if err := m.SetSettings(appliance.Updates{Channel: "https://updates.example/other"}); err != nil || !m.Listed().IsZero() {
		t.Errorf("of another channel: %s, %v", m.Listed(), err)
	}
}
