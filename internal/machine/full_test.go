package machine

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/appliance/update"
)

// A version on trial that is well while the data partition takes no writes is kept, which is told on
// the EFI partition; that the record does not have it is no reason to leave it later.
func TestKeptWithAFullDisk(t *testing.T) {
	record := t.TempDir()
	m, dir := overSlotsIn(t, record, "lazaret_1.0.0.efi", "lazaret_2.0.0+2-1.efi")
	if err := os.Remove(record); err != nil { // nothing can be written there, whoever asks
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		v := verdict{m: m, started: time.Now()}
		for range 20 {
			v.look(allWell)
			time.Sleep(looks)
		}
		if got := names(t, dir); got != "lazaret_1.0.0.efi lazaret_2.0.0.efi" || v.settled {
			t.Errorf("slots are %s, settled %v", got, v.settled)
		}
		if m.state.problems["update"] == "" {
			t.Error("nobody is told that it could not be noted")
		}
		for time.Since(v.started) < update.Deadline+time.Minute { // its store ends for want of room
			v.look(update.Health{API: true, Firewall: true, Tunnel: true})
			time.Sleep(looks)
		}
		if got := names(t, dir); got != "lazaret_1.0.0.efi lazaret_2.0.0.efi" || len(m.orders) != 0 {
			t.Errorf("slots are %s, %d orders to restart", got, len(m.orders))
		}
		if err := os.Mkdir(record, 0o700); err != nil {
			t.Fatal(err)
		}
		for range 20 { // there is room again
			v.look(allWell)
			time.Sleep(looks)
		}
		if !v.settled || m.state.problems["update"] != "" {
			t.Errorf("settled %v, problem %q", v.settled, m.state.problems["update"])
		}
	})
}
