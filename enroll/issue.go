package enroll

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

const maxConflicts = 4 // of one write with somebody else's

// enroll answers ir, cr and p10cr.
func (e *exchange) enroll() (*cmp.Message, error) { return e.inTurn(e.tryEnroll) }

// inTurn runs one step that changes the OTP, again when somebody else was faster.
func (e *exchange) inTurn(try func() (*cmp.Message, error)) (*cmp.Message, error) {
	defer e.desk.turn(e.otp.Reference)()
	for range maxConflicts {
		if err := e.reread(); err != nil {
			return nil, err
		}
		m, err := try()
		if !errors.Is(err, quarantine.ErrConflict) && !errors.Is(err, ErrUsed) {
			return m, err
		}
	}
	return nil, fmt.Errorf("using one-time password %s: %w", e.otp.Reference, quarantine.ErrConflict)
}

func (e *exchange) reread() error {
	o, err := e.desk.cfg.Store.OTP(e.ctx, e.otp.Reference)
	if err != nil {
		return fmt.Errorf("reading one-time password %s again: %w", e.otp.Reference, err)
	}
	if why := e.desk.unusable(o, e.now); why != "" {
		return &stranger{why}
	}
	e.otp = o
	return nil
}

func (e *exchange) tryEnroll() (*cmp.Message, error) {
	p, err := e.desk.cfg.Organization.Profile(e.ctx, e.otp.Profile)
	if errors.Is(err, ErrNoProfile) {
		return nil, refuse(cmp.NotAuthorized, "the profile %q of this one-time password is gone", e.otp.Profile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading profile %q: %w", e.otp.Profile, err)
	}
	w, err := e.read(pki.Allow{RSA: p.AllowRSA})
	if err != nil {
		return nil, err
	}
	if w.key.IsZero() {
		return nil, refuse(cmp.BadCertTemplate, "the subjectAltName must hold a URI wireguard:<key in base64url>")
	}
	proven, err := e.prove(w, e.otp.Reference)
	if err != nil {
		return nil, err
	}
	if e.otp.State != Pending {
		return e.repeat(w, p)
	}
	return e.issue(w, p, proven)
}

// issue makes the device. Everything that can be refused is refused before the signature.
func (e *exchange) issue(w wanted, p quarantine.Profile, proven bool) (*cmp.Message, error) {
	b, err := e.believe(p)
	if err != nil {
		return nil, err
	}
	pools, err := e.desk.cfg.Organization.Pools(e.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading pools: %w", err)
	}
	r := quarantine.Record{Device: quarantine.Device{ID: newID()}}
	old, err := e.former()
	if err != nil {
		return nil, err
	}
	if old != nil {
		r = successor(*old)
	}
	if err := e.vacate(w.key, e.otp.Device, proven); err != nil {
		return nil, err
	}
	cert, err := e.sign(w, p, r.ID)
	if err != nil {
		return nil, err
	}
	r.Owner, r.Key, r.Serial = e.otp.User, w.key, b.serial
	r.Profile, r.Platform, r.Ownership, r.Proven = p.Name, b.platform, b.ownership, proven
	r.Certificate = certificate(cert)
	if r, err = e.place(r, p); err != nil {
		return nil, err
	}
	o := e.otp
	o.State = Issued
	o.Answer = Answer{
		Device: r.ID, SPKI: w.sum, WireGuard: w.key, Transaction: bytes.Clone(e.message.Header.TransactionID),
		Certificate: cert.Raw, Issued: e.now,
	}
	r, err = e.record(Issuance{By: e.by, OTP: o, Record: r, Retires: old, LastSeat: lastSeat(pools)})
	if err != nil {
		return nil, err
	}
	e.otp = o
	e.said(w, b, p, r)
	return e.granted(w, cert, SettingsFor(r, p, pools, e.desk.cfg.Gateways(), e.desk.cfg.MTU))
}

// former is the device that the OTP names, as it stands, or nil.
func (e *exchange) former() (*quarantine.Record, error) {
	if e.otp.Device == "" {
		return nil, nil
	}
	old, err := e.desk.cfg.Store.Device(e.ctx, e.otp.Device)
	switch {
	case errors.Is(err, quarantine.ErrUnknownDevice):
		return nil, refuse(cmp.NotAuthorized, "the device of this one-time password is gone")
	case err != nil:
		return nil, fmt.Errorf("reading device %s: %w", e.otp.Device, err)
	case old.Stage == quarantine.Blocked || old.Stage == quarantine.Revoked || old.Block.Set() || old.Revocation.Set():
		return nil, refuse(cmp.NotAuthorized, "the device of this one-time password is blocked or revoked")
	}
	return &old, nil
}

// successor is what stays of a device that enrolls again: who it is, its seat and groups, a
// person's hold, an order to wipe that nobody took back, what reports say against it, and the
// count of its tightenings. What speaks
// for it was said of the device with the old keys, and so was an approval; of such reports
// their order stays, so that none of them comes again, late.
func successor(old quarantine.Record) quarantine.Record {
	return quarantine.Record{
		Device:  quarantine.Device{ID: old.ID, Name: old.Name, Seat: old.Seat},
		Hold:    old.Hold,
		Wipe:    old.Wipe,
		Groups:  old.Groups,
		Reports: old.Outlived(),
		Tighten: old.Tighten, Revision: old.Revision,
	}
}

// sign asks for the certificate. Only what was admitted goes into it, and it is dated by
// the store's time: a clock that was set back, or far ahead, signs nothing.
func (e *exchange) sign(w wanted, p quarantine.Profile, id quarantine.ID) (*x509.Certificate, error) {
	now, err := e.desk.cfg.Store.SigningTime(e.ctx)
	switch {
	case errors.Is(err, ErrClock):
		e.desk.cfg.Log.Error("nothing is signed", "error", err)
		return nil, refuse(cmp.SystemUnavail, "the gateway's clock is wrong: an administrator must set it right")
	case err != nil:
		return nil, fmt.Errorf("reading the time to sign at: %w", err)
	case e.signer != nil && !now.Before(e.signer.NotAfter):
		return nil, refuse(cmp.SignerNotTrusted, "the signer's certificate has run out")
	}
	cert, err := e.desk.cfg.Issuer.Issue(e.ctx, pki.Request{
		Kind: pki.Device, PublicKey: w.public, AllowRSA: p.AllowRSA, CommonName: string(id),
		URIs: []*url.URL{pki.WireGuardURI(w.key)}, NotAfter: now.Add(e.desk.cfg.Life),
	})
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of device %s: %w", id, err)
	}
	return cert, nil
}

