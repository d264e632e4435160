package main

import (
	"bytes"
	"encoding/asn1"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
)

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		row  row
		want bool
	}{
		"nothing to hold it to":      {row{Value: 1e9}, true},
		"ratio at its bound":         {row{Value: 1e9, Ratio: number(2), Bound: number(2)}, true},
		"ratio above its bound":      {row{Value: 0, Ratio: number(2.01), Bound: number(2)}, false},
		"value below its bound":      {row{Value: 4.9, Bound: number(5)}, true},
		"value above its bound":      {row{Value: 5.1, Bound: number(5)}, false},
		"negative value, bound zero": {row{Value: -0.1, Bound: number(0)}, true},
		"ratio at its lower bound":   {row{Value: 0, Ratio: number(0.95), Bound: number(0.95), AtLeast: true}, true},
		"ratio below a lower bound":  {row{Value: 9, Ratio: number(0.94), Bound: number(0.95), AtLeast: true}, false},
		"ratio that is no number":    {row{Ratio: number(math.NaN()), Bound: number(2)}, false},
		"none, with a lower bound":   {row{Ratio: number(math.NaN()), Bound: number(0.95), AtLeast: true}, false},
	} {
		r := c.row
		r.OK = !c.want
		if r.judge(); r.OK != c.want {
			t.Errorf("%s: ok is %v", name, r.OK)
		}
	}
}

func TestQuantiles(t *testing.T) {
	var s samples
	for i := 100; i >= 1; i-- {
		s = append(s, time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.01: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1: 100} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %d, want %d", q, got, want)
		}
	}
	if s[0] != 100 {
		t.Error("the samples themselves were sorted")
	}
	if got := (samples{}).quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %d", got)
	}
}

// A round in which everything was ten times slower changes no ratio.
func TestRatioWithinRounds(t *testing.T) {
	a := rounds{{30, 30, 30}, {300, 300, 300}, {31, 30, 29}}
	b := rounds{{20, 20, 20}, {200, 200, 200}, {20, 21, 19}}
	if got := a.over(b); got != 1.5 {
		t.Errorf("ratio %v, want 1.5", got)
	}
	if got := a.median(); got != 30 {
		t.Errorf("median of medians %d, want 30", got)
	}
	if got := (rounds{}).over(b); got != 0 {
		t.Errorf("ratio of nothing %v", got)
	}
}

func TestResults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.json")
	rows := []row{
		machine(&session{rounds: 1}),
		{Name: "slow", Value: 3, Unit: "ms", ComparedWith: "fast", Ratio: number(3), Bound: number(2)},
		{Name: "plain", Value: 1, Unit: "ms"},
	}
	for i := range rows {
		rows[i].judge()
	}
	if err := writeJSON(path, rows); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	for _, r := range got {
		for _, key := range []string{"name", "value", "unit", "compared_with", "ratio", "bound", "ok"} {
			if _, there := r[key]; !there {
				t.Errorf("row %v lacks %q", r["name"], key)
			}
		}
	}
	if got[0]["name"] != "machine" || got[0]["kernel"] == nil || got[0]["go"] == nil || got[0]["sizes"] == nil {
		t.Errorf("the first row does not describe the machine: %v", got[0])
	}
	if got[1]["ok"] != false || got[1]["bound"] != 2.0 || got[2]["bound"] != nil || got[2]["ok"] != true {
		t.Errorf("rows %v", got[1:])
	}
	var table bytes.Buffer
	printTable(&table, rows)
	lines := strings.Split(table.String(), "\n")
	if !strings.Contains(lines[2], "MISSED") || slices.ContainsFunc(append(lines[:2:2], lines[3]), func(l string) bool { return strings.Contains(l, "MISSED") }) {
		t.Errorf("the table does not show what was missed:\n%s", table.String())
	}
}

// The floor's MAC is the one that an enrollment's messages bear.
func TestFloorMAC(t *testing.T) {
	secret := []byte("0123456789ABCDEF")
	params := cmp.NewMACParams()
	m := &cmp.Message{Header: cmp.NewHeader(time.Now()), Body: cmp.Body{Kind: cmp.GenM, Infos: []cmp.Info{cmp.CACertsInfo()}}}
	if err := m.ProtectMAC(secret, params); err != nil {
		t.Fatal(err)
	}
	der, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var parts struct {
		Header, Body asn1.RawValue
		Protection   asn1.BitString `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		t.Fatal(err)
	}
	signed, err := asn1.Marshal(struct{ Header, Body asn1.RawValue }{parts.Header, parts.Body})
	if err != nil {
		t.Fatal(err)
	}
	if params.Iterations != 500 || !bytes.Equal(passwordMAC(secret, params.Salt, signed), parts.Protection.Bytes) {
		t.Error("the floor computes another MAC")
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "x"}, {"-only", "nothing of that name"}, {"-only", "move,"}, {"--only", "move,nothing"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("arguments %q were taken", args)
		}
	}
}
