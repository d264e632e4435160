package claim

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"net/netip"
	"reflect"
	"testing"

	"lazaret/appliance"
)

// TestAskSeed: whoever knows the code learns what the seed said, as it was said; nobody else
// can say something in its place, or leave it out.
func TestAskSeed(t *testing.T) {
	seeded := setup()
	seeded.AdminNetworks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	n := appliance.Automatic()
	seeded.Network = &n
	m := newMachine(t, func(c *KeeperConfig) { c.About = func() About { return About{Setup: seeded} } })
	got, err := AskSeed(t.Context(), m.address, m.code, nil)
	if err != nil || !reflect.DeepEqual(got, seeded) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := AskSeed(t.Context(), m.address, DrawCode(), nil); !errors.Is(err, ErrProof) {
		t.Errorf("another code: %v", err)
	}
	if s, err := AskSeed(t.Context(), newMachine(t, nil).address, m.code, nil); !errors.Is(err, ErrProof) || !reflect.DeepEqual(s, appliance.Setup{}) {
		t.Errorf("another machine: %v", err)
	}
	none := newMachine(t, nil)
	if s, err := AskSeed(t.Context(), none.address, none.code, nil); err != nil || !reflect.DeepEqual(s, appliance.Setup{}) {
		t.Errorf("without a seed: %+v, %v", s, err)
	}
	for name, change := range map[string]func(*opened){
		"nothing changed": func(*opened) {},
		"left out":        func(o *opened) { o.Seed = nil },
		"another":         func(o *opened) { o.Seed = bytes.Replace(o.Seed, []byte("198.51.100.0"), []byte("203.0.113.0"), 1) },
	} {
		err := tampered(t, m, change)
		if ok := name == "nothing changed"; ok != (err == nil) || !ok && !errors.Is(err, ErrProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// tampered opens an exchange whose answer is changed on its way, inside TLS.
func tampered(t *testing.T, m *machine, change func(*opened)) error {
	t.Helper()
	raw, err := tls.Dial("tcp", m.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	k := &Conn{tls: raw, in: bufio.NewReader(raw), host: m.address, code: m.code, request: request(t)}
	state := raw.ConnectionState()
	name, err := exporter(&state)
	if err != nil {
		t.Fatal(err)
	}
	k.x = Exchange{Exporter: name, Claimant: sum([]byte("nonce")), Request: sum(k.request)}
	var o opened
	if err := k.short(t.Context(), openPath, opening{Nonce: k.x.Claimant, Request: k.x.Request}, &o); err != nil {
		t.Fatal(err)
	}
	change(&o)
	return k.proven(o)
}
