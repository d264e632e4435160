package code

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"
)

// TestChecked: any length is read back however it is typed, and every wrong symbol and
// every swap of two is noticed.
func TestChecked(t *testing.T) {
	for n := 1; n <= maxChecked; n++ {
		random := make([]byte, n)
		rand.Read(random)
		text := Checked(random)
		if len(text) != n+1 {
			t.Fatalf("%d bytes became %d symbols", n, len(text))
		}
		typed := strings.ToLower(text[:1]) + "- " + strings.ReplaceAll(text[1:], "0", "o")
		if got, err := ParseChecked(typed, n); err != nil || got != text {
			t.Fatalf("%q read as %q, %v", typed, got, err)
		}
		for i := range text {
			wrong := []byte(text)
			wrong[i] = alphabet[(strings.IndexByte(alphabet, text[i])+7)%32]
			if _, err := ParseChecked(string(wrong), n); !errors.Is(err, ErrCode) {
				t.Errorf("%d symbols, symbol %d wrong: %v", n, i+1, err)
			}
			for j := range i {
				swapped := []byte(text)
				swapped[i], swapped[j] = swapped[j], swapped[i]
				if _, err := ParseChecked(string(swapped), n); err == nil && text[i] != text[j] {
					t.Errorf("%d symbols, %d and %d swapped: not noticed", n, i+1, j+1)
				}
			}
		}
	}
	for _, text := range []string{"", "0", strings.Repeat("0", 22), strings.Repeat("-", 1000)} {
		if _, err := ParseChecked(text, 20); !errors.Is(err, ErrCode) {
			t.Errorf("%d characters: %v", len(text), err)
		}
	}
}
