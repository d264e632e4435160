package enroll

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// wanted is what a request asks for, with the possession of its certificate key
// proven. Nothing else in the request counts.
type wanted struct {
	reply  cmp.Kind // that answers it
	id     int64    // of the request inside the message
	public crypto.PublicKey
	spki   []byte // DER
	sum    [32]byte
	key    tunnel.Key // WireGuard key; zero if the request names none
	extra  []string   // what else it asked for, and does not get
	old    *cmp.CertID
}

// read checks a request as far as it can be without looking at other devices.
func (e *exchange) read(allow pki.Allow) (wanted, error) {
	if e.message.Body.Kind == cmp.P10CR {
		return readPKCS10(e.message.Body.PKCS10, allow)
	}
	return readCRMF(e.message.Body, allow)
}

func readPKCS10(der []byte, allow pki.Allow) (wanted, error) {
	csr, err := pki.CheckCSR(der, allow)
	if err != nil {
		return wanted{}, csrRefusal(err)
	}
	uris := make([]string, len(csr.WireGuard))
	for i, u := range csr.WireGuard {
		uris[i] = u.String()
	}
	w := wanted{reply: cmp.CP, id: -1, public: csr.PublicKey, sum: csr.SPKI, extra: csr.Extra}
	if csr.RequestsCA {
		w.extra = append(w.extra, "to be an authority")
	}
	if w.spki, err = x509.MarshalPKIXPublicKey(csr.PublicKey); err != nil {
		return wanted{}, refuse(cmp.BadCertTemplate, "the certificate key cannot be used")
	}
	return w, w.wireGuard(uris)
}

func readCRMF(b cmp.Body, allow pki.Allow) (wanted, error) {
	if len(b.Requests) != 1 {
		return wanted{}, refuse(cmp.BadRequest, "want one certificate request, got %d", len(b.Requests))
	}
	r := b.Requests[0]
	public, err := x509.ParsePKIXPublicKey(r.Template.PublicKey)
	if err != nil {
		return wanted{}, refuse(cmp.BadCertTemplate, "the certificate key cannot be read")
	}
	if err := pki.CheckKey(public, allow); err != nil {
		return wanted{}, csrRefusal(err)
	}
	if err := r.VerifyPOP(); err != nil {
		return wanted{}, refuse(cmp.BadPOP, "the request does not prove possession of its certificate key")
	}
	uris, err := r.Template.URIs()
	if err != nil {
		return wanted{}, refuse(cmp.BadCertTemplate, "the subjectAltName cannot be read")
	}
	w := wanted{reply: b.Kind + 1, id: r.ID, public: public, old: r.Old} // IP, CP and KUP follow IR, CR and KUR
	if w.spki, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return wanted{}, refuse(cmp.BadCertTemplate, "the certificate key cannot be used")
	}
	w.sum = sha256.Sum256(w.spki)
	return w, w.wireGuard(uris)
}

func csrRefusal(err error) error {
	switch {
	case errors.Is(err, pki.ErrPOP):
		return refuse(cmp.BadPOP, "the request's signature does not prove possession of its certificate key")
	case errors.Is(err, pki.ErrKey):
		return refuse(cmp.BadCertTemplate, "the certificate key is not one the profile admits: %v", err)
	}
	return refuse(cmp.BadDataFormat, "the certificate request cannot be read")
}

// wireGuard takes the WireGuard key from the names asked for, if one is named.
func (w *wanted) wireGuard(uris []string) error {
	if !slices.ContainsFunc(uris, func(u string) bool { return strings.HasPrefix(strings.ToLower(u), "wireguard:") }) {
		return nil
	}
	key, err := cmp.FindWireGuardKey(uris)
	if err != nil {
		return refuse(cmp.BadCertTemplate, "the subjectAltName must hold one URI wireguard:<32 bytes in base64url without padding>")
	}
	if key == [32]byte{} || !canonical(key) {
		return refuse(cmp.BadCertTemplate, "the WireGuard key is not one that a device can have")
	}
	w.key = key
	return nil
}

// canonical reports whether key is a coordinate below 2^255-19: other spellings of the
// same number would pass as another key, and no device computes them (RFC 7748, section 5).
func canonical(key [32]byte) bool {
	p := [32]byte{0: 0xed, 31: 0x7f}
	for i := 1; i < 31; i++ {
		p[i] = 0xff
	}
	slices.Reverse(key[:])
	slices.Reverse(p[:])
	return bytes.Compare(key[:], p[:]) < 0
}

// prove checks the WireGuard key and the proof that the device holds its private half.
// Without a proof the device stays unproven; a wrong proof is refused.
func (e *exchange) prove(w wanted, reference string) (proven bool, err error) {
	public, err := ecdh.X25519().NewPublicKey(w.key[:])
	if err != nil {
		return false, refuse(cmp.BadCertTemplate, "the WireGuard key cannot be used")
	}
	keys := e.desk.cfg.ProofKeys
	if _, err := keys[0].Key.ECDH(public); err != nil { // all zero: a low-order point
		return false, refuse(cmp.BadCertTemplate, "the WireGuard key is of low order")
	}
	proof, there, err := cmp.ReadProof(e.message.Header.GeneralInfo)
	if err != nil {
		return false, refuse(cmp.BadDataFormat, "the proof of the WireGuard key cannot be read")
	}
	if !there {
		return false, nil
	}
	i := slices.IndexFunc(keys, func(k ProofKey) bool { return k.ID == proof.KeyID })
	if i < 0 {
		return false, refuse(cmp.BadPOP, "the proof of the WireGuard key was made for a proof key that is gone: ask for the current one")
	}
	shared, err := keys[i].Key.ECDH(public)
	if err != nil {
		return false, refuse(cmp.BadCertTemplate, "the WireGuard key is of low order")
	}
	defer clear(shared)
	in := cmp.ProofInput{TransactionID: e.message.Header.TransactionID, SPKI: w.spki, WireGuard: w.key, Reference: reference}
	if !cmp.VerifyProof(shared, proof.MAC, in) {
		return false, refuse(cmp.BadPOP, "the proof of the WireGuard key is wrong")
	}
	return true, nil
}

