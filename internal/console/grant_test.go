package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// tokenLab has devices that differ in all that a selection can ask for, and a clock.
type tokenLab struct {
	*lab
	now  time.Time
	uses map[[32]byte]time.Time
}

func newTokenLab(t *testing.T) *tokenLab {
	l := &tokenLab{lab: newLab(t), now: time.Date(2026, 1, 31, 8, 30, 0, 0, time.UTC), uses: map[[32]byte]time.Time{}}
	l.admin.NotAfter = l.now.Add(10 * 365 * day)
	for i, d := range []struct{ platform, ownership, group string }{{"linux", "corporate", "a"}, {"macos", "corporate", "b"}, {"linux", "personal", "b"}} {
		r := &l.gate.records[i]
		r.Platform, r.Ownership, r.Groups = d.platform, d.ownership, []string{d.group}
	}
	l.cfg.Now = func() time.Time { return l.now }
	l.attempts.now = l.cfg.Now
	l.cfg.Organization.Uses = l
	return l
}

func (l *tokenLab) Used(_ context.Context, sum [32]byte, at time.Time) error {
	l.uses[sum] = at
	return nil
}
func (l *tokenLab) LastUsed(context.Context) (map[[32]byte]time.Time, error) { return l.uses, nil }
func (l *tokenLab) Forget(_ context.Context, sums ...[32]byte) error {
	for _, sum := range sums {
		delete(l.uses, sum)
	}
	return nil
}

// make creates a token and returns the status and who holds it.
func (l *tokenLab) make(by who, q api.TokenRequest) (int, who) {
	text, err := json.Marshal(q)
	if err != nil {
		panic(err)
	}
	got := l.ask(l.API(), by, "POST", "/api/v1/tokens", string(text))
	var made api.Token
	_ = json.Unmarshal(got.Body.Bytes(), &made)
	return got.Code, who{name: q.Name, token: made.Secret}
}

func (l *tokenLab) must(t *testing.T, by who, q api.TokenRequest) who {
	t.Helper()
	code, w := l.make(by, q)
	if code != http.StatusCreated {
		t.Fatalf("making %+v: %d", q, code)
	}
	return w
}

// node is a token as the test knows it: what was asked for on the way from the root to it.
type node struct {
	who
	up      *node
	may     []string
	asked   []api.Selection
	source  string
	expires time.Time
}

func (n *node) alive(now time.Time) bool {
	for ; n != nil; n = n.up {
		if n.who.token == "" || !n.expires.IsZero() && !now.Before(n.expires) {
			return n.up == nil && n.who.cert != nil
		}
	}
	return true
}

// sees is what all selections on the way select.
func (n *node) sees(d quarantine.Record) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	for _, f := range n.asked {
		if !in(f.Platforms, d.Platform) || !in(f.Ownerships, d.Ownership) || !in(f.Groups, d.Groups[0]) || !in(f.Profiles, d.Profile) {
			return false
		}
	}
	return true
}

