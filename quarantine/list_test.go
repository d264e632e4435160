package quarantine_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/quarantine"
)

func names(all []quarantine.Record) []string {
	var n []string
	for _, r := range all {
		n = append(n, r.Name+"/"+string(r.ID)+"/"+string(r.Stage))
	}
	return n
}

func TestLists(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		for i, serial := range []string{"SN1", "SN2", "SN2", ""} {
			r := enrolled(i+1, "staff", time.Now())
			r.Serial = serial
			b.enroll(r)
		}
		b.compliant("d1")
		if _, err := b.gate.Block(t.Context(), admin, "d3", ""); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		// Not recorded yet, and told all the same.
		b.down()
		if _, err := b.gate.Revoke(t.Context(), admin, "d4", ""); err != nil {
			t.Fatal(err)
		}
		all := b.gate.Devices()
		want := []string{"laptop-1/d1/routed", "laptop-2/d2/quarantined", "laptop-3/d3/blocked", "laptop-4/d4/revoked"}
		if got := names(all); !slices.Equal(got, want) {
			t.Errorf("devices %v, want %v", got, want)
		}
		for _, r := range all {
			one, err := b.gate.Device(string(r.ID))
			if err != nil || one.Stage != r.Stage || one.Pool != r.Pool || one.Reason != r.Reason || !one.Until.Equal(r.Until) {
				t.Errorf("listed as %+v, told as %+v, %v", r, one, err)
			}
		}
		if got := names(b.gate.BySerial("SN2")); !slices.Equal(got, want[1:3]) {
			t.Errorf("with serial number SN2: %v", got)
		}
		for _, serial := range []string{"", "SN3"} {
			if got := b.gate.BySerial(serial); len(got) != 0 {
				t.Errorf("with serial number %q: %v", serial, names(got))
			}
		}
		counts := map[quarantine.Stage]int{quarantine.Routed: 1, quarantine.Quarantined: 1, quarantine.Blocked: 1, quarantine.Revoked: 1}
		if got := b.gate.Counts(); !maps.Equal(got, counts) {
			t.Errorf("counts %v, want %v", got, counts)
		}
		if got := b.gate.HighestSeat(); got != 4 {
			t.Errorf("highest seat %d, want 4", got)
		}
		if r, ok := b.gate.UsesProfile("staff"); !ok || r.Profile != "staff" {
			t.Errorf("nobody uses the profile of all: %+v", r)
		}
		if st := b.gate.Status(); st.Pending != 1 || st.Devices != 4 {
			t.Errorf("status %+v, want 4 devices, 1 pending", st)
		}
		b.up()
		time.Sleep(10 * time.Second)
		for _, id := range []quarantine.ID{"d1", "d2", "d3"} {
			b.store.Delete(id)
		}
		synctest.Wait()
		if r, ok := b.gate.UsesProfile("staff"); ok {
			t.Errorf("a revoked device uses the profile: %+v", r)
		}
		if got := names(b.gate.Devices()); !slices.Equal(got, want[3:]) || len(b.gate.BySerial("SN2")) != 0 {
			t.Errorf("after deletions: %v", got)
		}
	})
}

// A device is found by its ID before anybody's name, and a name finds the device that has
// it now.
func TestFind(t *testing.T) {
	bubble(t, func(t *testing.T, b *bench) {
		b.enroll(enrolled(1, "staff", time.Now()))
		shadow := enrolled(2, "staff", time.Now())
		shadow.Name = "d1"
		b.enroll(shadow)
		old := enrolled(3, "staff", time.Now())
		old.Revocation = quarantine.Decision{By: admin, At: time.Now()}
		old = b.enroll(old)
		heir := enrolled(4, "staff", time.Now())
		heir.Name = old.Name
		b.enroll(heir)
		b.store.Put(old) // written later, and revoked all the same
		synctest.Wait()
		for ref, want := range map[string]quarantine.ID{"d1": "d1", "d2": "d2", "laptop-1": "d1", "laptop-3": "d4", "d3": "d3"} {
			r, err := b.gate.Device(ref)
			if err != nil || r.ID != want {
				t.Errorf("%q finds %s, %v; want %s", ref, r.ID, err, want)
			}
			if x, err := b.gate.Explain(ref); err != nil || x.Record.ID != want {
				t.Errorf("%q explains %s, %v; want %s", ref, x.Record.ID, err, want)
			}
		}
		b.store.Delete("d4")
		synctest.Wait()
		if r, err := b.gate.Device("laptop-3"); err != nil || r.ID != "d3" {
			t.Errorf("the heir is gone, and the name finds %s, %v", r.ID, err)
		}
		heir.ID, heir.Name, heir.Serial = "d2", "renamed", "SN"
		b.store.Put(heir)
		synctest.Wait()
		if _, err := b.gate.Device("laptop-2"); err == nil {
			t.Error("an old name finds a device")
		}
		if r, err := b.gate.Device("renamed"); err != nil || r.ID != "d2" || len(b.gate.BySerial("SN")) != 1 {
			t.Errorf("the new name finds %s, %v; serial number %v", r.ID, err, b.gate.BySerial("SN"))
		}
	})
}

// BenchmarkList is how long lists of n devices take, and how long one in a thousand others
// that ask for one device wait meanwhile.
func BenchmarkList(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		g, _ := crowd(b, n)
		for name, list := range map[string]func(){
			"devices": func() { g.Devices() },
			"counts":  func() { g.Counts() },
			"seat":    func() { g.HighestSeat() },
			"profile": func() { g.UsesProfile("nobody's") },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				stop, done := make(chan struct{}), make(chan struct{})
				var waits []time.Duration
				go func() {
					defer close(done)
					for {
						began := time.Now()
						g.Device("d1")
						waits = append(waits, time.Since(began))
						select {
						case <-stop:
							return
						default:
						}
					}
				}()
				for b.Loop() {
					list()
				}
				close(stop)
				<-done
				slices.Sort(waits)
				b.ReportMetric(float64(waits[len(waits)*999/1000].Microseconds()), "p999-µs-for-others")
			})
		}
	}
}
