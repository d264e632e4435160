package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// ruleWriter is a language of one word: what is not "good" is a fault.
type ruleWriter struct{}

func (ruleWriter) Parse(text string) (quarantine.PolicySet, *bool, []api.PolicyFault) {
	name, rest, _ := strings.Cut(text, " ")
	expression, assigned, says := strings.Cut(rest, " ")
	s := quarantine.PolicySet{Name: name, Assigned: assigned == "yes", Rules: []quarantine.PolicyRule{{Name: "r", Expression: expression}}}
	var told *bool
	if says {
		told = &s.Assigned
	}
	faults := ruleWriter{}.Check(s)
	for i := range faults {
		faults[i].Line, faults[i].Column = 3, 14
	}
	return s, told, faults
}

func (ruleWriter) Check(s quarantine.PolicySet) (out []api.PolicyFault) {
	for _, r := range s.Rules {
		if r.Expression != "good" {
			out = append(out, api.PolicyFault{Rule: r.Name, Field: "expression", What: "it is not good", Remedy: "write good"})
		}
	}
	return out
}
func (ruleWriter) Text(s quarantine.PolicySet) string { return s.Name }
func (ruleWriter) Asks(string) []string               { return []string{"os.version"} }
func (ruleWriter) Facts() []api.Fact                  { return []api.Fact{{Name: "os.version"}} }

type fakeConducts struct{ it Item[quarantine.Conduct] }

func (c *fakeConducts) Conduct(context.Context) (Item[quarantine.Conduct], error) { return c.it, nil }
func (c *fakeConducts) PutConduct(_ context.Context, _ quarantine.Actor, it Item[quarantine.Conduct]) (Item[quarantine.Conduct], error) {
	if it.Revision != c.it.Revision {
		return it, quarantine.ErrConflict
	}
	it.Revision++
	c.it = it
	return it, nil
}

// policyLab is a lab with a place for policy sets; tried are the sets that were tried last.
func policyLab(t *testing.T) (l *lab, sets *fakeTable[quarantine.PolicySet], tried *map[string]quarantine.PolicySet) {
	l, sets = newLab(t), newTable(map[string]quarantine.PolicySet{})
	tried = &map[string]quarantine.PolicySet{}
	l.cfg.Policies = Policies{Sets: sets, Conducts: &fakeConducts{}, Rulebook: ruleWriter{},
		Try: func(all map[string]quarantine.PolicySet, conduct quarantine.Conduct) []quarantine.Trial {
			*tried = all
			if conduct.Strict {
				return nil
			}
			var out []quarantine.Trial
			for n := range 250 {
				then := quarantine.Placement{Stage: quarantine.Quarantined, Failing: []string{"s/r"}, Reasons: []quarantine.Reason{{Set: "s", Rule: "r", Text: "no"}}}
				if n >= 200 {
					then.Stage = quarantine.Routed // fails, and does not move
				}
				out = append(out, quarantine.Trial{Record: quarantine.Record{Device: quarantine.Device{ID: "x", Name: fmt.Sprint("d", n)}},
					Now: quarantine.Placement{Stage: quarantine.Routed}, Then: then})
			}
			return out
		}}
	return l, sets, tried
}

func (l *lab) asRoot(t *testing.T, method, path string, in, out any) int {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r := l.ask(l.API(), who{token: "lzt_root"}, method, path, string(body))
	if out != nil {
		if err := json.Unmarshal(r.Body.Bytes(), out); err != nil {
			t.Fatalf("%s %s answers %s", method, path, r.Body)
		}
	}
	return r.Code
}

