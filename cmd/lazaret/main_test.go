package main

import (
	"strings"
	"testing"

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
