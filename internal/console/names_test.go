package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// TestPoolsReachNames: a name stands in a pool's reach beside addresses, and comes back.
func TestPoolsReachNames(t *testing.T) {
	l := newLab(t)
	l.cfg.Names = func(p quarantine.Pool) []api.Name {
		var all []api.Name
		for _, n := range p.Named {
			all = append(all, api.Name{Name: n.Name, Addresses: []api.NameAddress{{Address: netip.MustParseAddr("9.9.9.9"), Open: true}}})
		}
		return all
	}
	root := who{cert: l.admin}
	list := func() api.Pool {
		t.Helper()
		var pools []api.Pool
		if err := json.Unmarshal(l.ask(l.API(), root, "GET", "/api/v1/pools", "").Body.Bytes(), &pools); err != nil {
			t.Fatal(err)
		}
		return pools[slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == "quarantine" })]
	}
	put := fmt.Sprintf(`{"revision":%d,"quarantine":true,"ipv4":"10.66.0.0/16","ipv6":"fd66::/64","allow":["10.1.2.0/24"],
		"reach":["192.0.2.10 tcp/443","MDM.example.com. tcp/443","push.example.com udp/5000-5010","mdm.example.com icmp"]}`, list().Revision)
	if got := l.ask(l.API(), root, "PUT", "/api/v1/pools/quarantine", put); got.Code != http.StatusOK {
		t.Fatalf("saving: %d %s", got.Code, got.Body)
	}
	want := []string{"192.0.2.10/32 tcp/443", "mdm.example.com tcp/443", "push.example.com udp/5000-5010", "mdm.example.com icmp"}
	if got := list(); !slices.Equal(got.Reach, want) || len(got.Allow) != 1 || got.Allow[0].String() != "10.1.2.0/24" || got.Forward {
		t.Errorf("listed as %+v", got)
	}
	var names []api.Name
	if err := json.Unmarshal(l.ask(l.API(), root, "GET", "/api/v1/pools/quarantine/names", "").Body.Bytes(), &names); err != nil {
		t.Fatal(err)
	}
	if len(names) != 3 || names[0].Name != "mdm.example.com" || !names[0].Addresses[0].Open {
		t.Errorf("names told as %+v", names)
	}
	if got := l.ask(l.API(), root, "GET", "/api/v1/pools/none/names", ""); got.Code != http.StatusNotFound {
		t.Errorf("a pool that is not there: %d", got.Code)
	}
	for _, bad := range []string{
		`"reach":["mdm.example.com"]`, `"reach":["mdm.example.com tcp"]`, `"reach":["mdm.example.com tcp/0"]`, `"reach":["mdm tcp/443"]`,
		`"reach":["*.example.com tcp/443"]`, `"reach":["mdm.example.com tcp/443 more"]`, `"reach":["mdm.example.com/24 tcp/443"]`,
		`"allow":["0.0.0.0/0"]`, `"forward":true`,
	} {
		body := fmt.Sprintf(`{"revision":%d,`, list().Revision) + `"quarantine":true,"ipv4":"10.66.0.0/16",` + bad + `}`
		if got := l.ask(l.API(), root, "PUT", "/api/v1/pools/quarantine", body); got.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, got.Code, got.Body)
		}
	}
}
