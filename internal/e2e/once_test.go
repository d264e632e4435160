package e2e

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// TestOneCodeForAHundred is M1's "one-time": of a hundred devices that come with the same
// code at once, each from an address and with keys of its own, one is enrolled, and the
// others are told why not.
func TestOneCodeForAHundred(t *testing.T) {
	t.Parallel()
	const crowd = 100
	g := newGateway(t, options{})
	host := theLab(t).Dev2
	config := testnet.NetConfig{Links: []testnet.LinkConfig{{Name: "outer"}}}
	devices := make([]*device, crowd)
	clients := make([]*client.Client, crowd)
	for i := range crowd {
		from := netip.AddrFrom4([4]byte{198, 51, 100, byte(100 + i)})
		config.Links[0].Addrs = append(config.Links[0].Addrs, netip.PrefixFrom(from, 24))
		devices[i] = newDevice(t, g, host)
		clients[i] = devices[i].client(t, client.Config{Attempts: 1, Dial: through(t, host, from, "")})
	}
	if err := host.Configure(soon(t), config); err != nil {
		t.Fatal(err)
	}
	o := g.otp(t, api.OTPRequest{User: "crowd@example.com"})
	c, err := code.Parse(o.Code)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make([]error, crowd)
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() { _, errs[i] = clients[i].Enroll(ctx, c, devices[i]) })
	}
	all.Wait()

	var winner *device
	for i, err := range errs {
		refusal, refused := errors.AsType[cmp.StatusInfo](err)
		switch {
		case err == nil && winner == nil:
			winner = devices[i]
		case err == nil:
			t.Error("a second device was enrolled")
		case !refused || refusal.Fail != cmp.DuplicateCertReq:
			t.Errorf("refused with %v; want duplicateCertReq", err)
		}
	}
	if winner == nil {
		t.Fatal("nobody was enrolled")
	}
	g.show(t, winner.id)
	list := g.devices(t)
	if len(list) != 1 || list[0].ID != winner.id || list[0].Certificate != winner.serial() || list[0].Key != winner.wg.Public().String() {
		t.Errorf("the gateway has %d devices %+v; want %s alone", len(list), list, winner.id)
	}
	enrollments := 0
	for _, e := range g.audit(t, "") {
		if e.Action == "device.enroll" {
			enrollments++
		}
	}
	if enrollments != 1 {
		t.Errorf("the audit log tells of %d enrollments, want 1", enrollments)
	}
}