// TestNobodyMakesMoreThanTheyAre: in whatever tree of tokens, none does, on any device, what
// the one that made it may not; and what ends takes along all that came of it (D4).
func TestNobodyMakesMoreThanTheyAre(t *testing.T) {
	var names []string
	for _, p := range permissions {
		names = append(names, string(p.name))
	}
	roleOf := map[string][]string{}
	for _, r := range roleTable().Roles {
		roleOf[r.Name] = r.Permissions
	}
	rapid.Check(t, func(rt *rapid.T) {
		l := newTokenLab(t)
		root := &node{who: who{cert: l.admin}, may: names}
		nodes := []*node{root}
		some := func(label string, of []string) []string {
			if !rapid.Bool().Draw(rt, "any "+label) {
				return nil
			}
			return rapid.SliceOfNDistinct(rapid.SampledFrom(of), 1, 2, rapid.ID[string]).Draw(rt, label)
		}
		for i := range rapid.IntRange(1, 14).Draw(rt, "tokens") {
			up := rapid.SampledFrom(nodes).Draw(rt, "by")
			q := api.TokenRequest{Name: fmt.Sprintf("t%d", i), Scope: rapid.SampledFrom([]string{"administrator", "administrator", "administrator", "operator", "helpdesk", "read", "report", "session"}).Draw(rt, "role"),
				For:    api.Selection{Platforms: some("platforms", []string{"linux", "macos"}), Ownerships: some("ownerships", []string{"corporate", "personal"}), Groups: some("groups", []string{"a", "b", "c"})},
				Source: rapid.SampledFrom([]string{"", "", "mdm", "scanner"}).Draw(rt, "source"), Life: rapid.SampledFrom([]string{"", "1h", "30d", "400d"}).Draw(rt, "life")}
			if rapid.Bool().Draw(rt, "subset") {
				q.Permissions = append(rapid.SliceOfNDistinct(rapid.SampledFrom(roleOf[q.Scope]), 1, len(roleOf[q.Scope]), rapid.ID[string]).Draw(rt, "permissions"), roleOf[q.Scope][0])
			}
			if q.Scope == "administrator" && q.Permissions != nil {
				q.Permissions = append(q.Permissions, "token.write", "device.read")
			}
			code, w := l.make(up.who, q)
			if code != http.StatusCreated {
				continue
			}
			n := &node{who: w, up: up, may: q.Permissions, asked: append(slices.Clone(up.asked), q.For), expires: l.tokens.items[q.Name].Value.Expires}
			if n.may == nil {
				n.may = roleOf[q.Scope]
			}
			if n.source = q.Source; n.source == "" {
				n.source = up.source
			}
			for _, p := range n.may {
				if !slices.Contains(up.may, p) {
					rt.Fatalf("%s has %s, which %s has not", n.name, p, up.name)
				}
			}
			if up.source != "" && n.source != up.source {
				rt.Fatalf("%s speaks for %q, %s for %q", n.name, n.source, up.name, up.source)
			}
			if !up.expires.IsZero() && (n.expires.IsZero() || n.expires.After(up.expires)) {
				rt.Fatalf("%s ends %s, after %s", n.name, n.expires, up.expires)
			}
			nodes = append(nodes, n)
		}
		for _, n := range nodes[1:] {
			l.holds(rt, n)
		}
		l.now = l.now.Add(rapid.SampledFrom([]time.Duration{0, 2 * time.Hour, 31 * day, 366 * day}).Draw(rt, "later"))
		if len(nodes) > 1 {
			gone := rapid.SampledFrom(nodes[1:]).Draw(rt, "gone")
			if rapid.Bool().Draw(rt, "with all") {
				l.ask(l.API(), root.who, "DELETE", "/api/v1/tokens/"+gone.name, "")
			} else { // as if the gateway died amid it
				delete(l.tokens.items, gone.name)
			}
			gone.who.token = ""
		}
		for _, n := range nodes[1:] {
			if n.who.token != "" {
				l.holds(rt, n)
			}
		}
	})
}

// holds asks in the name of a token for what it may do, and compares with what was asked for
// when it and those before it were made.
func (l *tokenLab) holds(t *rapid.T, n *node) {
	l.attempts.each = nil // strangers' pace is not what is looked at
	l.attempts = newAttempts(l.cfg.Now)
	live := n.alive(l.now)
	list := l.ask(l.API(), n.who, "GET", "/api/v1/devices", "")
	may := func(p string) bool { return live && slices.Contains(n.may, p) }
	switch {
	case !live && list.Code != http.StatusUnauthorized, live && (list.Code == http.StatusOK) != may("device.read"):
		t.Fatalf("%s, alive %v, may %v: %d", n.name, live, n.may, list.Code)
	}
	for _, d := range l.gate.records {
		id := string(d.ID)
		sees := n.sees(d)
		if listed := strings.Contains(list.Body.String(), `"id":"`+id+`"`); listed != (may("device.read") && sees) {
			t.Fatalf("%s sees %s: %v", n.name, id, listed)
		}
		for path, p := range map[string]string{"block": "device.write", "wipe": "device.wipe"} {
			before := len(l.gate.changes)
			code := l.ask(l.API(), n.who, "POST", "/api/v1/devices/"+id+"/"+path, "{}").Code
			if did := len(l.gate.changes) > before; did != (may(p) && sees) || did != (code == http.StatusOK) {
				t.Fatalf("%s, alive %v, sees %v, may %v: %s of %s answered %d", n.name, live, sees, n.may, path, id, code)
			}
		}
		for _, source := range []string{"mdm", "scanner"} {
			before := len(l.gate.changes)
			l.ask(l.API(), n.who, "POST", "/api/v1/reports", fmt.Sprintf(`{"device":%q,"verdict":"compliant","source":%q}`, id, source))
			if did := len(l.gate.changes) > before; did != (may("report.write") && sees && (n.source == "" || n.source == source)) {
				t.Fatalf("%s of source %q reported %s as %s: %v", n.name, n.source, id, source, did)
			}
		}
	}
}

