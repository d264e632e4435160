package resolver

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestForwardingLeavesRoom: while no upstream server answers, devices that ask for much take
// nothing from the others: a device's own bound comes first, and what the gateway answers by
// itself waits for nobody.
func TestForwardingLeavesRoom(t *testing.T) {
	bubble(t, records(a(300, "9.9.9.9")), func(l *lab) {
		l.up.set(silence)
		s := newService(l.t, l)
		ctx, cancel := context.WithCancel(context.Background())
		var waiting sync.WaitGroup
		q := query("www.example.org.", dns.TypeA)
		flood := func(from netip.Addr, n int) {
			for range n {
				waiting.Go(func() { s.Answer(ctx, from, q, true) })
			}
			synctest.Wait()
		}
		atOnce := func(from netip.Addr, message []byte) string {
			began := time.Now()
			got := said(l.t, message, s.Answer(ctx, from, message, true))
			if waited := time.Since(began); waited > 0 { // the bubble's time: it stands while anybody works
				l.t.Errorf("%s waited %s", from, waited)
			}
			return got
		}
		flood(forwarded, forwardsEach+100)
		if n := len(about("www.example.org", l.up.questions())); n != forwardsEach {
			l.t.Errorf("one device has %d questions under way", n)
		}
		if got := atOnce(forwarded, q); got != "SERVFAIL" {
			l.t.Errorf("beyond its bound a device is told %s", got)
		}
		from := netip.MustParseAddr("10.66.1.0")
		for range 2 * forwards / forwardsEach {
			l.gate.placed[from] = l.gate.placed[forwarded]
			flood(from, forwardsEach)
			from = from.Next()
		}
		if n := len(about("www.example.org", l.up.questions())); n != forwards-forwardsEach {
			l.t.Errorf("beside the first device, %d questions are under way", n)
		}
		l.gate.placed[from] = l.gate.placed[forwarded]
		if got := atOnce(from, q); got != "SERVFAIL" {
			l.t.Errorf("beyond the bound of all a device is told %s", got)
		}
		if got := atOnce(quarantined, query(mdm+".", dns.TypeA)); got != "NOERROR A 9.9.9.9" {
			l.t.Errorf("in quarantine the management server is told as %s", got)
		}
		if cap(s.slots) < forwards+questions/4 {
			l.t.Errorf("of %d datagrams %d may wait for others", cap(s.slots), forwards)
		}
		cancel()
		waiting.Wait()
		if len(s.asked.each) != 0 || s.asked.all != 0 {
			l.t.Errorf("still counted: %d, %v", s.asked.all, s.asked.each)
		}
	})
}
