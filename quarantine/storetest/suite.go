package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// patience is how long the suite waits for an event of a real store.
const patience = 10 * time.Second

// Harness is a new, empty store, and the ways into it that do not go through the gate.
type Harness struct {
	Store quarantine.Store
	// Put writes a record as an enrollment does, new or in place of the old, and returns
	// it as stored: Revision set, Seat given if it was zero.
	Put func(t testing.TB, r quarantine.Record) quarantine.Record
	// Delete removes a device.
	Delete func(t testing.TB, id quarantine.ID)
	// Save makes pools, profiles and sources be exactly these. Marks are the store's to give.
	Save func(t testing.TB, s Settings)
	// Touch moves the store's revision on by something that the gate does not look at, such
	// as a one-time password.
	Touch func(t testing.TB)
	// Compact compacts up to a revision, which the store has passed. Optional.
	Compact func(t testing.TB, revision int64)
}

// Run holds a store to what quarantine.Store promises.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for name, test := range map[string]func(*testing.T, Harness){
		"a snapshot holds every field":             snapshotLossless,
		"a record is compared by revision":         recordCompares,
		"a record creates no device":               recordCreatesNothing,
		"one of many writers wins":                 recordRace,
		"many records are written as one":          recordAll,
		"a watch sends all, in order":              watchOrder,
		"a watch resumes":                          watchResumes,
		"a watch reaches every revision":           watchReachesNow,
		"a watch tells of settings":                watchSettings,
		"a watch tells of devices that are gone":   watchGone,
		"a watch ends with its context":            watchEnds,
		"a watch from before a compaction says so": watchCompacted,
		"marks are never reused":                   marks,
		"versions of a set only grow":              versions,
		"a confirmation is taken":                  confirm,
		"an ended context stops a call":            ended,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Sample returns a record of device n with every field filled.
func Sample(n int) quarantine.Record {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	id := quarantine.ID(fmt.Sprintf("device-%04d", n))
	person := quarantine.Decision{By: quarantine.Actor{Kind: "administrator", Name: "root", Address: "192.0.2.7"}, At: at, Why: "because"}
	r := quarantine.Record{
		Device: quarantine.Device{ID: id, Name: fmt.Sprintf("laptop-%d", n), Owner: "owner@example.test",
			Key: key(n, 1), Next: key(n, 2), Seat: quarantine.Seat(n + 1), Serial: fmt.Sprintf("SN%d", n),
			Pool: "quarantine", Stage: quarantine.Quarantined, Since: at, Reason: "nobody has reported on it yet"},
		Profile: "staff", Platform: "linux", Ownership: "corporate",
		Certificate: quarantine.Certificate{Serial: fmt.Sprintf("0a%06x", n), NotBefore: at, NotAfter: at.Add(90 * 24 * time.Hour),
			SPKI: [32]byte(key(n, 3)), Sum: [32]byte(key(n, 4))},
		Reports: map[string]quarantine.Report{"mdm": {Device: id, Source: "mdm", Verdict: quarantine.NonCompliant, At: at, Sequence: 7,
			Validity: time.Hour, Received: at.Add(time.Second), Facts: map[string]string{"os": "linux"}, Detail: "disk"}},
		Approval: person, Hold: person, Block: person, Unblocking: person, Revocation: person,
		Proven: true, Confirmed: true, Tighten: 9, Until: at.Add(time.Hour),
		Reasons: []quarantine.Reason{{Rule: "release.report", Holds: true, Text: "text", Source: "mdm", At: at}, {Rule: "hold"},
			{Rule: "baseline/disk", Set: "baseline", Version: 3, Fact: "disk.encrypted", Remedy: "encrypt the disk", Fault: true}},
		Groups: []string{"finance"}, Seen: at.Add(-time.Hour), Session: quarantine.UserSession{User: "owner@example.test", At: at, Until: at.Add(time.Hour), How: "card", By: person.By},
		Waivers: map[string]quarantine.Waiver{"baseline/disk": {Decision: person, Until: at.Add(24 * time.Hour), Digest: "00"}},
		Failing: map[string]time.Time{"baseline/disk": at}, Marks: map[string]quarantine.Mark{"baseline/disk": {Since: at, Held: at.Add(time.Minute), Broken: true}}, Wipe: person, Unwiping: person,
	}
	return r
}

func key(n, salt int) tunnel.Key {
	var k tunnel.Key
	copy(k[:], fmt.Sprintf("%08d-%08d-key", n, salt))
	return k
}

