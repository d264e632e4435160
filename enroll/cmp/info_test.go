package cmp

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// TestOIDs holds the encoder to encodings known from elsewhere: sha256WithRSAEncryption
// and PasswordBasedMac as OpenSSL prints them, and the project's own arc as decimal.
func TestOIDs(t *testing.T) {
	for id, want := range map[OID]string{
		idRSASHA256:        "2a864886f70d01010b",
		idPasswordBasedMAC: "2a864886f67d07420d",
		IDCACerts:          "2b06010505070411",
	} {
		if got := hex.EncodeToString([]byte(id)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	arc := new(big.Int)
	for _, b := range []byte(private)[1:] {
		arc.Or(arc.Lsh(arc, 7), big.NewInt(int64(b&0x7f)))
	}
	if private[0] != 2*40+25 || arc.String() != "262430574215306847117840225743480517917" {
		t.Errorf("private types lie under 2.%d.%s", private[0]-80, arc)
	}
}

var (
	someWelcome = Welcome{
		Version: 1, ListenerKeys: [][]byte{bytes.Repeat([]byte{1}, 32)}, ProofKeyID: "k1", ProofKey: bytes.Repeat([]byte{2}, 32),
		Gateways: []Gateway{{Name: "gw1", Endpoints: []string{"[2001:db8::1]:51820"}, Tunnel: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}},
	}
	someSettings = Settings{
		Version: 1, Device: "d1", MTU: 1280,
		Quarantine: Network{Pool: "quarantine", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/32")}},
	}
)

// carried sends infos through a message.
func carried(t *testing.T, infos ...Info) []Info {
	t.Helper()
	der, err := (&Message{Body: Body{Kind: GenP, Infos: infos}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, der).Body.Infos
}

func TestInfosRoundTrip(t *testing.T) {
	welcome, err := WelcomeInfo(someWelcome)
	if err != nil {
		t.Fatal(err)
	}
	settings, err := SettingsInfo(someSettings)
	if err != nil {
		t.Fatal(err)
	}
	exporter, proof := bytes.Repeat([]byte{7}, 32), Proof{KeyID: "k1", MAC: bytes.Repeat([]byte{8}, 32)}
	infos := carried(t, CACertsInfo([]byte{0x30, 0}), welcome, settings, ExporterInfo(exporter), ProofInfo(proof))
	if got, ok, err := ReadWelcome(infos); !ok || err != nil || !reflect.DeepEqual(got, someWelcome) {
		t.Errorf("welcome: %+v %v %v", got, ok, err)
	}
	if got, ok, err := ReadSettings(infos); !ok || err != nil || !reflect.DeepEqual(got, someSettings) {
		t.Errorf("settings: %+v %v %v", got, ok, err)
	}
	if got, ok, err := ReadExporter(infos); !ok || err != nil || !bytes.Equal(got, exporter) {
		t.Errorf("exporter: %x %v %v", got, ok, err)
	}
	if got, ok, err := ReadProof(infos); !ok || err != nil || !reflect.DeepEqual(got, proof) {
		t.Errorf("proof: %+v %v %v", got, ok, err)
	}
	if got, ok, err := ReadCACerts(infos); !ok || err != nil || len(got) != 1 || string(got[0]) != "\x30\x00" {
		t.Errorf("caCerts: %x %v %v", got, ok, err)
	}
	if got, ok, err := ReadCACerts(carried(t, CACertsInfo())); !ok || err != nil || len(got) != 0 {
		t.Errorf("request for caCerts: %x %v %v", got, ok, err)
	}
	for name, there := range map[string]func() (bool, error){
		"welcome":  func() (bool, error) { _, ok, err := ReadWelcome(nil); return ok, err },
		"settings": func() (bool, error) { _, ok, err := ReadSettings(nil); return ok, err },
		"exporter": func() (bool, error) { _, ok, err := ReadExporter(nil); return ok, err },
		"proof":    func() (bool, error) { _, ok, err := ReadProof(nil); return ok, err },
		"caCerts":  func() (bool, error) { _, ok, err := ReadCACerts(nil); return ok, err },
	} {
		if ok, err := there(); ok || err != nil {
			t.Errorf("%s found in nothing: %v", name, err)
		}
	}
}

func TestInfosRefused(t *testing.T) {
	text := func(id OID, json string) []Info { return []Info{{Type: id, Value: []byte(tlv(0x0c, json))}} }
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, err := range map[string]error{
		"welcome of version 2": third(ReadWelcome(text(IDWelcome, `{"v":2,"proof_key":"`+key+`"}`))),
		"welcome not JSON":     third(ReadWelcome(text(IDWelcome, `{`))),
		"welcome with two":     third(ReadWelcome(text(IDWelcome, `{"v":1,"proof_key":"`+key+`"} {}`))),
		"short proof key":      third(ReadWelcome(text(IDWelcome, `{"v":1,"proof_key":"AAAA"}`))),
		"short listener key":   third(ReadWelcome(text(IDWelcome, `{"v":1,"listener_keys":["AAAA"],"proof_key":"`+key+`"}`))),
		"welcome as octets":    third(ReadWelcome([]Info{{Type: IDWelcome, Value: []byte(tlv(4, "{}"))}})),
		"claim of version 0":   third(ReadClaim(text(IDClaim, `{"serial":"x"}`))),
		"settings without one": third(ReadSettings(text(IDSettings, `{}`))),
		"settings empty":       third(ReadSettings([]Info{{Type: IDSettings}})),
		"short exporter":       third(ReadExporter([]Info{ExporterInfo(make([]byte, 31))})),
		"long exporter":        third(ReadExporter([]Info{ExporterInfo(make([]byte, 33))})),
		"proof cut":            third(ReadProof([]Info{{Type: IDProof, Value: []byte(seq(tlv(0x0c, "k1")))}})),
		"caCerts of no certs":  third(ReadCACerts([]Info{{Type: IDCACerts, Value: []byte(seq("\x05\x00"))}})),
	} {
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func third[T any](_ T, ok bool, err error) error {
	if !ok {
		return errors.New("not found")
	}
	return err
}

// TestProofKnownAnswer was computed with openssl kdf (HKDF) and openssl dgst (HMAC).
func TestProofKnownAnswer(t *testing.T) {
	shared := bytes.Repeat([]byte{0xaa}, 32)
	in := ProofInput{SPKI: []byte("an SPKI"), WireGuard: [32]byte(bytes.Repeat([]byte{9}, 32)), Reference: "7K2M9QXA"}
	for i := range byte(16) {
		in.TransactionID = append(in.TransactionID, i)
	}
	mac, err := MakeProof(shared, in)
	if err != nil || hex.EncodeToString(mac) != "f100f42974968e09d19915248d004d7b9cec7d9d0a30dafffae5b6bce5c05351" {
		t.Fatalf("proof is %x (%v)", mac, err)
	}
	if !VerifyProof(shared, mac, in) {
		t.Fatal("own proof refused")
	}
	for name, change := range map[string]func(*ProofInput){
		"transaction": func(in *ProofInput) { in.TransactionID = []byte("x") },
		"key":         func(in *ProofInput) { in.SPKI = []byte("x") },
		"WireGuard":   func(in *ProofInput) { in.WireGuard[31] ^= 1 },
		"reference":   func(in *ProofInput) { in.Reference = "7K2M9QXB" },
	} {
		other := in
		change(&other)
		if VerifyProof(shared, mac, other) {
			t.Errorf("proof holds for another %s", name)
		}
	}
	if VerifyProof(shared[1:], mac, in) || VerifyProof(shared, mac[:31], in) || VerifyProof(shared, nil, in) {
		t.Error("proof holds with another secret, or cut short")
	}
}

func TestWireGuardURI(t *testing.T) {
	key := [32]byte(bytes.Repeat([]byte{0xfb, 0xef}, 16)) // all - and _ in base64url
	uri := WireGuardURI(key)
	if got, err := ParseWireGuardURI(uri); err != nil || got != key || !strings.HasPrefix(uri, "wireguard:--") {
		t.Fatalf("%s reads %x (%v)", uri, got, err)
	}
	for _, bad := range []string{
		"", "wireguard:", uri + "=", uri[:len(uri)-1], uri + "A", "WireGuard" + uri[9:], "wireguard:" + strings.Repeat("+", 43),
		uri[:20] + "\n" + uri[20:], "https:" + uri[10:], uri[:len(uri)-1] + "_", // the last has bits beyond the 256th set
	} {
		if _, err := ParseWireGuardURI(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got, err := FindWireGuardKey([]string{"https://x", uri}); err != nil || got != key {
		t.Errorf("found %x (%v)", got, err)
	}
	for _, bad := range [][]string{nil, {"https://x"}, {uri, uri}, {uri, "wireguard:x"}} {
		if _, err := FindWireGuardKey(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
