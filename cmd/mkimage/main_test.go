package main

import (
	"io"
	"log/slog"
	"strings"
	"testing"
)

// TestUnknownCommandFails: what the command line does not have is no success.
func TestUnknownCommandFails(t *testing.T) {
	c := root(slog.New(slog.DiscardHandler))
	c.SetArgs([]string{"key", "nwe"})
	c.SetOut(io.Discard)
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), "did you mean new") {
		t.Error(err)
	}
}
