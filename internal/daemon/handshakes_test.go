package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"lazaret/internal/alert"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// TestStockDevicesAreNotInactive: a device that shakes hands and says nothing else is never told
// of, nor due to be wiped; one that does not is. Contacts are noted of those that did lately.
func TestStockDevicesAreNotInactive(t *testing.T) {
	now, day := time.Unix(1700000000, 0).UTC(), 24*time.Hour
	device := func(n byte, silent time.Duration) quarantine.Record {
		return quarantine.Record{Device: quarantine.Device{ID: quarantine.ID([]byte{'d', '0' + n}), Stage: quarantine.Routed, Key: tunnel.Key{n, 1}},
			Certificate: quarantine.Certificate{NotBefore: now.Add(-silent)}}
	}
	fleet := func() []quarantine.Record {
		all := []quarantine.Record{device(0, 100*day), device(1, 100*day), device(2, 100*day), device(3, 2*day), device(4, time.Hour)}
		all[2].Next = tunnel.Key{2, 2}
		return all
	}
	asked := map[tunnel.Key]int{}
	var contacts []quarantine.ID
	var fails, refuses error
	h := &handshakes{ask: func(_ context.Context, keys []tunnel.Key) (map[tunnel.Key]time.Time, error) {
		for _, k := range keys {
			asked[k]++
		}
		return map[tunnel.Key]time.Time{{0, 1}: now.Add(-time.Minute), {2, 2}: now.Add(-2 * day), {3, 1}: now.Add(time.Hour)}, fails
	}, contact: func(_ context.Context, id quarantine.ID) error {
		contacts = append(contacts, id)
		return refuses
	}}
	all := fleet()
	if err := h.hear(t.Context(), all, quarantine.Conduct{}, now); err != nil {
		t.Fatal(err)
	}
	silence := func(r quarantine.Record) time.Duration { return now.Sub(alert.LastSeen(r)) }
	for i, want := range []time.Duration{time.Minute, 100 * day, 2 * day, 0, time.Hour} {
		if got := silence(all[i]); got != want {
			t.Errorf("device %d counts as silent for %s, want %s", i, got, want)
		}
	}
	if len(contacts) != 2 || contacts[0] != "d0" || contacts[1] != "d3" {
		t.Errorf("contacts of %q, want those of the last hours", contacts)
	}
	if len(asked) != 5 || asked[tunnel.Key{4, 1}] != 0 || asked[tunnel.Key{2, 1}] != 1 {
		t.Errorf("asked for %v, want the keys of all that are silent for a day", asked)
	}
	must, _ := alert.Unheard(all, quarantine.Conduct{}, now)
	if len(must) != 1 || must[0] != 1 {
		t.Errorf("inactive: %v, want the second alone", must)
	}
	refuses = errors.New("the store is down")
	if err := h.hear(t.Context(), fleet(), quarantine.Conduct{}, now); !errors.Is(err, errNoted) {
		t.Errorf("with the store down: %v", err)
	}
	fails = errors.New("no data plane")
	if err := h.hear(t.Context(), fleet(), quarantine.Conduct{}, now); !errors.Is(err, fails) || errors.Is(err, errNoted) {
		t.Errorf("with nobody to ask: %v", err)
	}
}
