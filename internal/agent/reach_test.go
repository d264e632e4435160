package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/quarantine/tunnel"
)

// two are settings with two gateways, of which the first has two endpoints.
func two() cmp.Settings {
	s := settings(true)
	s.Gateways[0].Endpoints = []string{"127.0.0.1:51820", "127.0.0.2:51821"}
	second := s.Gateways[0]
	second.Name, second.WireGuard, second.Endpoints = "gw2", tunnel.Key{8}.String(), []string{"127.0.0.3:51820"}
	s.Gateways = append(s.Gateways, second)
	return s
}

// TestWaysAreTriedInTurn: every endpoint of every gateway, in the order of the settings,
// and then from the start; what this device has no route to comes last.
func TestWaysAreTriedInTurn(t *testing.T) {
	s := two()
	all, err := ways(t.Context(), s.Gateways)
	at := netip.MustParseAddrPort
	want := []way{{"gw", at("127.0.0.1:51820")}, {"gw", at("127.0.0.2:51821")}, {"gw2", at("127.0.0.3:51820")}}
	if err != nil || !slices.Equal(all, want) {
		t.Fatalf("%v, %v; want %v", all, err, want)
	}
	last := way{}
	for _, w := range append(want, want[0]) {
		if last = following(all, last); last != w {
			t.Errorf("tried %v, want %v", last, w)
		}
	}
	s.Gateways[0].Endpoints[0] = "[2001:db8::1]:51820" // documentation: nobody has a route there, or it counts as near
	if all, err = ways(t.Context(), s.Gateways); err != nil || len(all) != 3 || !routed(at("[2001:db8::1]:51820")) && all[2].Endpoint != at("[2001:db8::1]:51820") {
		t.Errorf("with an endpoint that cannot be reached: %v, %v", all, err)
	}
	s.Gateways = []cmp.Gateway{{Name: "gw", Endpoints: []string{"nonsense"}}}
	if _, err := ways(t.Context(), s.Gateways); err == nil {
		t.Error("an endpoint that is none gave no error")
	}
}

// askingDNS notes by which way the gateway is tried when the servers are set.
type askingDNS struct {
	agent *Agent
	told  []way
}

func (d *askingDNS) set([]netip.Addr) error {
	d.told = append(d.told, d.agent.via)
	return nil
}
func (d *askingDNS) restore() error { return nil }

// TestServersBehindADeadTunnelAreNotAsked for the gateway's own name: they are given up
// before another way is looked for.
func TestServersBehindADeadTunnelAreNotAsked(t *testing.T) {
	a, _ := newAgent(t)
	d := &askingDNS{agent: a}
	a.dns = d
	st := status("quarantined", false, 1)
	st.Settings = two()
	st.Settings.Quarantine.DNS = []netip.Addr{addr("10.66.0.1")}
	st.Settings.Full = cmp.Network{}
	a.state.Settings, a.state.Root = st.Settings, a.state.Certificate
	must(t, a.resolve(t.Context()))
	a.take(st)
	first := a.via
	a.reconnect(t.Context())
	if a.via == first || !slices.Equal(d.told, []way{first, first}) || a.have.DNS != nil {
		t.Errorf("servers were set while trying %v, then %v was tried", d.told, a.via)
	}
	a.take(st)
	if len(d.told) != 3 || d.told[2] != a.via || len(a.have.DNS) != 1 {
		t.Errorf("with an answer: %v, servers %v", d.told, a.have.DNS)
	}
}

// TestAnotherGatewayIsTried: without an answer the agent goes from one to the next, with
// the other's key, and drops the peer that it had.
func TestAnotherGatewayIsTried(t *testing.T) {
	a, f := newAgent(t)
	st := status("routed", true, 1)
	st.Settings = two()
	a.state.Settings, a.state.Root = st.Settings, a.state.Certificate
	must(t, a.resolve(t.Context()))
	a.take(st)
	if f.peer.Key != (tunnel.Key{9}) || f.peer.Endpoint.Port() != 51820 || len(f.gone) > 0 {
		t.Fatalf("begins with %v at %s", f.peer.Key, f.peer.Endpoint)
	}
	must(t, a.connect())
	a.reconnect(t.Context())
	if f.peer.Key != (tunnel.Key{9}) || f.peer.Endpoint.Port() != 51821 {
		t.Errorf("then %v at %s; want the same gateway's other endpoint", f.peer.Key, f.peer.Endpoint)
	}
	a.reconnect(t.Context())
	if f.peer.Key != (tunnel.Key{8}) || !slices.Equal(f.gone, []tunnel.Key{{9}}) {
		t.Errorf("then %v, dropped %v; want the other gateway, and the first dropped", f.peer.Key, f.gone)
	}
	if !slices.Contains(f.has(), prefix("10.67.0.2/32")) {
		t.Error("the pool's address went with the first gateway")
	}
	// Where names cannot be looked up any more, the ways found before serve.
	a.state.Settings.Gateways = slices.Clone(a.state.Settings.Gateways)
	for i := range a.state.Settings.Gateways {
		a.state.Settings.Gateways[i].Endpoints = []string{"no port"}
	}
	a.reconnect(t.Context())
	if f.peer.Key != (tunnel.Key{9}) || f.peer.Endpoint.Port() != 51820 {
		t.Errorf("without names: %v at %s", f.peer.Key, f.peer.Endpoint)
	}
	if a.have.Peer.KeepAlive != 25*time.Second {
		t.Error("no keepalive")
	}
}
