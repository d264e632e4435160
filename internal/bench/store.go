package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// measureStore times single writes; nothing is compared.
func measureStore(ctx context.Context, s *session) error {
	at, err := openSite(ctx)
	if err != nil {
		return err
	}
	defer at.Close()
	e, err := at.prepare(ctx, 0)
	if err != nil {
		return err
	}
	if err := e.run(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lazaret-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	chain, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "audit")})
	if err != nil {
		return err
	}
	defer chain.Close()
	snap, err := at.store.Snapshot(ctx)
	if err != nil {
		return err
	}
	var record quarantine.Record
	for _, record = range snap.Records {
	}
	var reads, writes, entries samples
	for range s.rounds * s.enrollmentsPerRound() {
		start := time.Now()
		if record, err = at.store.Device(ctx, record.ID); err != nil {
			return err
		}
		reads = append(reads, time.Since(start))
		start = time.Now()
		c := quarantine.Change{Kind: quarantine.Confirm, Device: record.ID, By: administrator, At: start}
		if _, err := at.store.Record(ctx, c, record); err != nil {
			return err
		}
		writes = append(writes, time.Since(start))
		start = time.Now()
		if _, err := chain.Append(audit.Entry{Time: start, Actor: audit.Actor{Kind: "gateway", Name: "bench"}, Action: "bench.write"}); err != nil {
			return err
		}
		entries = append(entries, time.Since(start))
	}
	s.add(row{Name: "store: one device's record read, p50", Value: millis(reads.median()), Unit: "ms", ComparedWith: "one node, linearizable"})
	s.add(row{Name: "store: one device's record with its audit entry written, p50", Value: millis(writes.median()), Unit: "ms", ComparedWith: "one node, on disk"})
	s.add(row{Name: "audit log: one entry chained and on disk, p50", Value: millis(entries.median()), Unit: "ms", ComparedWith: "segment file with fsync"})
	return nil
}
