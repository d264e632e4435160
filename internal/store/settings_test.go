package store

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lazaret/enroll"
	"lazaret/firewall"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// pools are a quarantine pool and a full one, in the order they can be saved in.
func pools() []quarantine.Pool {
	return []quarantine.Pool{
		{
			Name: "quarantine", Quarantine: true,
			IPv4: netip.MustParsePrefix("10.80.0.0/20"), IPv6: netip.MustParsePrefix("fd00:80::/64"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("203.0.113.5/32"), Protocol: "tcp", From: 443, Up: 443}},
		},
		{Name: "staff", IPv4: netip.MustParsePrefix("10.81.0.0/20"), Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, DNS: []netip.Addr{netip.MustParseAddr("10.0.0.53")}},
	}
}

func TestPools(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	if err := s.PutPool(ctx, admin, pools()[1]); !errors.Is(err, ErrInvalid) {
		t.Errorf("a full pool before the quarantine pool: %v", err)
	}
	seedPools(t, s)
	table := s.PoolTable()
	staff, err := table.Get(ctx, "staff")
	if err != nil || staff.Value.Mark == 0 {
		t.Fatalf("saved as %+v, %v: want a mark", staff, err)
	}
	if q, _ := table.Get(ctx, "quarantine"); q.Value.Mark != 0 {
		t.Errorf("the quarantine pool has mark %d", q.Value.Mark)
	}

	// An edit keeps the mark, and only the one who read last may edit.
	edit := staff
	edit.Value.Mark, edit.Value.Masquerade = 0, true
	edited, err := table.Put(ctx, admin, edit)
	if err != nil || edited.Value.Mark != staff.Value.Mark || edited.Revision <= staff.Revision {
		t.Errorf("edited to %+v, %v", edited, err)
	}
	if _, err := table.Put(ctx, admin, edit); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("edit of an older state: %v", err)
	}
	edit.Revision = 0
	if _, err := table.Put(ctx, admin, edit); !errors.Is(err, enroll.ErrExists) {
		t.Errorf("new pool of an old name: %v", err)
	}
	for what, spoil := range map[string]func(*quarantine.Pool){
		"another mark":       func(p *quarantine.Pool) { p.Mark = 77 },
		"quarantine":         func(p *quarantine.Pool) { p.Quarantine = true },
		"overlap":            func(p *quarantine.Pool) { p.IPv4 = netip.MustParsePrefix("10.80.4.0/24") },
		"filed under others": func(p *quarantine.Pool) { p.Name = "other" },
	} {
		bad := edited
		spoil(&bad.Value)
		if _, err := table.Put(ctx, admin, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	if got, _ := table.Get(ctx, "staff"); !got.Value.Masquerade || got.Revision != edited.Revision {
		t.Errorf("refused edits left %+v", got)
	}

	// Marks are never given twice: a packet marked for a pool that is gone must not find another.
	guests := pools()[1]
	guests.Name, guests.IPv4 = "guests", netip.MustParsePrefix("10.82.0.0/20")
	if err := s.PutPool(ctx, admin, guests); err != nil {
		t.Fatal(err)
	}
	first, _ := table.Get(ctx, "guests")
	if err := s.DeletePool(ctx, admin, "guests"); err != nil {
		t.Fatal(err)
	}
	if err := s.PutPool(ctx, admin, guests); err != nil {
		t.Fatal(err)
	}
	if second, _ := table.Get(ctx, "guests"); second.Value.Mark == first.Value.Mark || second.Value.Mark == staff.Value.Mark {
		t.Errorf("mark %d was given again", second.Value.Mark)
	}
}

func TestPoolMustHoldEverySeat(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	seedPools(t, s)
	for n := 1; n <= 14; n++ {
		enrolltest.Enroll(t, s, n)
	}
	staff, _ := s.PoolTable().Get(ctx, "staff")
	staff.Value.IPv4 = netip.MustParsePrefix("10.81.0.0/28") // seats 1 to 13
	if _, err := s.PoolTable().Put(ctx, admin, staff); !errors.Is(err, ErrInvalid) {
		t.Errorf("14 seats in a /28: %v, want ErrInvalid", err)
	}
	staff.Value.IPv4 = netip.MustParsePrefix("10.81.0.0/27") // seats 1 to 29
	if _, err := s.PoolTable().Put(ctx, admin, staff); err != nil {
		t.Errorf("14 seats in a /27: %v", err)
	}
	// The store looks at the pools itself, whatever the desk thinks of them.
	for n := 15; n <= 29; n++ {
		enrolltest.Enroll(t, s, n)
	}
	_, err := s.Issue(ctx, enrolltest.Issuance(enrolltest.Create(t, s, enrolltest.OTP(30)), enrolltest.Record(30)))
	if !errors.Is(err, enroll.ErrFull) {
		t.Errorf("seat 30 in a /27: %v, want ErrFull", err)
	}
}

// Headscale #3155: deleting one user's thing deleted everyone's.
func TestDeletesAreScoped(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	seedPools(t, s)
	for _, name := range []string{"a", "ab", "a/b"} {
		if err := s.PutProfile(ctx, admin, quarantine.Profile{Name: name, Pool: "staff"}); err != nil {
			t.Fatal(err)
		}
		if err := s.PutSource(ctx, admin, quarantine.Source{Name: name, MayRelease: true}); err != nil {
			t.Fatal(err)
		}
		tok := Token{Name: name, Sum: enrolltest.SPKI(len(name) + 10*len(name)), Scope: "report"}
		if err := s.PutToken(ctx, admin, tok); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeletePool(ctx, admin, "staff"); !errors.Is(err, ErrInUse) {
		t.Errorf("a pool that profiles name: %v, want ErrInUse", err)
	}
	if err := s.DeletePool(ctx, admin, "quarantine"); !errors.Is(err, ErrInUse) {
		t.Errorf("the quarantine pool: %v, want ErrInUse", err)
	}
	if err := s.DeleteProfile(ctx, admin, "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteToken(ctx, admin, "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteProfile(ctx, admin, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	snap, err := s.Snapshot(ctx)
	if err != nil || len(snap.Profiles) != 2 || len(snap.Sources) != 3 || len(snap.Pools) != 2 {
		t.Errorf("left %d profiles, %d sources, %d pools, %v", len(snap.Profiles), len(snap.Sources), len(snap.Pools), err)
	}
	if tokens, _ := s.Tokens(ctx); len(tokens) != 2 {
		t.Errorf("left tokens %v", tokens)
	}
	if _, err := s.Profile(ctx, "a"); !errors.Is(err, enroll.ErrNoProfile) {
		t.Errorf("the deleted profile: %v", err)
	}
	for _, bad := range []quarantine.Profile{{Name: "x", Pool: "quarantine"}, {Name: "x", Pool: "nowhere"}, {Name: "", Pool: "staff"}, {Name: "x\n", Pool: "staff"}} {
		if err := s.PutProfile(ctx, admin, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("profile %+v: %v, want ErrInvalid", bad, err)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	want := Token{Name: "fleet", Sum: enrolltest.SPKI(1), Scope: "report", Source: "fleet", Created: enrolltest.OTP(1).Created, By: "root"}
	if err := s.PutToken(ctx, admin, want); err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenBySum(ctx, want.Sum)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	again := want
	again.Sum = enrolltest.SPKI(2)
	if err := s.PutToken(ctx, admin, again); !errors.Is(err, enroll.ErrExists) {
		t.Errorf("a second token of the name: %v", err)
	}
	if _, err := s.TokenBySum(ctx, again.Sum); !errors.Is(err, ErrNotFound) {
		t.Errorf("a refused token is found: %v", err)
	}
	if err := s.PutToken(ctx, admin, Token{Name: "none"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a token without a sum: %v", err)
	}
	if err := s.DeleteToken(ctx, admin, "fleet"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TokenBySum(ctx, want.Sum); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted token is found: %v", err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	it, err := s.Settings().Put(ctx, admin, Item[json.RawMessage]{Name: "mail", Value: json.RawMessage(`{"host":"mx"}`)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Settings().Get(ctx, "mail")
	if d := cmp.Diff(it, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	// A setting is nothing the gate must see.
	if now, _ := s.Now(ctx); now >= it.Revision {
		t.Errorf("the gate's revision moved to %d", now)
	}
	entries, err := s.AuditLog().List(ctx, "", epochStart, 1)
	if err != nil || len(entries) != 1 || entries[0].Action != "setting.put" || entries[0].Detail["value"] != "" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

// A listing by prefix reads what begins so, and nothing else: 100,000 devices' settings beside
// it must not be read with each look at three others.
func TestSettingsByPrefix(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	table := s.Settings()
	for _, name := range []string{"a", "a/1", "a/2", "a0", "b/1"} {
		if _, err := table.Put(ctx, admin, Item[json.RawMessage]{Name: name, Value: json.RawMessage(`"` + name + `"`)}); err != nil {
			t.Fatal(err)
		}
	}
	for prefix, want := range map[string][]string{"a/": {"a/1", "a/2"}, "a": {"a", "a/1", "a/2", "a0"}, "b/1": {"b/1"}, "c/": nil, "": {"a", "a/1", "a/2", "a0", "b/1"}} {
		items, err := table.ListPrefix(ctx, prefix)
		var got []string
		for _, it := range items {
			got = append(got, it.Name)
			if string(it.Value) != `"`+it.Name+`"` || it.Revision == 0 {
				t.Errorf("%s is %s at %d", it.Name, it.Value, it.Revision)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("under %q: %q, %v; want %q", prefix, got, err, want)
		}
		if names, err := table.Names(ctx, prefix); err != nil || !slices.Equal(names, want) {
			t.Errorf("names under %q: %q, %v; want %q", prefix, names, err, want)
		}
	}
	// A value that cannot be read would fail a listing that reads it.
	if _, err := s.client.Put(ctx, settingPrefix+"z/broken", "{"); err != nil {
		t.Fatal(err)
	}
	if _, err := table.ListPrefix(ctx, ""); err == nil {
		t.Error("a broken value is listed")
	}
	if _, err := table.ListPrefix(ctx, "a/"); err != nil {
		t.Errorf("values beside it are not: %v", err)
	}
	if names, err := table.Names(ctx, "z/"); err != nil || len(names) != 1 {
		t.Errorf("its name: %q, %v", names, err)
	}
}