// belief is what the record will say of a device's hardware.
type belief struct {
	serial    string // the administrator's word alone: sources name devices by it
	platform  string // the OTP's, else what the device says: for display and the profile's list
	ownership string // the administrator's word alone
	claimed   string // what the device says beyond that, for the audit log; or empty
}

// believe checks what the device says of itself against the OTP and the profile. It can
// only make things stricter: what a device says of its serial number or its owner is
// compared where the OTP names one, and believed nowhere (CVE-2026-103264 in FleetDM).
func (e *exchange) believe(p quarantine.Profile) (belief, error) {
	c, _, err := cmp.ReadClaim(e.message.Header.GeneralInfo)
	if err != nil || !plain(c.Serial) || !plain(c.Platform) || !plain(c.Ownership) {
		return belief{}, refuse(cmp.BadDataFormat, "what the device says of itself cannot be read")
	}
	o := e.otp
	said := func(s string) string { return strings.TrimSpace(s) }
	for _, f := range []struct {
		what, want, said string
		optional         bool // a device may keep silent
	}{
		{"serial number", o.Serial, said(c.Serial), false}, {"platform", o.Platform, said(c.Platform), false},
		{"ownership", o.Ownership, said(c.Ownership), true},
	} {
		if f.want != "" && !strings.EqualFold(said(f.want), f.said) && (f.said != "" || !f.optional) {
			return belief{}, refuse(cmp.NotAuthorized, "this one-time password is for a device of another %s", f.what)
		}
	}
	b := belief{serial: said(o.Serial), platform: said(o.Platform), ownership: said(o.Ownership)}
	if b.platform == "" {
		b.platform = said(c.Platform)
	}
	var beyond []string
	if b.serial == "" && said(c.Serial) != "" {
		beyond = append(beyond, fmt.Sprintf("serial number %q", said(c.Serial)))
	}
	if b.ownership == "" && said(c.Ownership) != "" {
		beyond = append(beyond, fmt.Sprintf("ownership %q", said(c.Ownership)))
	}
	b.claimed = strings.Join(beyond, ", ")
	switch {
	case p.NeedSerial && b.serial == "":
		return belief{}, refuse(cmp.NotAuthorized, "profile %q needs a one-time password that names a serial number", p.Name)
	case len(p.Ownerships) > 0 && b.ownership == "":
		return belief{}, refuse(cmp.NotAuthorized, "profile %q needs a one-time password that names the ownership", p.Name)
	case !listed(p.Platforms, b.platform):
		return belief{}, refuse(cmp.NotAuthorized, "profile %q does not admit the platform %q", p.Name, b.platform)
	case !listed(p.Ownerships, b.ownership):
		return belief{}, refuse(cmp.NotAuthorized, "profile %q does not admit devices of ownership %q", p.Name, b.ownership)
	}
	return b, nil
}

// vacate makes sure the WireGuard key is no other device's. A device that never proved
// it yields to one that does; everything else keeps its key.
func (e *exchange) vacate(key tunnel.Key, own quarantine.ID, proven bool) error {
	for _, g := range e.desk.cfg.Gateways() {
		if g.WireGuard == key.String() { // no tunnel takes its own key for a peer
			return &refusal{cmp.BadCertTemplate, "the WireGuard key belongs to a gateway", true}
		}
	}
	holder, err := e.desk.cfg.Store.ByWireGuard(e.ctx, key)
	switch {
	case errors.Is(err, quarantine.ErrUnknownDevice):
		return nil
	case err != nil:
		return fmt.Errorf("looking for the holder of a WireGuard key: %w", err)
	case own != "" && holder.ID == own:
		return nil
	}
	if err := e.unused(); err != nil { // the holder may be what this very OTP has become
		return err
	}
	if holder.Proven || !proven {
		return &refusal{cmp.BadCertTemplate, "the WireGuard key belongs to another device", true}
	}
	why := "another device proved that it holds the WireGuard key, which this one never did"
	// The gateway revokes, on the strength of the proof: no holder of a code may.
	by := quarantine.Actor{Kind: "gateway", Name: "enrollment by " + e.by.Name, Address: e.by.Address}
	if _, err := e.desk.cfg.Gate.Revoke(e.ctx, by, holder.ID, why); err != nil && !settled(err) {
		return fmt.Errorf("revoking unproven device %s: %w", holder.ID, err)
	}
	e.audit(Event{By: e.by, Action: alarmAction, OTP: e.otp.Reference, Device: holder.ID, Why: why})
	return nil
}

// unused returns quarantine.ErrConflict if the OTP has changed since it was read.
func (e *exchange) unused() error {
	if e.signer != nil {
		return nil // a renewal uses none
	}
	o, err := e.desk.cfg.Store.OTP(e.ctx, e.otp.Reference)
	if err != nil {
		return fmt.Errorf("reading one-time password %s again: %w", e.otp.Reference, err)
	}
	if o.Revision != e.otp.Revision {
		return fmt.Errorf("using one-time password %s: %w", o.Reference, quarantine.ErrConflict)
	}
	return nil
}

// settled reports whether a change of the gate stands in spite of the error.
func settled(err error) bool {
	return errors.Is(err, quarantine.ErrNotEnforced) || errors.Is(err, quarantine.ErrFinal)
}