func pools() map[string]quarantine.Pool {
	return map[string]quarantine.Pool{
		"quarantine": {Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.1.0.0/16"), IPv6: netip.MustParsePrefix("fd00:1::/64"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.1/32"), Protocol: "tcp", From: 443, Up: 443}}},
		"full": {Name: "full", IPv4: netip.MustParsePrefix("10.2.0.0/16"), Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, Gateways: []string{"far"}, Masquerade: true},
	}
}

func settingsOf() Settings {
	return Settings{
		Pools: pools(),
		Profiles: map[string]quarantine.Profile{"staff": {Name: "staff", Pool: "full", NeedApproval: true, Platforms: []string{"linux"},
			Ownerships: []string{"corporate"}, NeedSerial: true, AllowRSA: true, Addressing: quarantine.Fixed, Groups: []string{"staff"}}},
		Sources: map[string]quarantine.Source{"mdm": {Name: "mdm", MayRelease: true, MaxValidity: time.Hour, Kind: quarantine.SourceWebhook,
			For: quarantine.Selection{Platforms: []string{"linux"}, Groups: []string{"staff"}}, Facts: []string{"os.*", "disk.encrypted"}, Silent: 24 * time.Hour}},
		Sets: map[string]quarantine.PolicySet{"baseline": {Name: "baseline", Text: "what everybody needs", Assigned: true, STIG: true,
			For: quarantine.Selection{Ownerships: []string{"corporate"}}, AgentReleases: true,
			Rules: []quarantine.PolicyRule{{Name: "disk", Text: "the disk is encrypted", Remedy: "encrypt it", Expression: "true",
				CheckEvery: time.Hour, Grace: time.Minute, OnFailure: quarantine.FailBlock}}}},
		Conduct: quarantine.Conduct{Strict: true, AlertAfter: time.Hour, ActAfter: 2 * time.Hour, OnInactive: quarantine.FailBlock, SessionLife: time.Hour},
	}
}

func snapshot(t *testing.T, h Harness) quarantine.Snapshot {
	t.Helper()
	s, err := h.Store.Snapshot(t.Context())
	if err != nil {
		t.Fatalf("taking a snapshot: %v", err)
	}
	return s
}

func snapshotLossless(t *testing.T, h Harness) {
	before := snapshot(t, h).Revision
	put := h.Put(t, Sample(1))
	s := snapshot(t, h)
	if put.Revision <= before || s.Revision < put.Revision {
		t.Errorf("revisions: %d before, record at %d, snapshot at %d; want them to rise", before, put.Revision, s.Revision)
	}
	want := Sample(1)
	want.Revision, want.Seat = put.Revision, put.Seat
	if diff := cmp.Diff(want, s.Records[want.ID]); diff != "" {
		t.Errorf("the stored record differs (-want +got):\n%s", diff)
	}
}

func change(r quarantine.Record, kind quarantine.Kind) quarantine.Change {
	return quarantine.Change{Kind: kind, Device: r.ID, By: quarantine.Actor{Kind: "administrator", Name: "root"}, At: time.Now(), Why: "test"}
}

func recordCompares(t *testing.T, h Harness) {
	first := h.Put(t, Sample(1))
	next := first
	next.Tighten, next.Stage = 10, quarantine.Blocked
	revision, err := h.Store.Record(t.Context(), change(next, quarantine.Block), next)
	if err != nil || revision <= first.Revision {
		t.Fatalf("recording at revision %d: got %d, %v", first.Revision, revision, err)
	}
	if _, err := h.Store.Record(t.Context(), change(next, quarantine.Unblock), next); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("recording over an old revision: got %v, want ErrConflict", err)
	}
	got := snapshot(t, h).Records[next.ID]
	next.Revision = revision
	if diff := cmp.Diff(next, got); diff != "" {
		t.Errorf("after one accepted and one refused record (-want +got):\n%s", diff)
	}
}

func recordCreatesNothing(t *testing.T, h Harness) {
	r := h.Put(t, Sample(1))
	h.Delete(t, r.ID)
	unknown := Sample(2)
	for _, next := range []quarantine.Record{r, unknown} {
		if _, err := h.Store.Record(t.Context(), change(next, quarantine.Confirm), next); !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("recording %s, which is not there: got %v, want ErrUnknownDevice", next.ID, err)
		}
	}
	if n := len(snapshot(t, h).Records); n != 0 {
		t.Errorf("%d records, want none", n)
	}
}

