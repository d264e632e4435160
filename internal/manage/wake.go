package manage

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/quarantine"
)

// wakeAgain is how long a device that was woken by its long poll, and did not come, is left
// alone: less than a poll lasts.
const wakeAgain = 10 * time.Second

// wakeup makes a wake-up. Its counter is the time in milliseconds, or one more than the last
// one, so that it grows across restarts and restored gateways without being stored. The
// caller holds the entry's lock.
func (m *Manager) wakeup(e *entry) (string, error) {
	key, chain := m.Signer()
	now := m.Now()
	e.counter = max(e.counter+1, uint64(max(now.UnixMilli(), 1)))
	return agentapi.Wakeup{Device: string(e.id), Signer: agentapi.SignerID(chain[0]), Time: now, Counter: e.counter}.Sign(key)
}

// Wakeup makes a wake-up for a device; it is refused for one that is revoked.
func (m *Manager) Wakeup(id quarantine.ID) (string, error) {
	r, err := m.Gate.Device(string(id))
	if err != nil {
		return "", err
	}
	if r.Revocation.Set() {
		return "", fmt.Errorf("making a wake-up: %w", quarantine.ErrFinal)
	}
	e := m.entry(r.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.wakeup(e)
}

// Waiting returns a wake-up if something waits for the device that it was not woken for in
// the last seconds, and otherwise a channel that is closed once something does. r is the
// device's record, whose orders are followed first. A device that is fresh has just begun,
// and got nothing yet.
func (m *Manager) Waiting(ctx context.Context, r quarantine.Record, fresh bool) (token string, changed <-chan struct{}) {
	if err := m.Follow(ctx, r); err != nil {
		m.Log.Error("following a device's order", "device", r.ID, "err", err)
	}
	e := m.entry(r.ID)
	e.mu.Lock()
	defer e.mu.Unlock()
	now := m.Now()
	if e.book.waiting(now) && (fresh || now.Sub(e.woken) >= wakeAgain) {
		token, err := m.wakeup(e)
		if err == nil {
			e.woken = now
			return token, nil
		}
		m.Log.Error("making a wake-up", "device", r.ID, "err", err)
	}
	if e.changed == nil {
		e.changed = make(chan struct{})
	}
	return "", e.changed
}

// SignerChain is the chain of the management signer, unless known names it.
func (m *Manager) SignerChain(known string) [][]byte {
	_, chain := m.Signer()
	id := agentapi.SignerID(chain[0])
	if known == hex.EncodeToString(id[:]) {
		return nil
	}
	var out [][]byte
	for _, c := range chain {
		out = append(out, c.Raw)
	}
	return out
}
