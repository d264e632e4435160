package enroll

import (
	"bytes"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
)

// signed answers a message signed with a device's key. The order matters: whose
// certificate it is, then its signature, and only then anything the message says.
func (e *exchange) signed() answer {
	if len(e.message.ExtraCerts) == 0 {
		return e.uniform(nil, "protected by no MAC known here, and signed by nobody")
	}
	leaf, err := e.signerOf()
	if err != nil {
		return e.plain(nil, cmp.SignerNotTrusted, err.Error())
	}
	if err := e.message.VerifySignature(leaf.PublicKey); err != nil {
		if errors.Is(err, cmp.ErrAlgorithm) {
			return e.plain(nil, cmp.BadAlg, err.Error())
		}
		return e.uniform(nil, "wrong signature: "+err.Error())
	}
	e.signer = leaf
	e.by = quarantine.Actor{Kind: "device", Name: leaf.Subject.CommonName, Address: e.from.String()}
	return e.reply(e.trusted())
}

// signerOf is the signer's certificate, the first of extraCerts (RFC 9483, section 3.3),
// if it is a device certificate of ours and valid now.
func (e *exchange) signerOf() (*x509.Certificate, error) {
	leaf, err := x509.ParseCertificate(e.message.ExtraCerts[0])
	if err != nil {
		return nil, fmt.Errorf("signer's certificate cannot be read: %w", err)
	}
	if err := e.desk.cfg.Issuer.VerifyDevice(leaf, e.now); err != nil {
		return nil, fmt.Errorf("signer's certificate is not trusted: %w", err)
	}
	return leaf, nil
}

// trusted answers a message whose signature is valid.
func (e *exchange) trusted() (*cmp.Message, error) {
	if err := e.wellFormed(); err != nil {
		return nil, err
	}
	r, err := e.standing()
	if err != nil {
		return nil, err
	}
	switch e.message.Body.Kind {
	case cmp.KUR:
		return e.renew(r)
	case cmp.CertConf:
		return e.confirmRenewal(r)
	case cmp.GenM:
		return e.welcome()
	case cmp.RR:
		return nil, refuse(cmp.BadRequest, "devices cannot revoke themselves yet: ask an administrator")
	case cmp.IR, cmp.CR, cmp.P10CR:
		return nil, refuse(cmp.WrongIntegrity, "this request must be protected by a one-time password")
	}
	return nil, refuse(cmp.BadRequest, "messages of this kind are not answered here")
}

// standing is the signer's record, if the device may still speak for itself.
func (e *exchange) standing() (quarantine.Record, error) {
	r, err := e.desk.cfg.Store.Device(e.ctx, quarantine.ID(e.signer.Subject.CommonName))
	switch {
	case errors.Is(err, quarantine.ErrUnknownDevice):
		return quarantine.Record{}, refuse(cmp.SignerNotTrusted, "the device is gone")
	case err != nil:
		return quarantine.Record{}, fmt.Errorf("reading device %s: %w", e.signer.Subject.CommonName, err)
	case r.Stage == quarantine.Blocked || r.Stage == quarantine.Revoked || r.Block.Set() || r.Revocation.Set():
		return quarantine.Record{}, refuse(cmp.SignerNotTrusted, "the device is blocked or revoked")
	}
	return r, nil
}

