package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"lazaret/quarantine"
)

// turning answers with 8 of 400 addresses, others every minute, as large content networks do.
func turning() func(string, *dns.Msg) []*dns.Msg {
	began := time.Now()
	return func(_ string, q *dns.Msg) []*dns.Msg {
		minute := int(time.Since(began) / time.Minute)
		var all []string
		for i := range 8 {
			n := (minute*8 + i) % 400
			all = append(all, a(60, fmt.Sprintf("93.184.%d.%d", n>>8, n&255)))
		}
		return reply(q, all...)
	}
}

// TestRotationCutsNoSession: of a name that leads elsewhere every minute no address closes
// before the end of its grace, the number of them stays bounded, what devices are told is
// open, and the pools change a few times in an hour, not with every answer.
func TestRotationCutsNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, nil)
		l.up.set(turning())
		l.run()
		defer func() { l.stop() }()
		s := newService(t, l)
		question := query(mdm+".", dns.TypeA)
		opened := make(map[string]time.Time)
		changes, last, most := 0, "", 0
		for minute := range 180 {
			synctest.Wait()
			now := l.gate.open("quarantine")
			if now != last {
				changes++
			}
			for addr := range strings.FieldsSeq(last) {
				if !slices.Contains(strings.Fields(now), addr) {
					if open := time.Since(opened[addr]); open < DefaultGrace+MinTTL {
						t.Errorf("minute %d: %s closed after %s", minute, addr, open)
					}
					delete(opened, addr)
				}
			}
			for addr := range strings.FieldsSeq(now) {
				if opened[addr].IsZero() {
					opened[addr] = time.Now()
				}
			}
			last, most = now, max(most, len(strings.Fields(now)))
			told := strings.Split(said(t, question, s.Answer(context.Background(), quarantined, question, true)), " A ")
			if told[0] != "NOERROR" || len(told) < 2 {
				t.Errorf("minute %d: told %v", minute, told)
			}
			for _, addr := range told[1:] {
				if !slices.Contains(strings.Fields(now), addr) {
					t.Errorf("minute %d: told %s, which is not open", minute, addr)
				}
			}
			time.Sleep(time.Minute)
		}
		if most != quarantine.MaxPinned || changes > 3*2*quarantine.MaxPinned/8 {
			t.Errorf("%d open at most, %d changes in three hours", most, changes)
		}
		if n := strings.Count(l.log.String(), "one too many"); n != 1 {
			t.Errorf("the log tells %d times that there are too many:\n%s", n, l.log)
		}
	})
}

// TestWholeMove: a name that leaves its addresses for others, with room for both, is open at
// the new ones at once, and at the old ones for the grace.
func TestWholeMove(t *testing.T) {
	var before, after []string
	for i := range quarantine.MaxPinned / 2 {
		before, after = append(before, a(60, fmt.Sprintf("9.9.9.%d", 100+i))), append(after, a(60, fmt.Sprintf("9.9.8.%d", 100+i)))
	}
	bubble(t, records(before...), func(l *lab) {
		l.up.set(records(after...))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Fields(l.gate.open("quarantine")); len(got) != quarantine.MaxPinned {
			t.Errorf("open are %v", got)
		}
		time.Sleep(DefaultGrace)
		synctest.Wait()
		if got := l.gate.open("quarantine"); strings.Contains(got, "9.9.9.") || len(strings.Fields(got)) != len(after) {
			t.Errorf("after the grace, open are %s", got)
		}
	})
}

// TestEarlyEndIsLogged: what closes before its end, since it became the gateway's own, is in
// the log.
func TestEarlyEndIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var own atomic.Pointer[[]netip.Addr]
		own.Store(new([]netip.Addr))
		l := newLab(t, func(c *Config) { c.Gateway = func() []netip.Addr { return *own.Load() } })
		l.up.set(records(a(60, "9.9.9.9"), a(60, "9.9.9.8")))
		l.run()
		defer func() { l.stop() }()
		l.want("at first", "9.9.9.8 9.9.9.9")
		if strings.Contains(l.log.String(), "before its end") {
			t.Errorf("closed already:\n%s", l.log)
		}
		own.Store(&[]netip.Addr{netip.MustParseAddr("9.9.9.9")})
		time.Sleep(time.Minute)
		l.want("one is the gateway's own now", "9.9.9.8")
		if n := strings.Count(l.log.String(), "before its end"); n != 1 || !strings.Contains(l.log.String(), "address=9.9.9.9 end=") {
			t.Errorf("told %d times:\n%s", n, l.log)
		}
	})
}

// TestRestartKeepsPlaces: after a restart the same addresses of too many are open.
func TestRestartKeepsPlaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names.json")
	synctest.Test(t, func(t *testing.T) {
		with := func(c *Config) { c.File = file }
		l := newLab(t, with)
		zone := turning()
		l.up.set(zone)
		l.run()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		before := l.gate.open("quarantine")
		l.stop()
		l = newLab(t, with)
		l.want("before the first plan", before)
		l.up.set(zone)
		l.run()
		defer func() { l.stop() }()
		l.want("asked again", before)
	})
}