func TestDeletingATokenTakesAlongWhatItMade(t *testing.T) {
	l := newTokenLab(t)
	root := who{cert: l.admin}
	a := l.must(t, root, api.TokenRequest{Name: "a", Scope: "administrator"})
	b := l.must(t, a, api.TokenRequest{Name: "b", Scope: "administrator", For: api.Selection{Platforms: []string{"linux"}}})
	c := l.must(t, b, api.TokenRequest{Name: "c", Scope: "administrator"})
	other := l.must(t, root, api.TokenRequest{Name: "other", Scope: "helpdesk"})
	if got := body[api.Token](t, l.lab, root, "GET", "/api/v1/tokens/a", ""); !slices.Equal(got.Descendants, []string{"b", "c"}) || got.State != "live" {
		t.Errorf("%+v", got)
	}
	// One that is bounded knows itself and what it made.
	var names []string
	for _, v := range body[[]api.Token](t, l.lab, b, "GET", "/api/v1/tokens", "") {
		names = append(names, v.Name)
	}
	if !slices.Equal(names, []string{"b", "c"}) {
		t.Errorf("b knows of %v", names)
	}
	for _, name := range []string{"a", "other", "root"} {
		if got := l.ask(l.API(), b, "DELETE", "/api/v1/tokens/"+name, ""); got.Code != http.StatusNotFound {
			t.Errorf("b deletes %s: %d", name, got.Code)
		}
	}
	clerk := l.must(t, root, api.TokenRequest{Name: "clerk", Scope: "administrator", Permissions: []string{"token.read", "token.write"}})
	if got := l.ask(l.API(), clerk, "DELETE", "/api/v1/tokens/other", ""); got.Code != http.StatusForbidden {
		t.Errorf("a clerk of tokens deletes one that may more: %d", got.Code)
	}
	if got := body[api.TokensDeleted](t, l.lab, root, "DELETE", "/api/v1/tokens/a", ""); !slices.Equal(got.Deleted, []string{"a", "b", "c"}) {
		t.Errorf("deleted %v", got.Deleted)
	}
	for w, want := range map[who]int{a: 401, b: 401, c: 401, other: 200} {
		if got := l.ask(l.API(), w, "GET", "/api/v1/devices", "").Code; got != want {
			t.Errorf("%s: %d, want %d", w.name, got, want)
		}
	}
	// What a deletion left behind counts as little, also where another has the name now.
	x := l.must(t, root, api.TokenRequest{Name: "x", Scope: "administrator"})
	y := l.must(t, x, api.TokenRequest{Name: "y", Scope: "administrator"})
	delete(l.tokens.items, "x")
	l.must(t, root, api.TokenRequest{Name: "x", Scope: "administrator"})
	if got := l.ask(l.API(), y, "GET", "/api/v1/devices", "").Code; got != http.StatusUnauthorized {
		t.Errorf("an orphan: %d", got)
	}
	if got := body[api.Token](t, l.lab, root, "GET", "/api/v1/tokens/y", ""); got.State != "orphaned" {
		t.Errorf("an orphan is %s", got.State)
	}
}

func TestTokensEnd(t *testing.T) {
	l := newTokenLab(t)
	root := who{cert: l.admin}
	p := l.must(t, root, api.TokenRequest{Name: "p", Scope: "administrator", Life: "10d"})
	if code, _ := l.make(p, api.TokenRequest{Name: "q", Scope: "read", Life: "11d"}); code != http.StatusBadRequest {
		t.Errorf("longer than its creator: %d", code)
	}
	q := l.must(t, p, api.TokenRequest{Name: "q", Scope: "read"})
	l.must(t, root, api.TokenRequest{Name: "usual", Scope: "read"})
	l.must(t, root, api.TokenRequest{Name: "account", Scope: "report", Source: "mdm"})
	at := l.now
	for name, want := range map[string]time.Time{"q": at.Add(10 * day), "usual": at.Add(365 * day), "account": {}} {
		if got := l.tokens.items[name].Value.Expires; !got.Equal(want) {
			t.Errorf("%s ends %s, want %s", name, got, want)
		}
	}
	l.now = at.Add(10*day - time.Second)
	if got := l.ask(l.API(), q, "GET", "/api/v1/devices", "").Code; got != http.StatusOK {
		t.Errorf("a second before: %d", got)
	}
	if used := body[api.Token](t, l.lab, root, "GET", "/api/v1/tokens/q", "").Used; !used.Equal(time.Date(2026, 2, 10, 8, 0, 0, 0, time.UTC)) {
		t.Errorf("used %s", used)
	}
	l.now = at.Add(10 * day)
	if got := l.ask(l.API(), q, "GET", "/api/v1/devices", "").Code; got != http.StatusUnauthorized {
		t.Errorf("at its end: %d", got)
	}
	state := func(name string) string {
		for _, v := range body[[]api.Token](t, l.lab, root, "GET", "/api/v1/tokens", "") {
			if v.Name == name {
				return v.State
			}
		}
		return "not listed"
	}
	if got := state("q"); got != "expired" {
		t.Errorf("then it is %s", got)
	}
	l.now = at.Add(40 * day)
	if got := state("q"); got != "not listed" {
		t.Errorf("30 days later it is %s", got)
	}
	l.must(t, root, api.TokenRequest{Name: "new", Scope: "read"})
	if _, there := l.tokens.items["q"]; there || len(l.uses) != 0 {
		t.Errorf("it is kept: %v, uses %v", there, l.uses)
	}
}

