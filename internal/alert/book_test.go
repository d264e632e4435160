package alert

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine"
)

// memory is a Store in memory.
type memory struct {
	mu   sync.Mutex
	all  map[string][]byte
	fail error
}

func (m *memory) Put(_ context.Context, name string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.all == nil {
		m.all = map[string][]byte{}
	}
	m.all[name] = value
	return nil
}

func (m *memory) List(_ context.Context, prefix string) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := maps.Clone(m.all)
	maps.DeleteFunc(out, func(name string, _ []byte) bool { return !strings.HasPrefix(name, prefix) })
	return out, nil
}

func (m *memory) Delete(_ context.Context, names ...string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range names {
		delete(m.all, n)
	}
	return nil
}

// trail is an audit log in memory.
type trail struct{ entries []string }

func (t *trail) audit(_ context.Context, by quarantine.Actor, action string, a Alert) error {
	t.entries = append(t.entries, by.Name+" "+action+" "+a.ID)
	return nil
}

var (
	gateway = quarantine.Actor{Kind: "gateway", Name: "gw"}
	person  = quarantine.Actor{Kind: "administrator", Name: "ann"}
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func open(t *testing.T, m *memory, tr *trail) *Book {
	t.Helper()
	b, err := OpenBook(t.Context(), m, tr.audit, gateway)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func silentSource(name string) Condition {
	return Condition{SilentSource, name, Critical, name + " is silent", "look"}
}

// TestOneConditionIsOneAlert finds the same again and again, has it acknowledged, lets it
// go and come back, over restarts.
func TestOneConditionIsOneAlert(t *testing.T) {
	m, tr := &memory{}, &trail{}
	kinds := []Kind{SilentSource}
	observe := func(b *Book, minute int, found ...Condition) {
		t.Helper()
		if err := b.Observe(t.Context(), noon.Add(time.Duration(minute)*time.Minute), kinds, found); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, m, tr)
	for minute := range 5 {
		observe(b, minute, silentSource("mdm"), silentSource("mdm"))
	}
	a, err := b.Get("silent-source/mdm")
	if err != nil || a.Count != 1 || a.State != Raised || !a.Since.Equal(noon) {
		t.Errorf("after five rounds: %+v, %v; want raised once, at noon", a, err)
	}
	if _, err := b.Acknowledge(t.Context(), person, a.ID, "on it", noon.Add(6*time.Minute)); err != nil {
		t.Error(err)
	}
	b = open(t, m, tr) // a restart
	observe(b, 7, silentSource("mdm"))
	if a, _ := b.Get("silent-source/mdm"); a.State != Acknowledged || a.Acknowledgement.By != person {
		t.Errorf("after a restart: %+v; want it acknowledged by ann still", a)
	}
	observe(b, 8)
	if a, _ := b.Get("silent-source/mdm"); a.State != Resolved || a.Resolution.By != gateway {
		t.Errorf("after the condition went: %+v; want it resolved by the gateway", a)
	}
	observe(b, 9, silentSource("mdm"))
	if a, _ := b.Get("silent-source/mdm"); a.State != Raised || a.Count != 2 || a.Acknowledgement.Set() || !a.First.Equal(noon) {
		t.Errorf("after it came back: %+v; want it raised a second time, first at noon", a)
	}
	want := []string{
		"gw alert.raise silent-source/mdm", "ann alert.acknowledge silent-source/mdm",
		"gw alert.resolve silent-source/mdm", "gw alert.raise silent-source/mdm",
	}
	if got := strings.Join(tr.entries, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the audit log holds\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// TestWhatWasNotLookedForStays keeps alerts whose rule could not look.
func TestWhatWasNotLookedForStays(t *testing.T) {
	b := open(t, &memory{}, &trail{})
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, []Condition{silentSource("mdm")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Observe(t.Context(), noon, []Kind{Quota}, nil); err != nil {
		t.Fatal(err)
	}
	if a, err := b.Get("silent-source/mdm"); err != nil || a.State != Raised {
		t.Errorf("an alert that nobody looked for again is %q, %v", a.State, err)
	}
}

// TestWorseIsRaisedAnew tells again of what was acknowledged as a warning and is critical now.
func TestWorseIsRaisedAnew(t *testing.T) {
	b := open(t, &memory{}, &trail{})
	c := Condition{Kind: Expiring, Subject: "x", Severity: Warning, Text: "soon"}
	kinds := []Kind{Expiring}
	if err := b.Observe(t.Context(), noon, kinds, []Condition{c}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Acknowledge(t.Context(), person, c.ID(), "", noon); err != nil {
		t.Fatal(err)
	}
	c.Severity, c.Text = Critical, "now"
	if err := b.Observe(t.Context(), noon, kinds, []Condition{c}); err != nil {
		t.Fatal(err)
	}
	if a, _ := b.Get(c.ID()); a.State != Raised || a.Count != 2 || a.Text != "now" {
		t.Errorf("got %+v, want it raised a second time", a)
	}
}

func TestChangesThatAreRefused(t *testing.T) {
	b := open(t, &memory{}, &trail{})
	if _, err := b.Acknowledge(t.Context(), person, "quota", "", noon); !errors.Is(err, ErrUnknown) {
		t.Errorf("acknowledging what is not: %v", err)
	}
	if err := b.Observe(t.Context(), noon, []Kind{Quota}, []Condition{{Kind: Quota, Severity: Critical, Text: "full"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Resolve(t.Context(), person, "quota", "disk added", noon); err != nil {
		t.Error(err)
	}
	if _, err := b.Acknowledge(t.Context(), person, "quota", "", noon); !errors.Is(err, ErrOver) {
		t.Errorf("acknowledging what is over: %v", err)
	}
}

// TestStoreThatFails loses no condition: what could not be kept is raised the next time.
func TestStoreThatFails(t *testing.T) {
	m := &memory{fail: errors.New("no quorum")}
	b := open(t, m, &trail{})
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, []Condition{silentSource("mdm")}); err == nil {
		t.Error("nobody says that the alert was not kept")
	}
	m.fail = nil
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, []Condition{silentSource("mdm")}); err != nil {
		t.Fatal(err)
	}
	if a, err := b.Get("silent-source/mdm"); err != nil || a.Count != 1 {
		t.Errorf("got %+v, %v", a, err)
	}
}

// TestBookIsBounded fills the book and finds that resolved alerts make room.
func TestBookIsBounded(t *testing.T) {
	b := open(t, &memory{}, &trail{})
	var found []Condition
	for i := range most {
		found = append(found, silentSource(fmt.Sprint(i)))
	}
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, found); err != nil {
		t.Fatal(err)
	}
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, append(found, silentSource("more"))); err == nil {
		t.Error("a full book took one more")
	}
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, found[1:]); err != nil {
		t.Fatal(err)
	}
	if err := b.Observe(t.Context(), noon, []Kind{SilentSource}, append(found[1:], silentSource("more"))); err != nil {
		t.Errorf("a resolved alert made no room: %v", err)
	}
}

// ear is an Outlet that remembers.
type ear struct {
	name  string
	least Severity
	fail  error
	heard []string
}

func (e *ear) Name() string    { return e.name }
func (e *ear) Least() Severity { return e.least }
func (e *ear) Send(_ context.Context, notices []Notice) error {
	if e.fail != nil {
		return e.fail
	}
	for _, n := range notices {
		e.heard = append(e.heard, fmt.Sprintf("%s %s", n.What, n.ID))
	}
	return nil
}

// TestTellOnce tells each outlet each change once, also over a restart and after a failure,
// and never tells the end of what it did not tell of.
func TestTellOnce(t *testing.T) {
	m, tr := &memory{}, &trail{}
	b := open(t, m, tr)
	all, loud := &ear{name: "mail", least: Info}, &ear{name: "pager", least: Critical}
	outlets := []Outlet{all, loud}
	kinds := []Kind{SilentSource, FailingSource}
	warning := Condition{FailingSource, "mdm", Warning, "fails", ""}
	step := func(found ...Condition) {
		t.Helper()
		if err := b.Observe(t.Context(), noon, kinds, found); err != nil {
			t.Fatal(err)
		}
		b.Tell(t.Context(), outlets, discard)
	}
	step(warning)
	step(warning)
	loud.fail = errors.New("out of order")
	step(warning, silentSource("mdm"))
	b = open(t, m, tr)
	loud.fail = nil
	step(warning, silentSource("mdm"))
	step()
	step()
	check := func(e *ear, want ...string) {
		t.Helper()
		if got := strings.Join(e.heard, ", "); got != strings.Join(want, ", ") {
			t.Errorf("%s heard %q, want %q", e.name, got, strings.Join(want, ", "))
		}
	}
	check(all, "raised failing-source/mdm", "raised silent-source/mdm", "resolved silent-source/mdm", "resolved failing-source/mdm")
	check(loud, "raised silent-source/mdm", "resolved silent-source/mdm")

	loud.fail = errors.New("out of order again")
	step(silentSource("other"))
	step()
	loud.fail = nil
	step()
	check(loud, "raised silent-source/mdm", "resolved silent-source/mdm")
}
