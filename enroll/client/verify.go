package client

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"lazaret/enroll/cmp"
)

// checkAnswer accepts an answer to request that protection vouches for. Protection comes
// first: until then nothing in the answer means anything, save that an unprotected error
// ends the attempt.
func checkAnswer(request, answer *cmp.Message, want cmp.Kind, protection func(*cmp.Message) error) error {
	if answer.Body.Kind == cmp.Error && len(answer.Protection) == 0 {
		return ErrRefused
	}
	if err := protection(answer); err != nil {
		return err
	}
	sent, got := request.Header, answer.Header
	switch {
	case !bytes.Equal(got.TransactionID, sent.TransactionID):
		return fmt.Errorf("%w (answer of another transaction)", ErrInBetween)
	case !bytes.Equal(got.RecipNonce, sent.SenderNonce):
		return fmt.Errorf("%w (answer to another message)", ErrInBetween)
	case answer.Body.Kind == cmp.Error:
		return refusal(answer.Body.Error.Status)
	case len(got.SenderNonce) < 16:
		return fmt.Errorf("%w (answer without a nonce)", ErrInBetween)
	case answer.Body.Kind == cmp.PollRep && want != cmp.PKIConf:
		return waiting(answer.Body.Polls)
	case answer.Body.Kind != want:
		return fmt.Errorf("%w (answer of another kind)", ErrInBetween)
	}
	return nil
}

// refusal is a protected no, with its reason; one for now is worth another try.
func refusal(s cmp.StatusInfo) error {
	err := fmt.Errorf("the gateway refused: %w", s)
	if s.Fail&(cmp.SystemUnavail|cmp.SystemFailure) != 0 {
		return transient{error: err}
	}
	return err
}

const defaultWait = time.Minute

func waiting(polls []cmp.Poll) error {
	after := defaultWait
	for _, p := range polls {
		after = max(after, p.After)
	}
	return &WaitingError{After: after}
}

// issued returns the certificate that an answer carries for request id.
func issued(answer *cmp.Message, id int64) (*x509.Certificate, error) {
	if len(answer.Body.Responses) != 1 || answer.Body.Responses[0].RequestID != id {
		return nil, errors.New("the gateway answered something else than was asked")
	}
	r := answer.Body.Responses[0]
	switch r.Status.Status {
	case cmp.Accepted, cmp.GrantedWithMods:
	case cmp.Waiting:
		return nil, waiting(nil)
	default:
		return nil, refusal(r.Status)
	}
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("reading certificate: %w", err)
	}
	return cert, nil
}

// checkCertificate holds a new certificate to the keys it was asked for, and chains it to
// root. It returns the issuers.
func checkCertificate(cert *x509.Certificate, keys Keys, root *x509.Certificate, pool []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	own, err := x509.MarshalPKIXPublicKey(keys.Certificate.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding own public key: %w", err)
	}
	if !bytes.Equal(own, cert.RawSubjectPublicKeyInfo) {
		return nil, errors.New("the certificate is for another key")
	}
	var uris []string
	for _, u := range cert.URIs {
		uris = append(uris, u.String())
	}
	wireguard, err := cmp.FindWireGuardKey(uris)
	if err != nil {
		return nil, fmt.Errorf("reading WireGuard key in certificate: %w", err)
	}
	if !bytes.Equal(wireguard[:], keys.WireGuard.PublicKey().Bytes()) {
		return nil, errors.New("the certificate is for another WireGuard key")
	}
	if cert.IsCA {
		return nil, errors.New("the certificate is a CA's")
	}
	chain, err := chainTo(cert, root, pool, at, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, fmt.Errorf("chaining certificate to root: %w", err)
	}
	return chain, nil
}

