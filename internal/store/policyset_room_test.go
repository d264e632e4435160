package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"lazaret/quarantine"
)

// There are no more sets than decisions are made by, also where several are saved at once; one
// that is there can be saved again.
func TestStoreTakesNoMoreSetsThanAreJudgedBy(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	put := func(n int) error {
		_, err := s.PutSet(ctx, admin, quarantine.PolicySet{Name: fmt.Sprintf("set-%d", n)})
		return err
	}
	for n := range quarantine.MaxSets - 1 {
		if err := put(n); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for n := range 4 {
		all.Go(func() {
			err := put(1000 + n)
			for errors.Is(err, quarantine.ErrConflict) {
				err = put(1000 + n)
			}
			if err != nil && !errors.Is(err, ErrInvalid) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if snap, err := s.Snapshot(ctx); err != nil || len(snap.Sets) != quarantine.MaxSets {
		t.Errorf("%d sets, %v; want %d", len(snap.Sets), err, quarantine.MaxSets)
	}
	if err := put(2000); !errors.Is(err, ErrInvalid) {
		t.Errorf("one more: %v, want ErrInvalid", err)
	}
	if err := put(0); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if err := s.SetTable().Delete(ctx, admin, "set-0", Any); err != nil {
		t.Fatal(err)
	}
	if err := put(2000); err != nil {
		t.Errorf("where one went: %v", err)
	}
}
