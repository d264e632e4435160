package screen

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

var renew = flag.Bool("renew", false, "write the golden screens anew")

func mustJSON(text string, into any) {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		panic(err)
	}
}

const wholeJSON = `{
	"stage": "running", "name": "gateway-1", "version": "1.4.0",
	"slots": [{"version": "1.3.2", "file": "lazaret_1.3.2.efi", "blessed": true}, {"version": "1.4.0", "file": "lazaret_1.4.0+2-1.efi", "booted": true, "left": 2, "tried": 1}],
	"links": [{"name": "eth0", "mac": "52:54:00:12:34:56", "up": true, "addresses": ["192.0.2.7/24", "2001:db8::7/64"], "gateways": ["192.0.2.1"]}, {"name": "eth1", "up": false}],
	"urls": ["https://gateway.example/", "https://192.0.2.7/"],
	"fingerprint": "0123 4567 89ab cdef 0123 4567 89ab cdef 0123 4567 89ab cdef 0123 4567 89ab cdef",
	"parts": [{"name": "dataplane", "ready": true}, {"name": "serve", "ready": true, "restarts": 2, "last": "killed"}],
	"clock": {"synchronized": true, "server": "192.0.2.1", "offset": 0.003},
	"disk": {"size": 8000000000, "free": 7200000000, "encrypted": true, "protection": "tpm"},
	"memory": {"size": 512000000, "available": 210000000},
	"update": {"available": "1.5.0", "since": "2026-11-01T02:00:00Z", "last": "1.4.0 was installed", "last_at": "2026-10-11T02:00:00Z"}
}`

var at = time.Date(2026, 11, 22, 9, 41, 7, 0, time.UTC)

func statuses() map[string]appliance.Status {
	unclaimed := whole()
	unclaimed.Stage, unclaimed.Name, unclaimed.Code = appliance.Unclaimed, "", "ABCD-EFGH-JKLM-NPQR"
	unclaimed.Slots, unclaimed.URLs = unclaimed.Slots[1:], unclaimed.URLs[1:]
	unclaimed.Update = appliance.UpdateIs{}
	unclaimed.Parts = []appliance.Part{{Name: "claim", Ready: true}}
	locked := appliance.Status{Stage: appliance.Locked, Version: "1.4.0", Problems: []string{"The TPM does not release the key of the data partition: another system was started before."}}
	full := whole()
	full.Disk.Protection = appliance.ByFile
	for i := range 30 {
		full.Problems = append(full.Problems, fmt.Sprintf("Trouble number %d is of the kind that needs more than one row of a screen to be said.", i))
		full.Links = append(full.Links, appliance.LinkIs{Name: fmt.Sprintf("eth%d", i+2), Up: true, Problem: "no answer from DHCP"})
	}
	failed := appliance.Status{Stage: appliance.Failed, Version: "1.4.0", Problems: []string{"The data partition cannot be read.", "\x1b[2Jno \x9bway\r\nout: é"}}
	return map[string]appliance.Status{"starting": {}, "unclaimed": unclaimed, "running": whole(), "locked": locked, "full": full, "failed": failed}
}

// TestGoldenScreens draws each status as the console would, on a monitor of 80 by 25 that
// showed something else before.
func TestGoldenScreens(t *testing.T) {
	menu := (&terminal{screen: &Screen{config: Config{Actions: everything(nil)}}}).menu()
	for name, st := range statuses() {
		m := &monitor{t: t}
		m.write(strings.Repeat(strings.Repeat("#", columns)+"\r\n", rows))
		m.write(frame(page(st, menu, at, columns, rows)))
		golden(t, name+".txt", m.String())
	}
}

