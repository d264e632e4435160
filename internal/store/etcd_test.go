package store

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestLeadsAtOnce looks for the two lines in which raft says that it was asked to lead, and
// that it does: without the first one, a start waits for ticks.
func TestLeadsAtOnce(t *testing.T) {
	c := config(t.TempDir())
	first, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	again, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil { // nothing writes to log any more
		t.Fatal(err)
	}
	text := log.String()
	for _, want := range []string{"received MsgTimeoutNow", "became leader"} {
		at := strings.Index(text, want)
		if at < 0 {
			t.Fatalf("no %q in what is left of the log:\n%s", want, text)
		}
		text = text[at:]
	}
}
