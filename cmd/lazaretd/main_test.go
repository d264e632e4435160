package main

import (
	"io"
	"strings"
	"testing"
)

// TestUnknownCommandFails: what the command line does not have is no success.
func TestUnknownCommandFails(t *testing.T) {
	for args, want := range map[string]string{"firewall comfirm": "did you mean confirm", "root exprot": "did you mean export", "clock set": "did you mean reset"} {
		c := root()
		c.SetArgs(strings.Fields(args))
		c.SetOut(io.Discard)
		if err := c.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
