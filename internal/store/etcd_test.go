package store

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"
)

// TestLeadsAtOnce opens stores, new and made before, whose etcd would elect itself after an
// hour: whoever opens one does not wait for that. Nothing of it is a warning.
func TestLeadsAtOnce(t *testing.T) {
	c := config(t.TempDir())
	c.tick = time.Hour
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		s, err := Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil { // nothing writes to log any more
			t.Fatal(err)
		}
	}
	if log.Len() != 0 {
		t.Errorf("warnings:\n%s", log.String())
	}
}
