package claim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"lazaret/appliance"
)

// What goes over the wire is bounded, in bytes.
const (
	MaxRequest = 64 << 10
	MaxAnswer  = 64 << 10
	maxCSR     = 4 << 10
	maxNames   = 16
)

const version = 1

// Request is what a claimant asks for.
type Request struct {
	Version  int             `json:"v"` // 1
	Setup    appliance.Setup `json:"setup"`
	CSR      []byte          `json:"csr"`                 // PKCS#10 with the administrator's key, P-256; its names do not count
	APINames []string        `json:"api_names,omitempty"` // names and addresses the API will be reached at, for its certificate

	// AdministratorOnly asks for an administrator of the gateway that is there, and for
	// nothing else: Setup holds his name at most, and APINames nothing.
	AdministratorOnly bool `json:"administrator_only,omitempty"`
}

// Answer is what the claimant gets: an administrator's credential, less the key, and where
// to use it. It holds a secret, the token.
type Answer struct {
	Version       int      `json:"v"`
	Name          string   `json:"name"`
	Administrator [][]byte `json:"administrator"` // certificate of the CSR's key, then its authority (DER)
	Root          []byte   `json:"root"`          // DER
	API           string   `json:"api"`           // URL
	Enroll        string   `json:"enroll"`        // URL
	Token         string   `json:"token"`         // the management server's; empty where the gateway was there before
	RootSHA256    string   `json:"root_sha256"`   // hexadecimal
}

// Fault is one thing wrong with a request.
type Fault struct {
	Field string `json:"field,omitempty"` // as in Setup's JSON; empty: the whole
	What  string `json:"what"`
}

// Refusal is why a machine does not do what was asked. It holds no secrets.
type Refusal struct {
	Kind   string  `json:"kind"` // one of the kinds below
	What   string  `json:"what"` // a sentence
	Faults []Fault `json:"faults,omitempty"`
}

// Kinds of refusal.
const (
	Wrong   = "wrong"   // a proof is not right
	Invalid = "invalid" // the request cannot be carried out; Faults say why
	Claimed = "claimed" // somebody else was first
	Busy    = "busy"    // too many tries; a moment later is fine
	Broken  = "broken"  // the machine failed at it
)

func (r *Refusal) Error() string {
	text := r.What
	for _, f := range r.Faults {
		text += "\n  "
		if f.Field != "" {
			text += f.Field + ": "
		}
		text += f.What
	}
	return text
}

// ParseRequest reads a request strictly: one JSON value with known keys, and a CSR that is
// signed by the P-256 key it is for. What the Setup says is not checked.
func ParseRequest(text []byte) (Request, *ecdsa.PublicKey, error) {
	var r Request
	if len(text) > MaxRequest {
		return r, nil, fmt.Errorf("the request is longer than %d KiB", MaxRequest>>10)
	}
	if err := strict(text, &r); err != nil {
		return r, nil, fmt.Errorf("reading the request: %w", err)
	}
	if r.Version != version {
		return r, nil, fmt.Errorf("the request has version %d, and this machine knows %d", r.Version, version)
	}
	if len(r.APINames) > maxNames {
		return r, nil, fmt.Errorf("the request has %d names for the API, and may have %d", len(r.APINames), maxNames)
	}
	if r.AdministratorOnly && len(r.APINames) > 0 {
		return r, nil, errors.New("the request is for an administrator alone, and names addresses of the API")
	}
	key, err := CheckCSR(r.CSR)
	return r, key, err
}

// CheckCSR returns the key of a PKCS#10 request that is signed with it; it must be a P-256
// one. Nothing else of the request counts.
func CheckCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fmt.Errorf("the certificate request is longer than %d KiB", maxCSR>>10)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate request: %w", err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the certificate request is for another kind of key than P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed with its own key: %w", err)
	}
	return key, nil
}

// strict decodes one JSON value with known keys and nothing behind it.
func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

// About is what a machine tells everybody while it may be claimed. It holds no secrets.
type About struct {
	// Administrator says that the machine is a gateway, and that the claim makes an
	// administrator of it, and nothing else. Setup holds no more than his name then.
	Administrator bool `json:"administrator,omitempty"`

	SeedCode bool            `json:"seed_code,omitempty"` // a seed brought the code
	Version  string          `json:"version,omitempty"`
	Setup    appliance.Setup `json:"setup,omitzero"`     // what a seed said, to begin with
	Links    []Card          `json:"links,omitempty"`    // cards that can be given an address
	Networks []netip.Prefix  `json:"networks,omitempty"` // that the machine is on
}

// Card is a network card that the machine has.
type Card struct {
	Name      string         `json:"name"`
	MAC       string         `json:"mac"`
	Up        bool           `json:"up,omitempty"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
}