func certificate(c *x509.Certificate) quarantine.Certificate {
	return quarantine.Certificate{
		Serial: hex.EncodeToString(c.SerialNumber.Bytes()), NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		SPKI: pki.CertificateSPKISum(c), Sum: sha256.Sum256(c.Raw),
	}
}

// place settles a new record. The desk makes pending and quarantined devices and no
// others, save by a profile that says so (M12).
func (e *exchange) place(r quarantine.Record, p quarantine.Profile) (quarantine.Record, error) {
	seat := r.Seat
	if seat == 0 {
		r.Seat = 1 // a new device's seat comes from the store, and where it stands does not depend on which
	}
	id := r.ID
	r, err := e.desk.cfg.Gate.Admit(r)
	if err != nil {
		return quarantine.Record{}, fmt.Errorf("placing device %s: %w", id, err)
	}
	r.Seat = seat
	switch {
	case r.Stage == quarantine.Pending || r.Stage == quarantine.Quarantined:
	case r.Stage == quarantine.Routed && p.SkipQuarantine:
	default:
		return quarantine.Record{}, fmt.Errorf("placing device %s: a device cannot start %q under profile %q", r.ID, r.Stage, p.Name)
	}
	return r, nil
}

// record writes the issuance, under the first name that is free.
func (e *exchange) record(i Issuance) (quarantine.Record, error) {
	base := i.Record.Name // of a device that enrolls again
	if base == "" {
		base = wantedName(e.otp, i.Record.Platform)
	}
	for n := 1; n <= maxNameTries; n++ {
		i.Record.Name = suffixed(base, n)
		r, err := e.desk.cfg.Store.Issue(e.ctx, i)
		taken, isTaken := errors.AsType[*TakenError](err)
		switch {
		case err == nil:
			return r, nil
		case isTaken && taken.What == "name":
			continue
		case isTaken:
			return quarantine.Record{}, &refusal{cmp.BadCertTemplate, "the " + taken.What + " belongs to another device", true}
		case errors.Is(err, ErrExpired):
			return quarantine.Record{}, &stranger{"expired: " + err.Error()}
		case errors.Is(err, ErrFull):
			return quarantine.Record{}, refuse(cmp.SystemFailure, "no address is left: an administrator must make the pools larger")
		}
		return quarantine.Record{}, fmt.Errorf("recording device %s: %w", i.Record.ID, err)
	}
	return quarantine.Record{}, refuse(cmp.SystemFailure, "no name like %q is free", base)
}

// said tells the audit log what the record itself does not show.
func (e *exchange) said(w wanted, b belief, p quarantine.Profile, r quarantine.Record) {
	ev := Event{By: e.by, Action: "enroll.note", OTP: e.otp.Reference, Device: r.ID}
	if r.Stage == quarantine.Routed {
		ev.Why = fmt.Sprintf("profile %q skips quarantine: the device starts with full routing", p.Name)
		e.audit(ev)
	}
	if b.claimed != "" {
		ev.Why = "the device says of itself, and is not believed: " + shown(b.claimed)
		e.audit(ev)
	}
	if len(w.extra) > 0 {
		ev.Why = "the request asked for more than was admitted, and did not get it: " + shown(strings.Join(w.extra, ", "))
		e.audit(ev)
	}
	e.desk.cfg.Log.Info("device enrolled", "device", r.ID, "name", r.Name, "owner", r.Owner, "stage", r.Stage, "reference", e.otp.Reference, "proven", r.Proven)
}

