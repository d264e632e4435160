package screen

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

func TestKeyboard(t *testing.T) {
	for _, c := range []struct {
		name  string
		reads []string
		want  []key
	}{
		{"letters", []string{"ab"}, []key{'a', 'b'}},
		{"both ends of a line", []string{"\r\n"}, []key{enter, enter}},
		{"an arrow", []string{"\x1b[Aa"}, []key{'a'}},
		{"a function key", []string{"\x1b[15~\x1bOPx"}, []key{'x'}},
		{"escape alone", []string{"\x1b", "a"}, []key{escape, 'a'}},
		{"escapes at once", []string{"\x1b\x1b\r"}, []key{escape, escape, enter}},
		{"an arrow in parts", []string{"\x1b", "[", "D", "y"}, []key{escape, 'y'}},
		{"control characters", []string{"\x00\x01\x03\x08\x15\x7f\x1a"}, []key{escape, backspace, erase, backspace}},
		{"bytes of UTF-8", []string{"\xc3\xa9"}, []key{0xc3, 0xa9}},
	} {
		var k keyboard
		var got []key
		for _, r := range c.reads {
			got = append(got, k.feed([]byte(r))...)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// FuzzKeyboard types anything, in any parts: what is taken is bounded, a line not secret
// holds printable ASCII, and what is echoed for a secret is nothing but a bell.
func FuzzKeyboard(f *testing.F) {
	f.Add([]byte("yes\r"), 2, true)
	f.Add([]byte("\x1b[1;5Da\x15\x7f\x7f"), 1, false)
	f.Fuzz(func(t *testing.T, b []byte, part int, secret bool) {
		var k keyboard
		e := edit{limit: 16, secret: secret}
		part = 1 + abs(part)%8
		for len(b) > 0 {
			n := min(part, len(b))
			for _, key := range k.feed(b[:n]) {
				if echo := e.press(key); secret && strings.Trim(echo, "\a") != "" || strings.ContainsAny(echo, "\x1b\r\n") {
					t.Fatalf("echo %q", echo)
				}
			}
			b = b[n:]
			if len(e.text) > e.limit || !secret && strings.ContainsFunc(string(e.text), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("line %q", e.text)
			}
		}
	})
}

// TestPace: a second between two pages; a serial line that flaps gets its burst, and then
// what the refill allows, for a whole day.
func TestPace(t *testing.T) {
	v := video()
	for i, c := range []struct{ after, want time.Duration }{{0, 0}, {time.Millisecond, 999 * time.Millisecond}, {time.Second, 0}, {90 * time.Second, 0}} {
		if got := v.wait(at.Add(c.after)); got != c.want {
			t.Errorf("video, step %d: wait %v, want %v", i, got, c.want)
		}
	}
	s, written := serial(), 0
	for now := at; now.Before(at.Add(24 * time.Hour)); now = now.Add(250 * time.Millisecond) {
		if s.wait(now) == 0 {
			written++
		}
	}
	if most := 20 + 24*60*2; written < most-2 || written > most+1 {
		t.Errorf("a flapping status is printed %d times a day, want about %d", written, most)
	}
	for range 100 {
		if (&pace{}).wait(at) != 0 {
			t.Error("the zero pace bounds something")
		}
	}
}

// TestNewsIsWrittenAtOnce: a serial line whose burst is spent takes a code, a fingerprint and
// a stage that are new within the second; those it had before, and what else changes, wait.
func TestNewsIsWrittenAtOnce(t *testing.T) {
	term := &terminal{pace: serial()}
	now := at
	st := appliance.Status{Stage: appliance.Unclaimed, Code: "FIRST"}
	for term.due(st, now) == 0 { // something else in it is new every second
		now = now.Add(time.Second)
	}
	if d := term.due(st, now); d <= time.Second {
		t.Fatalf("the burst is never spent: %v", d)
	}
	for _, change := range []func(*appliance.Status){
		func(st *appliance.Status) { st.Code = "SECOND" },
		func(st *appliance.Status) { st.Print = "0123" },
		func(st *appliance.Status) { st.Stage, st.Code, st.Print = appliance.Running, "", "" },
		func(st *appliance.Status) {
			st.Parts = []appliance.Part{{Name: "dataplane", Ready: true}, {Name: "serve"}}
		},
		func(st *appliance.Status) {
			st.Parts = []appliance.Part{{Name: "dataplane", Ready: true}, {Name: "serve", Ready: true}}
		},
	} {
		change(&st)
		if d := term.due(st, now); d != 0 {
			t.Errorf("%+v waits for %v", gistOf(st), d)
		}
		if d := term.due(st, now); d != time.Second {
			t.Errorf("and again at once: %v", d)
		}
		now = now.Add(time.Second)
		if d := term.due(st, now); d <= time.Second {
			t.Errorf("%+v a second time waits for %v only", gistOf(st), d)
		}
	}
	st = appliance.Status{Stage: appliance.Unclaimed, Code: "FIRST"}
	if d := term.due(st, now); d <= time.Second {
		t.Errorf("what was written before waits for %v only", d)
	}
	st.Code = "THIRD"
	if d := term.due(st, now); d != 0 {
		t.Errorf("a third code waits for %v", d)
	}
	st.Code = "FOURTH"
	if d := term.due(st, now.Add(60*time.Millisecond)); d != 40*time.Millisecond {
		t.Errorf("a code right after another waits for %v", d)
	}
	written := 0
	for end := now.Add(time.Hour); now.Before(end); now = now.Add(250 * time.Millisecond) { // to and fro
		st.Stage = []appliance.Stage{appliance.Failed, appliance.Running}[now.Unix()%2]
		if term.due(st, now) == 0 {
			written++
		}
	}
	if written > 2*60+20 {
		t.Errorf("a stage that flaps is printed %d times an hour", written)
	}
}
