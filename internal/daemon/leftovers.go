package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lazaret/internal/store"
	"lazaret/quarantine"
)

// leftovers removes what is kept of the TPMs of devices that are revoked or forgotten: no
// such device comes back, and what was decided about it is in the audit log. Commands are
// looked after by the desk for them.
type leftovers struct {
	store *store.Store
	tpms  tpms
	gate  interface {
		Device(idOrName string) (quarantine.Record, error)
	}
	log *slog.Logger
}

// leftEvery is how often it is looked for.
const leftEvery = time.Hour

func (k *control) makeLeftovers(context.Context) (part, error) {
	l := leftovers{k.store, newAttestation(k.store, k.config.Name, k.log).tpms, k.gate, k.log}
	return part{name: "leftovers", run: l.run}, nil
}

func (l leftovers) run(ctx context.Context) error {
	t := time.NewTicker(leftEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := l.sweep(ctx); err != nil && ctx.Err() == nil {
			l.log.Error("removing what is left of revoked devices", "err", err)
		}
	}
}

// sweep looks at every device of which a TPM is kept.
func (l leftovers) sweep(ctx context.Context) error {
	names, err := l.store.Settings().Names(ctx, tpmSetting)
	if err != nil {
		return err
	}
	for _, name := range names {
		id := quarantine.ID(name[len(tpmSetting):])
		over, err := l.over(ctx, id)
		if err != nil {
			return fmt.Errorf("looking at device %s: %w", id, err)
		}
		if !over {
			continue
		}
		if err := l.store.Settings().Delete(ctx, l.tpms.self, name, store.Any); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

// over reports whether a device is revoked or gone. That the gate does not know it says
// nothing yet, as of one that was enrolled this moment: the store is asked.
func (l leftovers) over(ctx context.Context, id quarantine.ID) (bool, error) {
	if r, err := l.gate.Device(string(id)); err == nil && !r.Revocation.Set() {
		return false, nil
	}
	r, err := l.store.Device(ctx, id)
	if errors.Is(err, quarantine.ErrUnknownDevice) {
		return true, nil
	}
	return err == nil && r.Revocation.Set(), err
}