// repeat gives the stored certificate again, for the same two keys.
func (e *exchange) repeat(w wanted, p quarantine.Profile) (*cmp.Message, error) {
	a := e.otp.Answer
	if w.sum != a.SPKI || w.key != a.WireGuard {
		return nil, &refusal{cmp.DuplicateCertReq, "this one-time password was used with other keys: if it was not you, tell your administrator", true}
	}
	r, err := e.desk.cfg.Store.Device(e.ctx, a.Device)
	switch {
	case errors.Is(err, quarantine.ErrUnknownDevice):
		return nil, refuse(cmp.CertRevoked, "the device is gone")
	case err != nil:
		return nil, fmt.Errorf("reading device %s: %w", a.Device, err)
	case r.Stage == quarantine.Revoked || r.Revocation.Set():
		return nil, refuse(cmp.CertRevoked, "the device is revoked")
	case r.Stage == quarantine.Blocked || r.Block.Set():
		return nil, refuse(cmp.NotAuthorized, "the device is blocked")
	case r.Certificate.Sum != sha256.Sum256(a.Certificate):
		return nil, refuse(cmp.CertRevoked, "the device has a newer certificate")
	}
	cert, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading the stored certificate of device %s: %w", a.Device, err)
	}
	pools, err := e.desk.cfg.Organization.Pools(e.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading pools: %w", err)
	}
	if !bytes.Equal(a.Transaction, e.message.Header.TransactionID) {
		o := e.otp
		o.Answer.Transaction = bytes.Clone(e.message.Header.TransactionID)
		if err := e.desk.cfg.Store.UpdateOTP(e.ctx, e.by, "otp.repeat", o); err != nil {
			return nil, fmt.Errorf("following the transaction of one-time password %s: %w", o.Reference, err)
		}
	}
	return e.granted(w, cert, SettingsFor(r, p, pools, e.desk.cfg.Gateways(), e.desk.cfg.MTU))
}

// granted is the answer that carries a certificate.
func (e *exchange) granted(w wanted, cert *x509.Certificate, s cmp.Settings) (*cmp.Message, error) {
	m := e.answerWith(cmp.Body{
		Kind: w.reply, CAPubs: [][]byte{e.desk.cfg.Issuer.Root().Raw},
		Responses: []cmp.CertResponse{{RequestID: w.id, Status: cmp.StatusInfo{Status: cmp.Accepted}, Certificate: cert.Raw}},
	})
	info, err := cmp.SettingsInfo(s)
	if err != nil {
		return nil, fmt.Errorf("telling the device its settings: %w", err)
	}
	m.Header.GeneralInfo = append(m.Header.GeneralInfo, info)
	m.ExtraCerts = [][]byte{e.desk.cfg.Issuer.Issuing(pki.Device).Raw}
	return m, nil
}

const idBytes = 10

// newID draws 80 random bits: nothing about a device can be told from its ID.
func newID() quarantine.ID {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return quarantine.ID("d-" + hex.EncodeToString(b[:]))
}

// lastSeat is the highest seat that every pool has room for.
func lastSeat(pools map[string]quarantine.Pool) quarantine.Seat {
	var last quarantine.Seat
	first := true
	for _, p := range pools {
		if s := p.LastSeat(); first || s < last {
			last, first = s, false
		}
	}
	return last
}

// wantedName is the name the OTP asks for, else one like anna-linux-7k2m.
func wantedName(o OTP, platform string) string {
	if o.Name != "" {
		return o.Name
	}
	user, _, _ := strings.Cut(o.User, "@")
	var parts []string
	for _, part := range []string{user, platform, o.Reference[:4]} {
		part = strings.Trim(strings.Map(func(r rune) rune {
			if nameRune(r) {
				return r
			}
			return '-'
		}, strings.ToLower(part)), "-._")
		if len(part) > 24 {
			part = part[:24]
		}
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, "-")
}

// suffixed is the nth choice of a name.
func suffixed(base string, n int) string {
	if n == 1 {
		return base
	}
	suffix := fmt.Sprintf("-%d", n)
	return base[:min(len(base), maxName-len(suffix))] + suffix
}

// holds reports whether k is one of the keys a device may speak with now.
func holds(r quarantine.Record, k tunnel.Key) bool {
	return k == r.Key || !r.Next.IsZero() && k == r.Next
}