func TestPolicySetsAreKept(t *testing.T) {
	l, sets, _ := policyLab(t)
	yes, no := true, false
	var got api.Policy
	rule := []api.PolicyRule{{Name: "r", Expression: "good", CheckEvery: "2d", Grace: "90m"}}
	if code := l.asRoot(t, "PUT", "/api/v1/policies/s", api.Policy{Rules: rule, Text: "a set"}, &got); code != http.StatusOK || got.Revision != 1 || *got.Assigned || got.Rules[0].Facts[0] != "os.version" || got.Rules[0].CheckEvery != "2d" || got.Rules[0].Grace != "1h30m" {
		t.Fatalf("%d %+v", code, got)
	}
	// Assigned stays as it is where a request does not speak of it.
	for i, c := range []struct {
		q    api.Policy
		want bool
	}{
		{api.Policy{Rules: rule, Assigned: &yes}, true}, {api.Policy{Rules: rule}, true}, {api.Policy{TOML: "s good"}, true}, {api.Policy{TOML: "s good no"}, false},
		{api.Policy{TOML: "s good no", Assigned: &yes}, true}, {api.Policy{TOML: "s good", Assigned: &no}, false}, {api.Policy{TOML: "s good"}, false},
	} {
		c.q.Revision = int64(i + 1)
		if code := l.asRoot(t, "PUT", "/api/v1/policies/s", c.q, &got); code != http.StatusOK || sets.items["s"].Value.Assigned != c.want {
			t.Errorf("step %d: %d, assigned %v", i, code, sets.items["s"].Value.Assigned)
		}
	}
	before := sets.items["s"]
	for what, c := range map[string]struct {
		path string
		q    api.Policy
		want int
	}{
		"a fault":        {"s", api.Policy{TOML: "s bad", Revision: before.Revision}, http.StatusBadRequest},
		"another name":   {"s", api.Policy{TOML: "t good", Revision: before.Revision}, http.StatusBadRequest},
		"both forms":     {"s", api.Policy{TOML: "s good", Text: "x", Revision: before.Revision}, http.StatusBadRequest},
		"no time":        {"s", api.Policy{Rules: []api.PolicyRule{{Name: "r", Expression: "good", Grace: "soon"}}, Revision: before.Revision}, http.StatusBadRequest},
		"an older state": {"s", api.Policy{TOML: "s good", Revision: 1}, http.StatusConflict},
		"no name":        {"Big%20Set", api.Policy{Rules: rule}, http.StatusBadRequest},
	} {
		if code := l.asRoot(t, "PUT", "/api/v1/policies/"+c.path, c.q, nil); code != c.want || sets.items["s"].Revision != before.Revision {
			t.Errorf("%s: status %d", what, code)
		}
	}
	var checked api.PolicyChecked
	if code := l.asRoot(t, "POST", "/api/v1/policies/check", api.Policy{TOML: "s bad"}, &checked); code != http.StatusOK || checked.Good || checked.Faults[0].Line != 3 || checked.Faults[0].Column != 14 || checked.Policy != nil {
		t.Errorf("checked %d %+v", code, checked)
	}
	if code := l.asRoot(t, "POST", "/api/v1/policies/check", api.Policy{TOML: "new good"}, &checked); code != http.StatusOK || !checked.Good || checked.Policy.Assigned != nil || sets.items["new"].Revision != 0 {
		t.Errorf("checked %d %+v", code, checked)
	}
	if code := l.asRoot(t, "GET", "/api/v1/policies/other", nil, nil); code != http.StatusNotFound {
		t.Errorf("a set that is not there: status %d", code)
	}
	if code := l.asRoot(t, "DELETE", "/api/v1/policies/s", nil, nil); code != http.StatusNoContent || len(sets.items) != 0 {
		t.Errorf("deleted: status %d", code)
	}
}

