package storetest_test

import (
	"testing"

	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

// The store in memory passes the suite that it helps others to pass.
func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		m := storetest.NewMemory()
		return storetest.Harness{
			Store:   m,
			Put:     func(_ testing.TB, r quarantine.Record) quarantine.Record { return m.Put(r) },
			Delete:  func(_ testing.TB, id quarantine.ID) { m.Delete(id) },
			Save:    func(_ testing.TB, s storetest.Settings) { m.Save(s) },
			Touch:   func(testing.TB) { m.Touch() },
			Compact: func(_ testing.TB, revision int64) { m.Compact(revision) },
		}
	})
}
