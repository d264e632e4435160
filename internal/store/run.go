package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

var errClosed = errors.New("the store is closed")

// Run chains audit entries, moves the stored time forward, and watches quota and disk,
// until ctx ends or etcd stops. It returns nil when ctx ended. etcd compacts by itself.
func (s *Store) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.chainLoop(ctx) })
	g.Go(func() error { return s.keepHouse(ctx, time.Minute) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.etcd.StopNotify():
			return fmt.Errorf("running etcd: %w", errClosed)
		}
	})
	return g.Wait()
}

// Health is what an operator should know of the store.
type Health struct {
	Size    int64  // bytes of etcd's database
	Quota   int64  // bytes it may take
	Free    int64  // bytes free on its disk or the audit log's, whichever has less
	Waiting int    // audit entries not yet chained
	Clock   error  // ErrClock, or nil
	Alarm   string // one sentence, or empty
}

// Health measures.
func (s *Store) Health(ctx context.Context) (Health, error) {
	h := Health{Quota: s.cfg.Quota, Size: s.etcd.Backend().Size()}
	var err error
	if h.Free, err = s.free(); err != nil {
		return h, err
	}
	r, err := s.client.Get(ctx, outboxPrefix, countOnly()...)
	if err != nil {
		return h, fmt.Errorf("counting audit outbox: %w", err)
	}
	h.Waiting = int(r.Count)
	if _, err := s.SigningTime(ctx); err != nil {
		h.Clock = err
	}
	switch {
	case h.Free < s.cfg.Ballast/2:
		h.Alarm = fmt.Sprintf("the store's disk is full: %d MiB are left; make room at once", h.Free>>20)
	case h.Free < s.cfg.Reserve:
		h.Alarm = fmt.Sprintf("the disk is nearly full: %d MiB are left, and refusals of strangers are no longer written to the audit log", h.Free>>20)
	case h.Size > h.Quota/2:
		h.Alarm = fmt.Sprintf("the store has used %d of %d MiB", h.Size>>20, h.Quota>>20)
	case h.Clock != nil:
		h.Alarm = h.Clock.Error()
	case h.Waiting > 10*chunk:
		h.Alarm = fmt.Sprintf("%d audit entries wait to be chained", h.Waiting)
	}
	return h, nil
}

// free is how many bytes are left for the store and for the audit log.
func (s *Store) free() (int64, error) {
	free, err := s.cfg.free(s.cfg.Dir)
	if err == nil {
		var log int64
		log, err = s.cfg.free(s.cfg.AuditDir)
		free = min(free, log)
	}
	if err != nil {
		return 0, fmt.Errorf("measuring disk: %w", err)
	}
	return free, nil
}

// diskFree is how many bytes are left on a directory's disk to whoever is not root.
func diskFree(dir string) (int64, error) {
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil {
		return 0, err
	}
	return int64(disk.Bavail) * int64(disk.Bsize), nil
}

// keepHouse looks after clock, quota and disk at every interval until ctx ends.
func (s *Store) keepHouse(ctx context.Context, every time.Duration) error {
	t := time.NewTicker(every)
	defer t.Stop()
	alarm := ""
	for {
		if err := s.tick(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("the stored time stands still", "err", err)
		}
		h, err := s.Health(ctx)
		switch {
		case ctx.Err() != nil:
			s.lastTick(ctx)
			return nil
		case err != nil:
			s.cfg.Log.Warn("measuring the store", "err", err)
		case h.Alarm != "" && h.Alarm != alarm:
			s.cfg.Log.Error(h.Alarm)
		}
		alarm = h.Alarm
		if err == nil && h.Free < s.cfg.Ballast/2 {
			s.dropBallast()
		}
		if err := holdAhead(s.cfg); err != nil {
			s.cfg.Log.Debug("etcd's database has no room ahead", "err", err)
		}
		if err := holdSpare(s.cfg); err != nil {
			s.cfg.Log.Debug("no spare for the next start", "err", err)
		}
		select {
		case <-ctx.Done():
			s.lastTick(ctx)
			return nil
		case <-t.C:
		}
	}
}

// lastTick stores the time at which a run ends: a clock that is set back before the next
// one then gives nothing back but the pause.
func (s *Store) lastTick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := s.tick(ctx); err != nil {
		s.cfg.Log.Debug("the time at the end of the run is not stored", "err", err)
	}
}
