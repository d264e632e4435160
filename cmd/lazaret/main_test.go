package main

import (
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/internal/agent"
	"lazaret/internal/agentapi"
)

func TestStatusNamesThePage(t *testing.T) {
	st := agent.State{Status: &agentapi.Status{Name: "laptop", Stage: "quarantined", Pool: "quarantine",
		Reasons:  []agentapi.Reason{{Rule: "hold", Text: "kept in quarantine by admin"}},
		Settings: cmp.Settings{Gateways: []cmp.Gateway{{Name: "gw", Portal: "http://lazaret.internal/"}}}}}
	var b strings.Builder
	showState(&b, st)
	for _, want := range []string{"stage    quarantined\n", "  - kept in quarantine by admin\n", "page     http://lazaret.internal/\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in:\n%s", want, b.String())
		}
	}
	st.Status.Settings.Gateways = nil
	b.Reset()
	showState(&b, st)
	if strings.Contains(b.String(), "page") {
		t.Errorf("a page of no gateway:\n%s", b.String())
	}
}

// TestStatusTellsOfCommands, and shows notices, whether or not the gateway is reached.
func TestStatusTellsOfCommands(t *testing.T) {
	at := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	st := agent.State{
		Notices:  []agent.Notice{{Text: "Please update.\nThank you.", At: at}},
		Commands: []agent.Executed{{Kind: "lock", State: "failed", Detail: "asked, and not locked: session 2 of alice", At: at}},
	}
	for _, reached := range []bool{false, true} {
		if reached {
			st.Status = &agentapi.Status{Name: "laptop", Stage: "quarantined"}
		}
		var b strings.Builder
		showState(&b, st)
		for _, want := range []string{"notice   2026-03-04 12:00: Please update.\n         Thank you.\n", "command  2026-03-04 12:00: lock failed, asked, and not locked: session 2 of alice\n"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%q is not in:\n%s", want, b.String())
			}
		}
	}
}
