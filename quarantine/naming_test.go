package quarantine_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

// TestNamesCauseFewPlans: a name that opens something else every second has a few complete
// plans sent, which bring all of it within half a minute; what is to be closed is closed at
// once, whatever was sent before.
func TestNamesCauseFewPlans(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		named(b)
		plans := func() int {
			synctest.Wait()
			_, n, _ := b.enforcer.Counts()
			return n
		}
		var list []string
		first := plans()
		for i := range quarantine.MaxPinned {
			list = append(list, fmt.Sprintf("9.9.9.%d", i+1))
			b.gate.SetNames(resolving(list...))
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n := plans() - first; n < 8 || n > 8+2 { // at once, and then one in half a minute
			t.Errorf("%d plans for %d addresses in %d seconds", n, len(list), len(list))
		}
		time.Sleep(30 * time.Second)
		if synctest.Wait(); len(opened(b, "other")) != len(list) {
			t.Errorf("half a minute later open are %v", opened(b, "other"))
		}
		settled := plans()
		time.Sleep(time.Hour)
		if n := plans(); n != settled {
			t.Errorf("%d plans while nothing changed", n-settled)
		}

		for range 40 { // each closes something: no room is left after them
			b.gate.SetNames(resolving(list[1:]...))
			b.gate.SetNames(resolving(list...))
			synctest.Wait()
		}
		closing := list[len(list)-1]
		b.gate.SetNames(resolving(list[:len(list)-1]...))
		synctest.Wait()
		if len(opened(b, "other")) == 0 || b.gate.Opens("other", netip.MustParseAddr(closing)) {
			t.Error("what is to be closed is open")
		}
		b.gate.SetNames(resolving(list...)) // waits
		synctest.Wait()
		if b.gate.Opens("other", netip.MustParseAddr(closing)) {
			t.Error("opened at once although there were many plans")
		}
		if s := b.gate.Status(); !s.Planned || s.Problem != "" {
			t.Errorf("what waits counts as a fault: %+v", s)
		}
		b.gate.SetNames(quarantine.Names{})
		synctest.Wait()
		if got := opened(b, "other"); !slices.Equal(got, []string{"100::1/128 icmp/0"}) {
			t.Errorf("without addresses open are %v", got)
		}
		now := plans()
		time.Sleep(time.Minute) // the plan that waited has nothing to tell any more
		if n := plans(); n != now {
			t.Errorf("%d plans that tell nothing", n-now)
		}
	})
}

// TestFirstAddressOpensAtOnce: where a pool reaches something already, too.
func TestFirstAddressOpensAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		s := settings()
		p := s.Pools["quarantine"]
		p.Named = withNames().Pools["quarantine"].Named
		s.Pools["quarantine"] = p
		b.store.Save(s)
		synctest.Wait()
		for _, a := range []string{"9.9.9.9", "9.9.9.8"} {
			b.gate.SetNames(resolving("9.9.9.9", a))
			synctest.Wait()
			if !b.gate.Opens("quarantine", netip.MustParseAddr(a)) {
				t.Errorf("%s is not open", a)
			}
		}
	})
}
