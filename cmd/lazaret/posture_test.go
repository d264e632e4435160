package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"lazaret/internal/posture"
)

func TestPosture(t *testing.T) {
	var out bytes.Buffer
	c := root()
	c.SetOut(&out)
	c.SetArgs([]string{"posture", "--json"})
	if err := c.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var p posture.Posture
	if err := json.Unmarshal(out.Bytes(), &p); err != nil || p.Facts["agent.version"] == "" || p.At.IsZero() {
		t.Errorf("%v in %s", err, &out)
	}
	out.Reset()
	showPosture(&out, posture.Posture{Facts: map[string]string{"os.name": "debian", "disk.encrypted": "true"}, Missing: []posture.Missing{{Collector: "screen", Why: "logind's sessions are not to be seen"}}})
	if want := "disk.encrypted         true\nos.name                debian\n"; !strings.HasPrefix(out.String(), want) || !strings.Contains(out.String(), "screen                 logind's") {
		t.Errorf("shown as\n%s", &out)
	}
}
