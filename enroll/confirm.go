package enroll

import (
	"bytes"
	"crypto/subtle"
	"crypto/x509"
	"fmt"

	"lazaret/enroll/cmp"
	"lazaret/pki"
)

// welcome answers genm: the trust roots, and what the device must know to go on.
func (e *exchange) welcome() (*cmp.Message, error) {
	if _, asked, err := cmp.ReadCACerts(e.message.Body.Infos); err != nil || !asked {
		return nil, refuse(cmp.BadRequest, "of general messages, only caCerts is answered here")
	}
	issuing := e.desk.cfg.Issuer.Issuing(pki.Device)
	current := e.desk.cfg.ProofKeys[0]
	info, err := cmp.WelcomeInfo(cmp.Welcome{
		Version: 1, ListenerKeys: e.desk.cfg.ListenerKeys(), Gateways: e.desk.cfg.Gateways(),
		ProofKeyID: current.ID, ProofKey: current.Key.PublicKey().Bytes(),
	})
	if err != nil {
		return nil, fmt.Errorf("welcoming a device: %w", err)
	}
	return e.answerWith(cmp.Body{Kind: cmp.GenP, Infos: []cmp.Info{
		cmp.CACertsInfo(e.desk.cfg.Issuer.Root().Raw, issuing.Raw), info,
	}}), nil
}

// confirm answers certConf, as often as it is sent.
func (e *exchange) confirm() (*cmp.Message, error) { return e.inTurn(e.tryConfirm) }

func (e *exchange) tryConfirm() (*cmp.Message, error) {
	o := e.otp
	if o.State != Issued && o.State != Confirmed {
		return nil, refuse(cmp.BadRequest, "there is no certificate to confirm")
	}
	if !bytes.Equal(e.message.Header.TransactionID, o.Answer.Transaction) {
		return nil, refuse(cmp.BadRequest, "the confirmation belongs to another transaction")
	}
	cert, err := x509.ParseCertificate(o.Answer.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading the stored certificate of device %s: %w", o.Answer.Device, err)
	}
	accepted, err := e.accepts(cert)
	if err != nil {
		return nil, err
	}
	if !accepted {
		e.note("enroll.note", "the device refuses its certificate; unless it is seen, it will be revoked")
		return e.answerWith(cmp.Body{Kind: cmp.PKIConf}), nil
	}
	if err := e.desk.take(e.ctx, confirmation{e.by, o, e.now}); err != nil {
		return nil, err
	}
	return e.answerWith(cmp.Body{Kind: cmp.PKIConf}), nil
}

// accepts reads a certConf about cert. A wrong hash is an error, a refusal of the
// certificate is not.
func (e *exchange) accepts(cert *x509.Certificate) (bool, error) {
	statuses := e.message.Body.Statuses
	if len(statuses) == 0 {
		return false, nil // RFC 9810, section 5.3.18: all are refused
	}
	if len(statuses) != 1 {
		return false, refuse(cmp.BadRequest, "want one certificate confirmed, got %d", len(statuses))
	}
	s := statuses[0]
	if s.HashAlg != nil {
		return false, refuse(cmp.BadAlg, "the hash must be the one of the certificate's signature")
	}
	want, err := cmp.CertHash(cert)
	if err != nil {
		return false, fmt.Errorf("hashing a certificate to be confirmed: %w", err)
	}
	if subtle.ConstantTimeCompare(want, s.Hash) != 1 {
		return false, refuse(cmp.IncorrectData, "the hash is not that of the certificate")
	}
	return s.Status == nil || s.Status.Status == cmp.Accepted || s.Status.Status == cmp.GrantedWithMods, nil
}
