package chaos

import (
	"syscall"
	"testing"
	"time"

	"lazaret/quarantine"
)

// A clock set hours ahead ends what it ends and nothing else; set back, it gives nothing
// of it back.
func TestClockSteps(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	step := func(d time.Duration) {
		t.Helper()
		l.note("clock %s", d)
		l.ahead = d
		l.tell(t, planeOrder{Step: d})
		l.settled(t)
	}
	l.routeAll(t)
	step(3 * time.Hour)
	for n := 1; n <= movers; n++ {
		if l.acked[n] != isRouted {
			t.Errorf("a report for five hours ended within three")
		}
		l.acked[n] = unknown
	}
	step(6 * time.Hour)
	for _, back := range []time.Duration{0, -6 * time.Hour, 6 * time.Hour, 0} {
		for n := 1; n <= movers; n++ {
			if l.acked[n] != isQuarantined {
				t.Errorf("with the clock at %s device %d is %d", l.ahead, n, l.acked[n])
			}
		}
		step(back)
		l.round(t)
	}
}

// Whatever is stopped, routing ends with the freshness of the last refresh, by the
// kernel's own clock, and comes back with the next.
func TestStopped(t *testing.T) {
	if !inside(t, 2*time.Minute, freshVariable+"=2s") {
		return
	}
	l := newLab(t)
	for name, who := range map[string][]*process{"control plane": {l.control.process}, "data plane": {l.plane}, "both": {l.control.process, l.plane}} {
		l.routeAll(t)
		began := l.passed.Load()
		for _, p := range who {
			check(t, p.cmd.Process.Signal(syscall.SIGSTOP))
		}
		stopped := time.Now()
		end := time.NewTimer(freshFor()) // no deadline is later: each was set before the stop
		l.round(t)
		if l.passed.Load() == began {
			t.Errorf("%s stopped: nothing passes at once", name)
		}
		<-end.C
		for n := 1; n <= movers; n++ {
			l.deny(n, rights{routed: true})
		}
		l.round(t)
		last := time.Unix(0, l.lastRouted.Load())
		t.Logf("%s stopped: the last routed packet passed %s after, %s before the deadline", name, last.Sub(stopped).Round(time.Millisecond), stopped.Add(freshFor()).Sub(last).Round(time.Millisecond))
		before := l.passed.Load()
		l.round(t)
		if l.passed.Load() == before {
			t.Errorf("%s stopped: quarantine ended with routing", name)
		}
		if leaks := l.forbidden(); len(leaks) > 0 {
			t.Fatalf("%s stopped: %d packets passed after the deadline, such as %s", name, len(leaks), leaks[0])
		}
		for n := 1; n <= movers; n++ {
			l.grant(n, rights{routed: true})
		}
		for _, p := range who {
			check(t, p.cmd.Process.Signal(syscall.SIGCONT))
		}
		l.settled(t)
	}
}

// A lease ends by the kernel's clock while nobody is there to end it: both processes dead.
func TestLeaseOutlivesNobody(t *testing.T) {
	if !inside(t, 2*time.Minute) {
		return
	}
	l := newLab(t)
	const lease = 3 * time.Second
	for n := 1; n <= movers; n++ {
		l.grant(n, rights{routed: true})
	}
	at := time.Now()
	for n := 1; n <= movers; n++ {
		check(t, l.control.change(quarantine.Change{Kind: quarantine.Reported, Device: id(n),
			Report: &quarantine.Report{Device: id(n), Source: "mdm", Verdict: quarantine.Compliant, At: at, Validity: lease}}))
		l.acked[n] = unknown
	}
	end := time.NewTimer(time.Until(at.Add(lease)))
	l.plane.kill()
	l.control.kill()
	began := l.passed.Load()
	l.round(t)
	if l.passed.Load() == began {
		t.Error("nothing passes though leases and freshness last")
	}
	<-end.C
	for n := 1; n <= movers; n++ {
		l.deny(n, rights{routed: true})
	}
	l.round(t)
	last := time.Unix(0, l.lastRouted.Load())
	t.Logf("the last routed packet passed %s before the lease ended", at.Add(lease).Sub(last).Round(time.Millisecond))
	if leaks := l.forbidden(); len(leaks) > 0 {
		t.Fatalf("%d packets passed after the lease, such as %s", len(leaks), leaks[0])
	}
	l.startPlane(t, "")
	l.startControl(t, "")
	l.settled(t)
	for n := 1; n <= movers; n++ {
		if l.acked[n] != isQuarantined {
			t.Errorf("device %d came back as %d", n, l.acked[n])
		}
	}
}
