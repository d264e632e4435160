package supervise

import (
	"strings"
	"testing"
)

// TestWords: what is kept of what a part said is its reason, else its last line, however it
// writes, and bounded.
func TestWords(t *testing.T) {
	for said, want := range map[string]string{
		"": "", "\n\n": "", "one\ntwo\n": "two", "one\ntwo": "two", "lazaretd: why\r\nlog\n": "why", "lazaretd: a\nlazaretd: b\nc": "b",
		"panic: oh\n\ngoroutine 1\n\tmain.go:3\n": "panic: oh", "a\x1b[2J\x00\u0085\xff b\t": "a?[2J??? b", "x lazaretd: no\ny\n": "y",
		strings.Repeat("x", 2*mostWords) + "y": strings.Repeat("x", mostWords),
	} {
		var w words
		for i := range len(said) {
			if n, err := w.Write([]byte(said[i : i+1])); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		if got := w.told(); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
}
