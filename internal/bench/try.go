package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/policy"
)

// tried is how many devices a policy set is tried on.
const tried = 10_000

// idle is a data plane that takes everything at once.
type idle struct{}

func (idle) Replace(context.Context, quarantine.Plan) error      { return nil }
func (idle) Apply(context.Context, quarantine.Entry) error       { return nil }
func (idle) Refresh(context.Context, quarantine.Freshness) error { return nil }

// measureTry measures what it takes to see who would move under a policy set, of devices of
// which every other one would.
func measureTry(ctx context.Context, s *session) error {
	dir, err := os.MkdirTemp("", "lazaret-bench-")
	if err != nil {
		return fmt.Errorf("making a directory for the journal: %w", err)
	}
	defer os.RemoveAll(dir)
	journal, err := quarantine.OpenJournal(filepath.Join(dir, "tightenings"))
	if err != nil {
		return err
	}
	defer journal.Close()
	now := time.Now()
	snap := crowd(tried, now)
	snap.Sources[source] = quarantine.Source{Name: source, MayRelease: true, MaxValidity: 2 * time.Hour, Facts: []string{"*"}}
	for i := range tried {
		r := snap.Records[deviceID(i)].Reports[source]
		if r.Facts = facts(now); i%2 == 1 {
			r.Facts["disk.encrypted"] = "false"
		}
		snap.Records[deviceID(i)].Reports[source] = r
	}
	gate, err := quarantine.NewGate(quarantine.Config{Store: &instant{snapshot: snap, revision: 1, events: make(chan quarantine.Event, 1024)},
		Enforcer: idle{}, Journal: journal, Policy: policy.New(policy.Config{}), Control: "bench"})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running.Go(func() { gate.Run(ctx) })
	gate.Replan() // as the data plane asks for when it connects
	select {
	case <-gate.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	set, err := baseline()
	if err != nil {
		return err
	}
	set.Assigned = true
	var took samples
	for range s.rounds {
		start := time.Now()
		moved := gate.Try(map[string]quarantine.PolicySet{set.Name: set}, quarantine.Conduct{})
		took = append(took, time.Since(start))
		if len(moved) != tried/2 {
			return fmt.Errorf("%d devices of %d would move, want half of them", len(moved), tried)
		}
	}
	s.add(row{Name: fmt.Sprintf("trying a set of %d rules on %d devices", len(set.Rules), tried), Value: millis(took.median()), Unit: "ms",
		ComparedWith: fmt.Sprintf("half of them would move; %s a device; median of %d", time.Duration(int64(took.median())/tried), len(took))})
	return nil
}