// chainTo returns the issuers of cert below root.
func chainTo(cert, root *x509.Certificate, pool []*x509.Certificate, at time.Time, usage x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}
	opts.Roots.AddCert(root)
	for _, c := range pool {
		opts.Intermediates.AddCert(c)
	}
	chains, err := cert.Verify(opts)
	if err != nil {
		return nil, err
	}
	if len(chains[0]) < 2 {
		return nil, errors.New("the root itself stands in the place of a certificate below it")
	}
	return chains[0][1 : len(chains[0])-1], nil
}

// certificates parses those it can: it is used for lists that nothing vouches for, out of
// which chainTo builds what it can prove.
func certificates(ders [][]byte) []*x509.Certificate {
	var out []*x509.Certificate
	for _, der := range ders {
		if c, err := x509.ParseCertificate(der); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// authority splits the CA certificates of a welcome into the root and the others. The MAC
// vouches for the root: the signature of a trust anchor by itself is not looked at (RFC
// 5280, section 6.1).
func authority(ders [][]byte) (root *x509.Certificate, others []*x509.Certificate, err error) {
	for _, der := range ders {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("reading CA certificate: %w", err)
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return nil, nil, errors.New("a CA certificate is none")
		}
		switch {
		case !bytes.Equal(c.RawIssuer, c.RawSubject):
			others = append(others, c)
		case root != nil:
			return nil, nil, errors.New("the gateway names two roots")
		default:
			root = c
		}
	}
	if root == nil {
		return nil, nil, errors.New("the gateway names no root")
	}
	return root, others, nil
}

// sameRoot refuses an answer that names roots and not the known one among them.
func sameRoot(root *x509.Certificate, caPubs [][]byte) error {
	found := len(caPubs) == 0
	for _, der := range caPubs {
		found = found || bytes.Equal(der, root.Raw)
	}
	if !found {
		return ErrRootChanged
	}
	return nil
}

// oidCMCRA is id-kp-cmcRA (RFC 6402): may answer CMP for the CA.
var oidCMCRA = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 28}

// checkResponder accepts a message signed by the CMP responder under root, whose
// certificate comes first in extraCerts.
func checkResponder(m *cmp.Message, root *x509.Certificate, at time.Time) error {
	if len(m.ExtraCerts) == 0 {
		return fmt.Errorf("%w (signature without a certificate)", ErrInBetween)
	}
	signer, err := x509.ParseCertificate(m.ExtraCerts[0])
	if err != nil {
		return fmt.Errorf("%w (reading the signer's certificate: %w)", ErrInBetween, err)
	}
	if err := m.VerifySignature(crypto.PublicKey(signer.PublicKey)); err != nil {
		return fmt.Errorf("%w (%w)", ErrInBetween, err)
	}
	_, err = chainTo(signer, root, certificates(m.ExtraCerts[1:]), at, x509.ExtKeyUsageAny)
	if late := (x509.CertificateInvalidError{}); errors.As(err, &late) && late.Reason == x509.Expired {
		return fmt.Errorf("the gateway's signing certificate is not valid at this device's time, %s: check the clock: %w", at.UTC().Format(time.RFC3339), err)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrRootChanged, err)
	}
	responder := signer.KeyUsage&x509.KeyUsageDigitalSignature != 0
	may := false
	for _, oid := range signer.UnknownExtKeyUsage {
		may = may || oid.Equal(oidCMCRA)
	}
	if !responder || !may || signer.IsCA {
		return fmt.Errorf("%w (signed by a certificate that may not answer for the gateway)", ErrInBetween)
	}
	return nil
}

// judged is the time to judge certificates at: the gateway's, which the protection
// vouches for, since a device's own clock may not be set yet.
func (c *Client) judged(ctx context.Context, answer *cmp.Message) time.Time {
	now := c.cfg.Now()
	at := answer.Header.Time
	if at.IsZero() {
		return now
	}
	if d := now.Sub(at).Abs(); d > 5*time.Minute {
		c.cfg.Log.WarnContext(ctx, "clock differs from the gateway's", "by", d)
	}
	return at
}