// recordAll writes several records in one revision, each with its own change, or none.
func recordAll(t *testing.T, h Harness) {
	store, ok := h.Store.(quarantine.Batcher)
	if !ok {
		t.Skip("the store writes one record at a time")
	}
	var writes []quarantine.Write
	for n := range quarantine.MaxBatch {
		r := Sample(n)
		r.Revocation, r.Reason = quarantine.Decision{}, ""
		r = h.Put(t, r)
		r.Reason = "written with others"
		writes = append(writes, quarantine.Write{Change: quarantine.Change{Kind: quarantine.Lapse, Device: r.ID, At: r.Since}, Next: r})
	}
	at, err := h.Store.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stale := append([]quarantine.Write(nil), writes...)
	stale[7].Next.Revision--
	gone := append([]quarantine.Write(nil), writes...)
	gone[7].Next.ID, gone[7].Change.Device = "nobody", "nobody"
	for what, all := range map[string][]quarantine.Write{"a stale one": stale, "one of no device": gone} {
		if _, err := store.RecordAll(t.Context(), all); !errors.Is(err, quarantine.ErrConflict) {
			t.Errorf("%s among many: %v, want ErrConflict", what, err)
		}
	}
	if now, err := h.Store.Now(t.Context()); err != nil || now != at {
		t.Errorf("revision %d after refusals, %v; want %d as before", now, err, at)
	}
	revision, err := store.RecordAll(t.Context(), writes)
	if err != nil || revision <= at {
		t.Fatalf("revision %d, %v; want one above %d", revision, err, at)
	}
	snap, err := h.Store.Snapshot(t.Context())
	if err != nil || snap.Revision != revision {
		t.Fatalf("snapshot at %d, %v; want %d", snap.Revision, err, revision)
	}
	for _, w := range writes {
		w.Next.Revision = revision
		if diff := cmp.Diff(w.Next, snap.Records[w.Next.ID]); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := <-h.Store.Watch(ctx, at)
	if e.Revision != revision || len(e.Records) != len(writes) || e.Settings {
		t.Errorf("event at %d with %d records, want %d at %d", e.Revision, len(e.Records), len(writes), revision)
	}
}

func recordRace(t *testing.T, h Harness) {
	r := h.Put(t, Sample(1))
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			switch _, err := h.Store.Record(t.Context(), change(r, quarantine.Confirm), r); {
			case err == nil:
				won.Add(1)
			case errors.Is(err, quarantine.ErrConflict):
				lost.Add(1)
			default:
				t.Errorf("recording: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || lost.Load() != 15 {
		t.Errorf("%d writers won and %d lost, want 1 and 15", won.Load(), lost.Load())
	}
}

// until reads events until one satisfies done, and returns all of them.
func until(t *testing.T, events <-chan quarantine.Event, done func(quarantine.Event) bool) []quarantine.Event {
	t.Helper()
	var all []quarantine.Event
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatalf("the watch ended after %d events", len(all))
			}
			if len(all) > 0 && e.Err == nil && e.Revision <= all[len(all)-1].Revision {
				t.Errorf("revision %d after %d", e.Revision, all[len(all)-1].Revision)
			}
			if all = append(all, e); done(e) {
				return all
			}
		case <-timeout:
			t.Fatalf("no such event within %s, after %d others", patience, len(all))
		}
	}
}

func reaches(revision int64) func(quarantine.Event) bool {
	return func(e quarantine.Event) bool { return e.Err != nil || e.Revision >= revision }
}

