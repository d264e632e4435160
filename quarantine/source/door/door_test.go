package door

import (
	"fmt"
	"testing"
)

// TestDoor: who counts as one, that all together are bounded, and that places come back.
func TestDoor(t *testing.T) {
	const total, each = 64, 4
	d := Door{Total: total, Each: each}
	var leave []func()
	enter := func(remote string) bool {
		l := d.Enter(remote)
		if l != nil {
			leave = append(leave, l)
		}
		return l != nil
	}
	for range each {
		enter("[2001:db8::1]:9")
	}
	if enter("[2001:db8::ffff]:1") || !enter("[2001:db8:0:1::1]:1") {
		t.Error("an IPv6 /64 is not one")
	}
	for range each {
		if !enter("192.0.2.1:9") {
			t.Error("an address has fewer places than it may")
		}
	}
	if enter("[::ffff:192.0.2.1]:9") || enter("192.0.2.1:10") {
		t.Error("an IPv4 address is not one, however it is written")
	}
	for range each {
		enter("nobody")
	}
	if enter("else") {
		t.Error("addresses that cannot be read do not count together")
	}
	for i := range total {
		enter(fmt.Sprintf("10.0.%d.%d:1", i>>8, i&255))
	}
	if places, _ := d.Held(); places != total || enter("192.0.2.200:1") {
		t.Errorf("%d at once", places)
	}
	for _, l := range leave {
		l()
		l() // a second time gives nothing back
	}
	if places, addresses := d.Held(); places != 0 || addresses != 0 {
		t.Errorf("afterwards %d places are held, of %d addresses", places, addresses)
	}
	if (&Door{}).Enter("192.0.2.1:1") != nil {
		t.Error("a door without bounds lets somebody in")
	}
}