// TestGoldenBlock is what a serial line gets.
func TestGoldenBlock(t *testing.T) {
	menu := (&terminal{screen: &Screen{config: Config{Actions: everything(nil)}}}).menu()
	st := statuses()["unclaimed"]
	golden(t, "serial.txt", strings.Join(append(block(st, menu, at, false), Line(st)), "\n")+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *renew {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: drawn is\n%s\nwant\n%s", name, got, want)
	}
}

// TestCodeIsShownWhereItIs: and nowhere else than in its own row and word.
func TestCodeIsShownWhereItIs(t *testing.T) {
	st := statuses()["unclaimed"]
	if text := strings.Join(page(st, nil, at, columns, rows), "\n"); strings.Count(text, st.Code) != 1 {
		t.Errorf("the code is shown %d times", strings.Count(text, st.Code))
	}
	st.Code = ""
	if text := strings.Join(page(st, nil, at, columns, rows), "\n") + Line(st); strings.Contains(text, "Claim code") || strings.Contains(text, "code=") {
		t.Errorf("there is no code, and one is shown:\n%s", text)
	}
}

// TestSteady: what changes all the time and means nothing is not news.
func TestSteady(t *testing.T) {
	term := &terminal{screen: &Screen{}}
	a, b := whole(), whole()
	b.Memory.Available, b.Disk.Free, b.Clock.Offset, b.Clock.At = 1, 2, 3, at
	if !reflect.DeepEqual(term.look(a), term.look(b)) || Line(a) != Line(b) {
		t.Error("figures of memory, disk and clock alone are news")
	}
	b.Parts[0].Ready = false
	if reflect.DeepEqual(term.look(a), term.look(b)) || Line(a) == Line(b) {
		t.Error("a process that is not ready any more is no news")
	}
}

func TestLine(t *testing.T) {
	st := statuses()["unclaimed"]
	st.Name = "my gateway\r\nlazaret: stage=running"
	line := Line(st)
	got, ok := ParseLine("[  12.3] " + line + "\r")
	want := map[string]string{
		"stage": "unclaimed", "name": "my_gateway??lazaret:_stage=running", "version": "1.4.0", "slot": "lazaret_1.4.0+2-1.efi", "blessed": "false",
		"url": "https://192.0.2.7/", "fingerprint": strings.Repeat("0123456789abcdef", 4), "code": "ABCD-EFGH-JKLM-NPQR",
		"ready": "claim", "clock": "true", "problems": "0",
	}
	if !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%s is read as %v, want %v", line, got, want)
	}
	if _, ok := ParseLine("lazaret: something else"); ok {
		t.Error("any line is taken for a status")
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "> "}, {"one two three four", "> one two|  three four"}, {"abcdefghijklmnopq", "> abcdefghij|  klmnopq"},
	} {
		if got := strings.Join(wrap("> ", c.text, 12), "|"); got != c.want {
			t.Errorf("%q is wrapped as %q, want %q", c.text, got, c.want)
		}
	}
}

// FuzzText: whatever a name, a problem or a code holds, a row holds printable ASCII alone,
// fits, and the page keeps its height.
func FuzzText(f *testing.F) {
	f.Add("\x1b]0;x\a\x9b2J", "a b", 80, 25, 3)
	f.Add(strings.Repeat("é", 500), "\r\n\t", 40, 15, 40)
	f.Fuzz(func(t *testing.T, a, b string, width, height, n int) {
		width, height, n = 40+abs(width)%93, 15+abs(height)%46, abs(n)%50
		st := appliance.Status{
			Name: a, Version: b, Code: a, Print: b, Stage: appliance.Stage(a), URLs: []string{b, a},
			Slots: []appliance.Slot{{Version: a, Booted: true, File: b}}, Clock: appliance.Clock{Problem: a, Synchronized: true},
			Parts: []appliance.Part{{Name: b, Last: a}}, Links: []appliance.LinkIs{{Name: a, Problem: b}},
			Update: appliance.UpdateIs{Problem: a, Staged: b, Last: a, Available: "x" + b},
		}
		for range n {
			st.Problems, st.URLs = append(st.Problems, a), append(st.URLs, b)
		}
		text := page(st, []string{" menu"}, at, width, height)
		if len(text) != height {
			t.Errorf("%d rows of %d", len(text), height)
		}
		for _, row := range append(append(text, block(st, nil, at, false)...), Line(st)) {
			if i := strings.IndexFunc(row, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
				t.Errorf("row %q", row)
			}
		}
		for _, row := range text {
			if len(row) > width {
				t.Errorf("row of %d columns, there are %d", len(row), width)
			}
		}
		if words, ok := ParseLine(Line(st)); ok && words["code"] != "" && strings.ContainsAny(words["code"], " =") && !strings.Contains(a, "=") {
			t.Errorf("code %q", words["code"])
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