func watchOrder(t *testing.T, h Harness) {
	start := snapshot(t, h).Revision
	events := h.Store.Watch(t.Context(), start)
	var want []int64
	r := h.Put(t, Sample(1))
	want = append(want, r.Revision)
	for i := range 20 {
		r.Tighten = uint64(100 + i)
		revision, err := h.Store.Record(t.Context(), change(r, quarantine.Confirm), r)
		if err != nil {
			t.Fatal(err)
		}
		r.Revision = revision
		want = append(want, revision)
	}
	var got []int64
	for _, e := range until(t, events, reaches(r.Revision)) {
		for _, rec := range e.Records {
			if rec.Revision != e.Revision {
				t.Errorf("a record of revision %d in the event of revision %d", rec.Revision, e.Revision)
			}
			got = append(got, rec.Revision)
			if rec.Revision == r.Revision {
				if diff := cmp.Diff(r, rec); diff != "" {
					t.Errorf("the record in the event differs (-want +got):\n%s", diff)
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("revisions written and seen (-want +got):\n%s", diff)
	}
}

func watchResumes(t *testing.T, h Harness) {
	first := h.Put(t, Sample(1))
	second := h.Put(t, Sample(2))
	third := h.Put(t, Sample(3))
	var got []quarantine.ID
	for _, e := range until(t, h.Store.Watch(t.Context(), first.Revision), reaches(third.Revision)) {
		for _, r := range e.Records {
			got = append(got, r.ID)
		}
	}
	if diff := cmp.Diff([]quarantine.ID{second.ID, third.ID}, got); diff != "" {
		t.Errorf("watching after revision %d (-want +got):\n%s", first.Revision, diff)
	}
}

func watchReachesNow(t *testing.T, h Harness) {
	events := h.Store.Watch(t.Context(), snapshot(t, h).Revision)
	h.Touch(t)
	now, err := h.Store.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	until(t, events, reaches(now))
}

func watchSettings(t *testing.T, h Harness) {
	events := h.Store.Watch(t.Context(), snapshot(t, h).Revision)
	h.Save(t, settingsOf())
	last := until(t, events, func(e quarantine.Event) bool { return e.Settings })
	s := snapshot(t, h)
	if s.Revision < last[len(last)-1].Revision {
		t.Errorf("snapshot at %d after the event of %d", s.Revision, last[len(last)-1].Revision)
	}
	// Saving may take several revisions; the last one tells of the last change.
	now, err := h.Store.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := settingsOf()
	for s.Revision < now {
		s = snapshot(t, h)
	}
	got := Settings{Pools: maps.Clone(s.Pools), Profiles: s.Profiles, Sources: s.Sources, Sets: maps.Clone(s.Sets), Conduct: s.Conduct}
	for name, set := range got.Sets {
		if set.Version < 1 {
			t.Errorf("set %q has version %d", name, set.Version)
		}
		set.Version = 0
		got.Sets[name] = set
	}
	for name, p := range got.Pools {
		if p.Quarantine != (p.Mark == 0) {
			t.Errorf("pool %q has mark %d", name, p.Mark)
		}
		p.Mark = 0
		got.Pools[name] = p
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func watchGone(t *testing.T, h Harness) {
	r := h.Put(t, Sample(1))
	events := h.Store.Watch(t.Context(), r.Revision)
	h.Delete(t, r.ID)
	until(t, events, func(e quarantine.Event) bool { return len(e.Gone) == 1 && e.Gone[0] == r.ID })
}

func watchEnds(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	events := h.Store.Watch(ctx, snapshot(t, h).Revision)
	cancel()
	timeout := time.After(patience)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if e.Err != nil {
				t.Errorf("the end of the context is reported as %v", e.Err)
			}
		case <-timeout:
			t.Fatal("the channel is not closed")
		}
	}
}

func watchCompacted(t *testing.T, h Harness) {
	if h.Compact == nil {
		t.Skip("this store cannot be compacted by hand")
	}
	first := h.Put(t, Sample(1))
	h.Put(t, Sample(2))
	last := h.Put(t, Sample(3))
	h.Compact(t, last.Revision)
	all := until(t, h.Store.Watch(t.Context(), first.Revision), reaches(last.Revision))
	if e := all[len(all)-1]; !errors.Is(e.Err, quarantine.ErrCompacted) {
		t.Errorf("watching from before the compaction: got %+v, want ErrCompacted", e)
	}
}

func marks(t *testing.T, h Harness) {
	s := settingsOf()
	h.Save(t, s)
	first := snapshot(t, h).Pools["full"].Mark
	h.Save(t, s)
	if again := snapshot(t, h).Pools["full"].Mark; again != first || first == 0 {
		t.Errorf("saving a pool again changed its mark from %d to %d", first, again)
	}
	other := s.Pools["full"]
	other.Name, other.IPv4 = "other", netip.MustParsePrefix("10.3.0.0/16")
	delete(s.Pools, "full")
	s.Profiles = nil
	h.Save(t, s)
	s.Pools["other"] = other
	h.Save(t, s)
	if mark := snapshot(t, h).Pools["other"].Mark; mark == first || mark == 0 {
		t.Errorf("a new pool got mark %d, the old one had %d", mark, first)
	}
}

func versions(t *testing.T, h Harness) {
	s := settingsOf()
	var last int64
	for range 2 {
		for range 2 {
			h.Save(t, s)
			now := snapshot(t, h).Sets["baseline"].Version
			if now <= last {
				t.Errorf("version %d after %d", now, last)
			}
			last = now
		}
		without := settingsOf()
		without.Sets = nil
		h.Save(t, without) // and it comes again
		if n := len(snapshot(t, h).Sets); n != 0 {
			t.Errorf("%d sets, want none", n)
		}
	}
}

func confirm(t *testing.T, h Harness) {
	now, err := h.Store.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Store.Confirm(t.Context(), now); err != nil {
		t.Errorf("confirming revision %d: %v", now, err)
	}
}

func ended(t *testing.T, h Harness) {
	r := h.Put(t, Sample(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Store.Record(ctx, change(r, quarantine.Confirm), r); err == nil {
		t.Error("recorded with an ended context")
	}
	if _, err := h.Store.Now(ctx); err == nil {
		t.Error("a linearizable read with an ended context")
	}
}
