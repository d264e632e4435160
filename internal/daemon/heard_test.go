package daemon

import (
	"errors"
	"testing"
	"time"

	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// A report over the API counts for a source of another kind, and hides neither what kind it is
// nor that asking it fails.
func TestReportsHideNoFailureOfAnotherKind(t *testing.T) {
	l, now := &source.Ledger{}, time.Now()
	l.Failed("fleet", quarantine.SourceFleet, now, errors.New("down"))
	all := []quarantine.Report{{Source: "fleet"}, {Source: "fleet"}, {Source: "script"}}
	heard{nil, l}.note(all, []quarantine.Result{{}, {Err: store.ErrNotFound}, {}})
	got := l.List()
	if len(got) != 2 || got[0].Kind != quarantine.SourceFleet || got[0].Failures != 1 || got[0].Problem != "down" || !got[0].Heard.IsZero() || got[0].Accepted != 1 || got[0].Refused != 1 {
		t.Errorf("%+v", got)
	}
	if len(got) == 2 && (got[1].Kind != quarantine.SourceAPI || got[1].Heard.IsZero() || got[1].Accepted != 1) {
		t.Errorf("%+v", got[1])
	}
}
