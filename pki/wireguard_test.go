package pki

import (
	"bytes"
	"net/url"
	"testing"

	"pgregory.net/rapid"
)

func TestWireGuardURI(t *testing.T) {
	var key [32]byte
	for i := range key {
		key[i] = 0xff
	}
	const want = "wireguard:__________________________________________8" // 256 ones, then two zero bits
	u := WireGuardURI(key)
	if u.String() != want {
		t.Errorf("%s, want %s", u, want)
	}
	if back, err := ParseWireGuardURI(u); err != nil || back != key {
		t.Errorf("%x, %v", back, err)
	}
	for _, s := range []string{
		"wireguard:", "wireguard:AAAA", want + "=", want + "_", want + "?", want + "?a", want + "#a", want + "#",
		"wireguard:///__________________________________________8", "wireguard://_________________________________________8",
		"wireguard:__________________________________________9",  // the spare bits are not zero
		"wireguard://////////////////////////////////////////8=", // the usual alphabet
		"https:__________________________________________8", "/__________________________________________8",
	} {
		parsed, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseWireGuardURI(parsed); err == nil && parsed.String() != want {
			t.Errorf("%s: accepted", s)
		}
	}
	for _, u := range []*url.URL{nil, {}, {Scheme: "wireguard", Path: want[10:]}, {Scheme: "wireguard", Opaque: want[10:] + "\n"},
		{Scheme: "wireguard", Opaque: want[10:], RawQuery: "a"}, {Scheme: "WireGuard", Opaque: want[10:]}} {
		if _, err := ParseWireGuardURI(u); err == nil {
			t.Errorf("%+v: accepted", u)
		}
	}
}

// TestWireGuardURISurvivesTheCertificate holds the bytes in a certificate equal to those
// that were admitted, for keys of all sorts.
func TestWireGuardURISurvivesTheCertificate(t *testing.T) {
	a, r := authority(t), deviceRequest(t)
	rapid.Check(t, func(t *rapid.T) {
		key := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		u := WireGuardURI(key)
		r.URIs = []*url.URL{u}
		leaf, err := a.Issue(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(leaf.Raw, []byte(u.String())) != 1 || len(leaf.URIs) != 1 || leaf.URIs[0].String() != u.String() {
			t.Fatalf("%s became %s", u, leaf.URIs)
		}
		if back, err := ParseWireGuardURI(leaf.URIs[0]); err != nil || back != key {
			t.Fatalf("%x came back as %x: %v", key, back, err)
		}
	})
}
