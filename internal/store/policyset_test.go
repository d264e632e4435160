package store

import (
	"errors"
	"strings"
	"testing"

	"lazaret/quarantine"
)

// In strict mode nothing but what is marked and accepted as stig is assigned, whichever is
// written first; drafts stay free.
func TestStrictModeTakesStigSetsOnly(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	weak := errors.New("a stig set must check the disk")
	s.cfg.CheckSet = func(set quarantine.PolicySet, strict bool) error {
		if set.Text == "broken" || strict && set.Assigned && set.Text == "weak" {
			return weak
		}
		return nil
	}
	conduct := func(strict bool) error {
		_, err := s.PutConduct(ctx, admin, Item[quarantine.Conduct]{Value: quarantine.Conduct{Strict: strict}, Revision: Any})
		return err
	}
	put := func(set quarantine.PolicySet) error { _, err := s.PutSet(ctx, admin, set); return err }
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	allowed := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a set that does not pass the check", put(quarantine.PolicySet{Name: "a", Text: "broken"}))
	refused("a set without a name that can be written", put(quarantine.PolicySet{Name: "A b"}))
	allowed("an ordinary set", put(quarantine.PolicySet{Name: "plain", Assigned: true}))
	refused("strict mode beside it", conduct(true))
	allowed("the set as a draft", put(quarantine.PolicySet{Name: "plain"}))
	allowed("a stig set that is weak, while not strict", put(quarantine.PolicySet{Name: "hard", STIG: true, Assigned: true, Text: "weak"}))
	refused("strict mode beside a weak one", conduct(true))
	allowed("the stig set", put(quarantine.PolicySet{Name: "hard", STIG: true, Assigned: true}))
	allowed("strict mode", conduct(true))
	refused("assigning an ordinary one", put(quarantine.PolicySet{Name: "plain", Assigned: true}))
	refused("a weak stig set", put(quarantine.PolicySet{Name: "hard", STIG: true, Assigned: true, Text: "weak"}))
	allowed("a draft of an ordinary one", put(quarantine.PolicySet{Name: "draft"}))
	refused("a longer session than strict mode lets be", func() error {
		_, err := s.PutConduct(ctx, admin, Item[quarantine.Conduct]{Value: quarantine.Conduct{Strict: true, SessionLife: 3 * quarantine.DefaultSession}, Revision: Any})
		return err
	}())
	snap, err := s.Snapshot(ctx)
	if err != nil || !snap.Conduct.Strict || len(snap.Sets) != 3 || !snap.Sets["hard"].STIG || snap.Sets["plain"].Assigned {
		t.Errorf("the snapshot holds %+v and %+v, %v", snap.Conduct, snap.Sets, err)
	}
	allowed("an end of strict mode", conduct(false))
	allowed("assigning an ordinary one again", put(quarantine.PolicySet{Name: "plain", Assigned: true}))
}

// Two administrators at once cannot bring about what neither may alone.
func TestStrictModeAndSetsDoNotRace(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	for range 20 {
		if _, err := s.PutConduct(ctx, admin, Item[quarantine.Conduct]{Revision: Any}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.PutSet(ctx, admin, quarantine.PolicySet{Name: "plain"}); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.PutSet(ctx, admin, quarantine.PolicySet{Name: "plain", Assigned: true})
		}()
		_, _ = s.PutConduct(ctx, admin, Item[quarantine.Conduct]{Value: quarantine.Conduct{Strict: true}, Revision: Any})
		<-done
		snap, err := s.Snapshot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if snap.Conduct.Strict && snap.Sets["plain"].Assigned {
			t.Fatal("strict mode with an ordinary set assigned")
		}
	}
}

func TestSourcesAreChecked(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	for what, src := range map[string]quarantine.Source{
		"unknown kind":    {Name: "mdm", Kind: "carrier pigeon"},
		"the agent's":     {Name: quarantine.AgentSource},
		"a star within":   {Name: "mdm", Facts: []string{"os*"}},
		"an empty fact":   {Name: "mdm", Facts: []string{""}},
		"a negative time": {Name: "mdm", Silent: -1},
	} {
		if err := s.PutSource(ctx, admin, src); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", what, err)
		}
	}
	for _, kind := range strings.Fields("api webhook ssf fleet intune jamf") {
		if err := s.PutSource(ctx, admin, quarantine.Source{Name: "s-" + kind, Kind: quarantine.SourceKind(kind), Facts: []string{"*", "os.*", "disk.encrypted"}}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}
