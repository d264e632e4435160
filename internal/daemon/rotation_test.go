package daemon

import (
	"errors"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// A handshake moves a device to the key it was made with, and to no other.
func TestRotation(t *testing.T) {
	old, next, later := tunnel.Key{1}, tunnel.Key{2}, tunnel.Key{3}
	c := rotation(dataplane.Event{Kind: dataplane.Rotated, Device: "d1", Key: next})
	c.At = time.Unix(1, 0)
	r := quarantine.Record{Device: quarantine.Device{ID: "d1", Key: old, Next: next}}
	if got, err := r.With(c); err != nil || got.Key != next || !got.Next.IsZero() {
		t.Errorf("rotated to %s, next %s, %v; want %s and none", got.Key, got.Next, err, next)
	}
	r.Next = later
	if _, err := r.With(c); !errors.Is(err, quarantine.ErrConflict) {
		t.Errorf("a late word of a key that was replaced: %v, want ErrConflict", err)
	}
}