// strictly is a conduct in strict mode.
type strictly struct{ Conducts }

func (strictly) Conduct(context.Context) (Item[quarantine.Conduct], error) {
	return Item[quarantine.Conduct]{Value: quarantine.Conduct{Strict: true}}, nil
}

// TestStrictModeCapsTokens (G5).
func TestStrictModeCapsTokens(t *testing.T) {
	l := newTokenLab(t)
	l.cfg.Policies.Conducts = strictly{}
	root := who{cert: l.admin}
	for _, q := range []api.TokenRequest{{Name: "p", Scope: "read"}, {Name: "account", Scope: "report", Source: "mdm"}} {
		l.must(t, root, q)
		if got := l.tokens.items[q.Name].Value.Expires; !got.Equal(l.now.Add(30 * day)) {
			t.Errorf("%s ends %s", q.Name, got)
		}
	}
	if code, _ := l.make(root, api.TokenRequest{Name: "q", Scope: "read", Life: "31d"}); code != http.StatusBadRequest {
		t.Errorf("31 days: %d", code)
	}
}

// TestDepthIsBounded: 8 tokens may come of one another, and not 9, whatever the store holds.
func TestDepthIsBounded(t *testing.T) {
	l := newTokenLab(t)
	w := who{cert: l.admin}
	for i := range 8 {
		w = l.must(t, w, api.TokenRequest{Name: fmt.Sprintf("t%d", i), Scope: "administrator"})
	}
	if code, _ := l.make(w, api.TokenRequest{Name: "ninth", Scope: "read"}); code != http.StatusForbidden {
		t.Errorf("the ninth: %d", code)
	}
	if got := l.ask(l.API(), w, "GET", "/api/v1/devices", "").Code; got != http.StatusOK {
		t.Errorf("the eighth: %d", got)
	}
	it := l.tokens.items["t7"]
	sum := it.Value.Sum
	it.Name, it.Value.Parent, it.Value.Sum = "forged", sum, [32]byte{1}
	l.tokens.items["forged"] = it
	if _, err := l.holder(t.Context(), it.Value.Sum); err == nil {
		t.Error("a ninth that stands in the store counts")
	}
}

// TestWrongTokensAreBounded: strangers cost the store so many reads, and hold up nobody whose
// token was right before.
func TestWrongTokensAreBounded(t *testing.T) {
	l := newTokenLab(t)
	reads, find := 0, l.cfg.Organization.TokenBySum
	l.cfg.Organization.TokenBySum = func(ctx context.Context, sum [32]byte) (Token, error) {
		reads++
		return find(ctx, sum)
	}
	get := func(token string) int { return l.ask(l.API(), who{token: token}, "GET", "/api/v1/devices", "").Code }
	if get("lzt_root") != http.StatusOK {
		t.Fatal("the right token is refused")
	}
	reads = 0
	counts := map[int]int{}
	for i := range 1000 {
		counts[get(fmt.Sprintf("lzt_guess%d", i))]++
	}
	if reads != attemptBurst || counts[401] != attemptBurst || counts[429] != 1000-attemptBurst {
		t.Errorf("%d reads, answers %v", reads, counts)
	}
	if got := l.WrongCredentials(); got != 1000 {
		t.Errorf("counted %d", got)
	}
	if got := get("lzt_root"); got != http.StatusOK {
		t.Errorf("one that was right before: %d", got)
	}
	l.now = l.now.Add(attemptEvery)
	if a, b := get("lzt_more"), get("lzt_again"); a != 401 || b != 429 {
		t.Errorf("%s later: %d, then %d", attemptEvery, a, b)
	}
	for addr, want := range map[string]string{"192.0.2.1:5": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32", "[2001:db8:1:2:3::4%eth0]:5": "2001:db8:1:2::/64"} {
		if got := neighbourhood(addr).String(); got != want {
			t.Errorf("%s counts for %s, want %s", addr, got, want)
		}
	}
}
