package daemon

import (
	"context"
	"log/slog"
	"os"
	"strconv"
	"time"

	"lazaret/internal/notify"
)

// heartbeat tells a manager that wants to know (WATCHDOG_USEC, sd_watchdog_enabled(3)) that
// the store answers, for as long as it does: a control plane without one is of no use, and
// is better started again.
type heartbeat struct {
	every time.Duration
	look  func(context.Context) error // asks the store
	tell  func(state string)
	log   *slog.Logger
}

func (k *control) makeHeartbeat(context.Context) (part, error) {
	p := part{name: "heartbeat"}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us <= 0 {
		return p, nil
	}
	look := func(ctx context.Context) error {
		_, err := k.store.Now(ctx) // a read that needs the store's agreement
		return err
	}
	p.run = heartbeat{time.Duration(us) * time.Microsecond / 4, look, notify.Manager, k.log}.run
	return p, nil
}

func (h heartbeat) run(ctx context.Context) error {
	t := time.NewTicker(h.every)
	defer t.Stop()
	for {
		asking, stop := context.WithTimeout(ctx, h.every)
		err := h.look(asking)
		stop()
		if err == nil {
			h.tell("WATCHDOG=1")
		} else if ctx.Err() == nil {
			h.log.Warn("the store does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}