// A trial supposes what the request says and counts all, but lists no more than it is asked
// for; it changes nothing.
func TestPolicyTryCountsAndChangesNothing(t *testing.T) {
	l, sets, tried := policyLab(t)
	sets.items["s"] = Item[quarantine.PolicySet]{Name: "s", Value: quarantine.PolicySet{Name: "s", Version: 4}, Revision: 9}
	var got api.PolicyTried
	for _, c := range []struct {
		q        api.PolicyTry
		name     string
		assigned bool
	}{
		{api.PolicyTry{TOML: "new good"}, "new", true}, {api.PolicyTry{TOML: "s good no"}, "s", true}, {api.PolicyTry{Policy: "s"}, "s", true}, {api.PolicyTry{Policy: "s", Without: true}, "s", false},
	} {
		if code := l.asRoot(t, "POST", "/api/v1/policies/try", c.q, &got); code != http.StatusOK || (*tried)[c.name].Assigned != c.assigned {
			t.Errorf("%+v: status %d, tried %+v", c.q, code, *tried)
		}
	}
	if got.Devices != 3 || got.Moves != 200 || len(got.Listed) != 100 || got.Listed[0].Rule != "s/r" || len(got.Counts) != 1 ||
		got.Counts[0] != (api.PolicyCount{From: "routed", To: "quarantined", Rule: "s/r", Devices: 200}) || got.Rules[0] != (api.PolicyFails{Rule: "s/r", Devices: 250}) {
		t.Errorf("answered %+v", got)
	}
	strict := true
	if code := l.asRoot(t, "POST", "/api/v1/policies/try", api.PolicyTry{Strict: &strict}, &got); code != http.StatusOK || got.Moves != 0 {
		t.Errorf("strict: %d, %+v", code, got)
	}
	if code := l.asRoot(t, "POST", "/api/v1/policies/try", api.PolicyTry{Policy: "s", Limit: 3}, &got); code != http.StatusOK || len(got.Listed) != 3 {
		t.Errorf("three listed: %d, %d", code, len(got.Listed))
	}
	for _, q := range []api.PolicyTry{{}, {TOML: "s bad"}, {TOML: "s good", Policy: "s"}, {Policy: "s", Limit: -1}, {Policy: "s", Limit: mostMoves + 1}} {
		if code := l.asRoot(t, "POST", "/api/v1/policies/try", q, nil); code != http.StatusBadRequest {
			t.Errorf("%+v: status %d", q, code)
		}
	}
	if code := l.asRoot(t, "POST", "/api/v1/policies/try", api.PolicyTry{Policy: "x"}, nil); code != http.StatusNotFound {
		t.Errorf("no such set: status %d", code)
	}
	if it := sets.items["s"]; it.Revision != 9 || it.Value.Assigned || len(sets.items) != 1 || len(l.gate.changes) != 0 {
		t.Errorf("something changed: %+v", it)
	}
}

func TestConductIsKept(t *testing.T) {
	l, _, _ := policyLab(t)
	var got api.Conduct
	if l.asRoot(t, "GET", "/api/v1/conduct", nil, &got); got != (api.Conduct{AlertAfter: "21d", ActAfter: "90d", OnInactive: "wipe", SessionLife: "2h"}) {
		t.Errorf("the ordinary conduct is %+v", got)
	}
	want := api.Conduct{Strict: true, AlertAfter: "7d", ActAfter: "36h", OnInactive: "block", SessionLife: "1h"}
	if code := l.asRoot(t, "PUT", "/api/v1/conduct", want, nil); code != http.StatusBadRequest {
		t.Errorf("action before the alert: status %d", code)
	}
	want.ActAfter = "30d"
	if code := l.asRoot(t, "PUT", "/api/v1/conduct", want, &got); code != http.StatusOK {
		t.Fatalf("status %d", code)
	}
	if want.Revision = 1; got != want {
		t.Errorf("kept %+v", got)
	}
	for _, bad := range []api.Conduct{{SessionLife: "soon"}, {Strict: true, SessionLife: "3h"}, {OnInactive: "explode"}} {
		bad.Revision = 1
		if code := l.asRoot(t, "PUT", "/api/v1/conduct", bad, nil); code != http.StatusBadRequest {
			t.Errorf("%+v: status %d", bad, code)
		}
	}
	if code := l.asRoot(t, "PUT", "/api/v1/conduct", api.Conduct{}, nil); code != http.StatusConflict {
		t.Errorf("an older state: status %d", code)
	}
}