// renew answers kur: a new certificate for the same key or a new one, and perhaps a
// move to a new WireGuard key.
func (e *exchange) renew(r quarantine.Record) (*cmp.Message, error) {
	for range maxConflicts {
		m, err := e.tryRenew(r)
		if !errors.Is(err, quarantine.ErrConflict) {
			return m, err
		}
		if r, err = e.standing(); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("renewing device %s: %w", r.ID, quarantine.ErrConflict)
}

func (e *exchange) tryRenew(r quarantine.Record) (*cmp.Message, error) {
	p, err := e.desk.cfg.Organization.Profile(e.ctx, r.Profile)
	if err != nil && !errors.Is(err, ErrNoProfile) { // without its profile a device gets what the zero profile admits
		return nil, fmt.Errorf("reading profile %q: %w", r.Profile, err)
	}
	w, err := e.read(pki.Allow{RSA: p.AllowRSA})
	if err != nil {
		return nil, err
	}
	if err := e.succeeds(w, r); err != nil {
		return nil, err
	}
	change := quarantine.Change{Kind: quarantine.Renew, Device: r.ID, By: e.by, At: e.now}
	if w.key.IsZero() {
		w.key = r.Key
	}
	if w.key != r.Key {
		if err := e.rotates(w, r); err != nil {
			return nil, err
		}
		change.Next = w.key.String()
	}
	pools, err := e.desk.cfg.Organization.Pools(e.ctx)
	if err != nil {
		return nil, fmt.Errorf("reading pools: %w", err)
	}
	cert, err := e.sign(w, p, r.ID)
	if err != nil {
		return nil, err
	}
	renewed := certificate(cert)
	change.Certificate = &renewed
	next, err := e.renewed(r, change)
	if err != nil {
		return nil, err
	}
	m, err := e.granted(w, cert, SettingsFor(next, p, pools, e.desk.cfg.Gateways(), e.desk.cfg.MTU))
	if err != nil {
		return nil, err
	}
	if v, asked := cmp.Find(e.message.Header.GeneralInfo, cmp.IDImplicitConfirm); asked {
		m.Header.GeneralInfo = append(m.Header.GeneralInfo, cmp.Info{Type: cmp.IDImplicitConfirm, Value: v})
	}
	return m, nil
}

// succeeds checks that the signer may have its certificate replaced by w: it signs with
// the device's current key; or with the one before, whose answer was lost, and asks for
// the very key that is current, which it must hold too to have got here.
func (e *exchange) succeeds(w wanted, r quarantine.Record) error {
	signer := pki.CertificateSPKISum(e.signer)
	if signer != r.Certificate.SPKI && (w.sum != r.Certificate.SPKI || !w.key.IsZero() && !holds(r, w.key)) {
		return refuse(cmp.SignerNotTrusted, "the signer's certificate was replaced by a newer one")
	}
	if w.old == nil {
		return nil
	}
	if !bytes.Equal(w.old.Serial, serialContent(e.signer)) || !bytes.Equal(w.old.Issuer, cmp.DirectoryName(e.signer.RawIssuer)) {
		return refuse(cmp.BadCertID, "the certificate to be renewed must be the signer's own")
	}
	return nil
}

// serialContent is the content of the DER INTEGER: a leading zero keeps it positive.
func serialContent(c *x509.Certificate) []byte {
	b := c.SerialNumber.Bytes()
	if len(b) == 0 || b[0]&0x80 != 0 {
		b = append([]byte{0}, b...)
	}
	return b
}

// rotates admits a new WireGuard key: only with its proof, and only if it is nobody else's.
func (e *exchange) rotates(w wanted, r quarantine.Record) error {
	proven, err := e.prove(w, "") // the signature says who asks
	if err != nil {
		return err
	}
	if !proven {
		return refuse(cmp.BadPOP, "a new WireGuard key needs the proof that the device holds it")
	}
	return e.vacate(w.key, r.ID, proven)
}

// renewed records a renewal.
func (e *exchange) renewed(r quarantine.Record, c quarantine.Change) (quarantine.Record, error) {
	next, err := r.With(c)
	if err != nil {
		return quarantine.Record{}, fmt.Errorf("renewing device %s: %w", r.ID, err)
	}
	if next, err = e.desk.cfg.Gate.Admit(next); err != nil {
		return quarantine.Record{}, fmt.Errorf("placing device %s: %w", r.ID, err)
	}
	revision, err := e.desk.cfg.Store.Renewed(e.ctx, c, next)
	if taken, ok := errors.AsType[*TakenError](err); ok {
		return quarantine.Record{}, &refusal{cmp.BadCertTemplate, "the " + taken.What + " belongs to another device", true}
	}
	if err != nil {
		return quarantine.Record{}, fmt.Errorf("recording the renewal of device %s: %w", r.ID, err)
	}
	next.Revision = revision
	return next, nil
}

// confirmRenewal answers the certConf after kup. It changes nothing: a device that asks
// with a key has that key.
func (e *exchange) confirmRenewal(r quarantine.Record) (*cmp.Message, error) {
	s := e.message.Body.Statuses
	if len(s) == 1 && (s[0].Status == nil || s[0].Status.Status == cmp.Accepted) {
		if s[0].HashAlg != nil || subtle.ConstantTimeCompare(s[0].Hash, r.Certificate.Sum[:]) != 1 {
			return nil, refuse(cmp.IncorrectData, "the hash is not that of the device's certificate")
		}
	} else {
		e.note("enroll.note", "the device refuses its renewed certificate")
	}
	return e.answerWith(cmp.Body{Kind: cmp.PKIConf}), nil
}
