package client

import (
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"lazaret/enroll/cmp"
)

// Renew exchanges the current certificate, whose key signs the request, for one of the
// store's next keys (kur, kup, certConf, pkiConf). Answers must be signed by the CMP
// responder under the root recorded at enrollment, on a connection that shows one of the
// recorded listener keys: another root is ErrRootChanged. With ErrUnconfirmed comes a
// usable result.
func (c *Client) Renew(ctx context.Context, current *Result, key crypto.Signer, store Store) (*Result, error) {
	keys, err := store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("getting keys: %w", err)
	}
	if err := keys.check(); err != nil {
		return nil, err
	}
	r := &renewal{current: current, key: key, keys: keys, wire: &wire{client: c, pins: current.Welcome.ListenerKeys}}
	if len(r.wire.pins) == 0 {
		return nil, errors.New("no listener keys recorded: enroll again")
	}
	defer r.wire.close()
	err = r.wire.exchange(ctx, "renewing the certificate", r.build, func(request, answer *cmp.Message) error {
		return r.check(ctx, request, answer)
	})
	if errors.Is(err, ErrRootChanged) {
		recorded := sha256.Sum256(current.Root.Raw)
		c.cfg.Log.ErrorContext(ctx, "the gateway's root has changed: renewal refused",
			"server", c.cfg.Server, "recorded_sha256", fmt.Sprintf("%x", recorded), "error", err)
	}
	if err != nil {
		return nil, err
	}
	if err := store.Save(ctx, r.result); err != nil {
		return nil, fmt.Errorf("saving certificate: %w", err)
	}
	return r.result, r.confirm(ctx)
}

// renewal is one under way.
type renewal struct {
	wire    *wire
	current *Result
	key     crypto.Signer
	keys    Keys

	requested *cmp.Message
	answered  *cmp.Message
	result    *Result
}

func (r *renewal) header() cmp.Header {
	h := cmp.NewHeader(r.wire.client.cfg.Now())
	h.Recipient = cmp.DirectoryName(r.current.Certificate.RawIssuer)
	h.GeneralInfo = []cmp.Info{cmp.ExporterInfo(r.wire.conn.exporter)}
	return h
}

func (r *renewal) sign(h cmp.Header, b cmp.Body) (*cmp.Message, error) {
	m := &cmp.Message{Header: h, Body: b}
	certs := append(r.current.Chain[:0:0], r.current.Certificate)
	if err := m.ProtectSignature(r.key, append(certs, r.current.Chain...)...); err != nil {
		return nil, err
	}
	return m, nil
}

// build makes the key update request. Its proof of the WireGuard key names no reference:
// the signature says whose it is.
func (r *renewal) build() (*cmp.Message, error) {
	h := r.header()
	proof, err := prove(r.current.Welcome, r.keys, h.TransactionID, "")
	if err != nil {
		return nil, err
	}
	h.GeneralInfo = append(h.GeneralInfo, proof)
	uri := cmp.WireGuardURI([32]byte(r.keys.WireGuard.PublicKey().Bytes()))
	request, err := cmp.NewCertRequest(0, cmp.Template{
		Subject: r.current.Certificate.RawSubject, Extensions: []cmp.Extension{cmp.URIExtension(uri)},
	}, cmp.CertIDOf(r.current.Certificate), r.keys.Certificate)
	if err != nil {
		return nil, err
	}
	return r.sign(h, cmp.Body{Kind: cmp.KUR, Requests: []cmp.CertRequest{request}})
}

func (r *renewal) signed(m *cmp.Message) error {
	return checkResponder(m, r.current.Root, r.wire.client.cfg.Now())
}

// check judges the answer and sets the result.
func (r *renewal) check(ctx context.Context, request, answer *cmp.Message) error {
	if err := checkAnswer(request, answer, cmp.KUP, r.signed); err != nil {
		return err
	}
	if err := sameRoot(r.current.Root, answer.Body.CAPubs); err != nil {
		return err
	}
	cert, err := issued(answer, 0)
	if err != nil {
		return err
	}
	pool := append(certificates(answer.ExtraCerts), r.current.Chain...)
	chain, err := checkCertificate(cert, r.keys, r.current.Root, pool, r.wire.client.judged(ctx, answer))
	if err != nil {
		return err
	}
	next := *r.current
	next.Certificate, next.Chain = cert, chain
	if next.Settings, err = settings(answer); err != nil {
		return err
	}
	welcome, ok, err := cmp.ReadWelcome(answer.Header.GeneralInfo)
	if err != nil {
		return err
	}
	if ok { // listener and proof keys change in the course of years
		next.Welcome = welcome
	}
	r.requested, r.answered, r.result = request, answer, &next
	return nil
}

func (r *renewal) confirm(ctx context.Context) error {
	hash, err := cmp.CertHash(r.result.Certificate)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	err = r.wire.exchange(ctx, "confirming the certificate", func() (*cmp.Message, error) {
		h := r.header()
		h.TransactionID, h.RecipNonce = r.requested.Header.TransactionID, r.answered.Header.SenderNonce
		return r.sign(h, cmp.Body{Kind: cmp.CertConf, Statuses: []cmp.CertStatus{{Hash: hash}}})
	}, func(request, answer *cmp.Message) error {
		return checkAnswer(request, answer, cmp.PKIConf, r.signed)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return nil
}
