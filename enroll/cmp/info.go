package cmp

import (
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/cryptobyte/asn1"
)

// ExporterLabel is the label of RFC 9266's tls-exporter: no context, ExporterSize bytes.
const (
	ExporterLabel = "EXPORTER-Channel-Binding"
	ExporterSize  = 32
)

// version of Welcome and Settings.
const version = 1

// Find returns the value of the one entry of a type; false if there is none.
func Find(infos []Info, t OID) ([]byte, bool) {
	for _, i := range infos {
		if i.Type == t {
			return i.Value, true
		}
	}
	return nil, false
}

// CACertsInfo lists certificates, DER, the root first; without any it asks for them.
func CACertsInfo(certs ...[]byte) Info {
	if len(certs) == 0 {
		return Info{Type: IDCACerts}
	}
	var b builder
	addRaws(&b, certs)
	return Info{Type: IDCACerts, Value: b.BytesOrPanic()}
}

// ReadCACerts reads the list; it is empty in a request. The bool says whether the entry is
// there, here and in the readers below; one that is there and wrong is an error.
func ReadCACerts(infos []Info) ([][]byte, bool, error) {
	v, ok := Find(infos, IDCACerts)
	if !ok || v == nil {
		return nil, ok, nil
	}
	r := newReader(v)
	certs := r.certificates(asn1.SEQUENCE, "caCerts")
	r.end("caCerts")
	return certs, true, r.err()
}

// WelcomeInfo carries w.
func WelcomeInfo(w Welcome) (Info, error) { return jsonInfo(IDWelcome, w) }

// ReadWelcome reads and checks version and key sizes.
func ReadWelcome(infos []Info) (Welcome, bool, error) {
	var w Welcome
	ok, err := readJSON(infos, IDWelcome, "welcome", &w)
	if !ok || err != nil {
		return Welcome{}, ok, err
	}
	if err := knownVersion("welcome", w.Version); err != nil {
		return Welcome{}, true, err
	}
	for _, k := range w.ListenerKeys {
		if len(k) != 32 {
			return Welcome{}, true, fmt.Errorf("%w: listener key hash of %d bytes", ErrFormat, len(k))
		}
	}
	if len(w.ProofKey) != 32 {
		return Welcome{}, true, fmt.Errorf("%w: proof key of %d bytes", ErrFormat, len(w.ProofKey))
	}
	return w, true, nil
}

// SettingsInfo carries s.
func SettingsInfo(s Settings) (Info, error) { return jsonInfo(IDSettings, s) }

// ReadSettings reads and checks the version.
func ReadSettings(infos []Info) (Settings, bool, error) {
	var s Settings
	ok, err := readJSON(infos, IDSettings, "settings", &s)
	if !ok || err != nil {
		return Settings{}, ok, err
	}
	if err := knownVersion("settings", s.Version); err != nil {
		return Settings{}, true, err
	}
	return s, true, nil
}

func knownVersion(what string, v int) error {
	if v != version {
		return fmt.Errorf("%w: %s of version %d, this program knows %d", ErrFormat, what, v, version)
	}
	return nil
}

func jsonInfo(t OID, v any) (Info, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return Info{}, fmt.Errorf("encoding private information: %w", err)
	}
	var b builder
	addText(&b, string(text))
	return Info{Type: t, Value: b.BytesOrPanic()}, nil
}

func readJSON(infos []Info, t OID, what string, into any) (bool, error) {
	v, ok := Find(infos, t)
	if !ok {
		return false, nil
	}
	r := newReader(v)
	text := r.bytes(asn1.UTF8String, what)
	r.end(what)
	if err := r.err(); err != nil {
		return true, err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return true, fmt.Errorf("%w: reading %s: %w", ErrFormat, what, err)
	}
	return true, nil
}

// ExporterInfo carries the TLS connection's exported keying material.
func ExporterInfo(material []byte) Info {
	return Info{Type: IDExporter, Value: retag(asn1.OCTET_STRING, material)}
}

// ReadExporter reads what the sender saw of its TLS connection.
func ReadExporter(infos []Info) ([]byte, bool, error) {
	v, ok := Find(infos, IDExporter)
	if !ok {
		return nil, false, nil
	}
	r := newReader(v)
	material := r.octets("exporter")
	r.end("the exporter")
	if len(material) != ExporterSize {
		r.fail("exporter of the wrong size")
	}
	return material, true, r.err()
}
