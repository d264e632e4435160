package claim

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
)

// What separates this protocol's keys and hashes from each other and from all others.
const (
	domain         = "lazaret claim v1"
	labelMachine   = domain + " machine"  // the machine knows the code
	labelClaimant  = domain + " claimant" // the claimant knows it, and sends this request
	labelAnswer    = domain + " answer"   // this is the machine's answer
	labelKept      = domain + " kept"     // the claimant has the answer
	exporterLabel  = "EXPORTER-Channel-Binding"
	exporterLength = 32
)

// Sum is a nonce, a hash or a MAC: 32 bytes, in JSON base64.
type Sum []byte

const sumLength = sha256.Size

// Exchange is what both ends have in common: what a proof is about.
type Exchange struct {
	Exporter Sum `json:"exporter"` // of the TLS connection (RFC 9266)
	Claimant Sum `json:"claimant"` // nonce
	Machine  Sum `json:"machine"`  // nonce
	Request  Sum `json:"request"`  // SHA-256 of the request as it is sent
}

// hash is the hash of the exchange; every part has a fixed length, so that no two exchanges
// have the same bytes. An incomplete one is an error.
func (x Exchange) hash() (Sum, error) {
	h := sha256.New()
	h.Write([]byte(domain + " exchange\x00"))
	for _, part := range []Sum{x.Exporter, x.Claimant, x.Machine, x.Request} {
		if len(part) != sumLength {
			return nil, fmt.Errorf("a part of the exchange has %d bytes instead of %d", len(part), sumLength)
		}
		h.Write(part)
	}
	return h.Sum(nil), nil
}

// prove returns the proof of knowing the code, of one kind, about x and what is said besides.
func prove(c Code, label string, x Exchange, said []byte) (Sum, error) {
	if c.IsZero() {
		return nil, fmt.Errorf("there is no code")
	}
	about, err := x.hash()
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, []byte(c.text), []byte(domain), label, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	body := sha256.Sum256(said)
	m := hmac.New(sha256.New, key)
	m.Write(about)
	m.Write(body[:])
	return m.Sum(nil), nil
}

// proves reports whether got is that proof. It takes the same time whatever got holds.
func proves(c Code, label string, x Exchange, said []byte, got Sum) bool {
	want, err := prove(c, label, x, said)
	return err == nil && hmac.Equal(want, got)
}

// exporter is the connection's name that both ends of it know, and nobody can choose.
func exporter(state *tls.ConnectionState) (Sum, error) {
	if state == nil || state.Version != tls.VersionTLS13 {
		return nil, fmt.Errorf("the connection is not TLS 1.3")
	}
	b, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterLength)
	if err != nil {
		return nil, fmt.Errorf("naming the TLS connection: %w", err)
	}
	return b, nil
}
