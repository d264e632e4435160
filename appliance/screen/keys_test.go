package screen

import (
	"reflect"
	"strings"
	"testing"
	"time"
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
