package main

import (
	"strings"
	"testing"
)

// TestChild: what the machine does not start is refused, and what it starts takes the flags that
// it is given and nothing else.
func TestChild(t *testing.T) {
	for args, want := range map[string]string{
		"":                               "process number 1",
		"serve":                          `no command "serve"`,
		"make --confine":                 `no command "make"`,
		"dataplane --confine -c":         "flag needs an argument",
		"dataplane -c /nonexistent":      "/nonexistent",
		"dataplane -c /nonexistent more": "after the flags",
		"dataplane --listen x":           "not defined: -listen",
		"claim more":                     "after the flags",
		"claim -c x":                     "not defined: -c",
	} {
		if err := child(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
