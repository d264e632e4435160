package client

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

// Enrollment is one under way: Begin, Request, Confirm, Close, in that order.
type Enrollment struct {
	Welcome cmp.Welcome
	Root    *x509.Certificate

	wire   *wire
	code   code.Code
	issuer []*x509.Certificate // CA certificates below the root

	requested *cmp.Message // latest message 3
	answered  *cmp.Message // its message 4
	result    *Result
}

// Enroll runs a whole enrollment. The store is asked for keys once the gateway has shown
// that it knows the code, and is given the result before that is confirmed. On a failure the
// same code and keys may be tried again: a gateway gives the same certificate for an hour.
// With ErrUnconfirmed comes a usable result.
func (c *Client) Enroll(ctx context.Context, otp code.Code, store Store) (*Result, error) {
	e, err := c.Begin(ctx, otp)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	keys, err := store.Keys(ctx)
	if err != nil {
		return nil, fmt.Errorf("getting keys: %w", err)
	}
	result, err := e.Request(ctx, keys)
	if err != nil {
		return nil, err
	}
	if err := store.Save(ctx, result); err != nil {
		return nil, fmt.Errorf("saving certificate: %w", err)
	}
	return result, e.Confirm(ctx)
}

// Begin asks the gateway for its root and its keys (messages 1 and 2) and returns once all
// of it is authenticated by the code and bound to this very connection.
func (c *Client) Begin(ctx context.Context, otp code.Code) (*Enrollment, error) {
	if otp.String() == "" {
		return nil, code.ErrCode
	}
	e := &Enrollment{wire: &wire{client: c}, code: otp}
	err := e.exchange(ctx, "asking for the trust root", func() (*cmp.Message, error) {
		return e.protect(e.header(), cmp.Body{Kind: cmp.GenM, Infos: []cmp.Info{cmp.CACertsInfo()}})
	}, e.checkWelcome)
	if err != nil {
		e.Close()
		return nil, err
	}
	e.wire.pins = e.Welcome.ListenerKeys
	return e, nil
}

// Close ends the connection.
func (e *Enrollment) Close() { e.wire.close() }

func (e *Enrollment) exchange(ctx context.Context, what string, build func() (*cmp.Message, error), check func(request, answer *cmp.Message) error) error {
	err := e.wire.exchange(ctx, what, build, check)
	if errors.Is(err, ErrInBetween) {
		return fmt.Errorf("wrong code, or %w", err)
	}
	return err
}

// header is that of a new transaction on the open connection.
func (e *Enrollment) header() cmp.Header {
	h := cmp.NewHeader(e.wire.client.cfg.Now())
	h.Sender = cmp.CommonName(e.code.Reference) // RFC 9483, section 3.1
	h.SenderKID = []byte(e.code.Reference)
	h.GeneralInfo = []cmp.Info{cmp.ExporterInfo(e.wire.conn.exporter)}
	return h
}

func (e *Enrollment) protect(h cmp.Header, b cmp.Body) (*cmp.Message, error) {
	m := &cmp.Message{Header: h, Body: b}
	if err := m.ProtectMAC([]byte(e.code.Secret), cmp.NewMACParams()); err != nil {
		return nil, err
	}
	return m, nil
}

// checkMAC accepts what was made by who knows the code.
func (e *Enrollment) checkMAC(m *cmp.Message) error {
	if err := m.VerifyMAC([]byte(e.code.Secret), cmp.Policy{}); err != nil {
		return fmt.Errorf("%w (%w)", ErrInBetween, err)
	}
	return nil
}

// checkWelcome judges message 2. Last, the key of the connection it came on must be one
// the gateway names: else somebody relays between two connections.
func (e *Enrollment) checkWelcome(request, answer *cmp.Message) error {
	if err := checkAnswer(request, answer, cmp.GenP, e.checkMAC); err != nil {
		return err
	}
	ders, _, err := cmp.ReadCACerts(answer.Body.Infos)
	if err != nil {
		return fmt.Errorf("reading the gateway's CA certificates: %w", err)
	}
	root, issuer, err := authority(ders)
	if err != nil {
		return err
	}
	if pin := e.wire.client.cfg.RootPin; len(pin) > 0 {
		if hash := sha256.Sum256(root.Raw); !bytes.Equal(hash[:], pin) {
			return fmt.Errorf("%w (the root is not the one of the link or QR code)", ErrInBetween)
		}
	}
	welcome, ok, err := cmp.ReadWelcome(answer.Body.Infos)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("this is no gateway of ours: its answer holds no welcome")
	}
	if !e.wire.conn.listed(welcome.ListenerKeys) {
		return fmt.Errorf("%w (the TLS key shown is not one of the gateway's)", ErrInBetween)
	}
	e.Welcome, e.Root, e.issuer = welcome, root, issuer
	return nil
}

// Request asks for a certificate for both keys (messages 3 and 4), which must be on disk by
// now: a lost answer is asked for again with the same. The result is to be saved and then
// confirmed. Errors also: *WaitingError, cmp.StatusInfo with the gateway's reason.
func (e *Enrollment) Request(ctx context.Context, keys Keys) (*Result, error) {
	if err := keys.check(); err != nil {
		return nil, err
	}
	csr, err := request(keys)
	if err != nil {
		return nil, err
	}
	err = e.exchange(ctx, "asking for a certificate", func() (*cmp.Message, error) {
		h := e.header()
		proof, err := prove(e.Welcome, keys, h.TransactionID, e.code.Reference)
		if err != nil {
			return nil, err
		}
		h.GeneralInfo = append(h.GeneralInfo, proof)
		if claim := e.wire.client.cfg.Claim; claim != nil {
			info, err := cmp.ClaimInfo(*claim)
			if err != nil {
				return nil, err
			}
			h.GeneralInfo = append(h.GeneralInfo, info)
		}
		return e.protect(h, cmp.Body{Kind: cmp.P10CR, PKCS10: csr})
	}, func(request, answer *cmp.Message) error { return e.checkIssued(ctx, keys, request, answer) })
	if err != nil {
		return nil, err
	}
	return e.result, nil
}

func (k Keys) check() error {
	if k.Certificate == nil || k.WireGuard == nil || k.WireGuard.Curve() != ecdh.X25519() {
		return errors.New("enrollment needs a certificate key and a WireGuard key")
	}
	return nil
}

// request builds the PKCS #10 request. The name in it is a placeholder: the gateway names.
func request(keys Keys) ([]byte, error) {
	wireguard, err := url.Parse(cmp.WireGuardURI([32]byte(keys.WireGuard.PublicKey().Bytes())))
	if err != nil {
		return nil, fmt.Errorf("encoding WireGuard key: %w", err)
	}
	// No subject: the gateway names the device, whatever is asked for.
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{wireguard}}, keys.Certificate)
	if err != nil {
		return nil, fmt.Errorf("signing certificate request: %w", err)
	}
	return csr, nil
}

// prove shows possession of the WireGuard key to the gateway.
func prove(w cmp.Welcome, keys Keys, transaction []byte, reference string) (cmp.Info, error) {
	gateway, err := ecdh.X25519().NewPublicKey(w.ProofKey)
	if err != nil {
		return cmp.Info{}, fmt.Errorf("reading the gateway's proof key: %w", err)
	}
	shared, err := keys.WireGuard.ECDH(gateway)
	if err != nil {
		return cmp.Info{}, fmt.Errorf("agreeing with the gateway's proof key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(keys.Certificate.Public())
	if err != nil {
		return cmp.Info{}, fmt.Errorf("encoding own public key: %w", err)
	}
	mac, err := cmp.MakeProof(shared, cmp.ProofInput{
		TransactionID: transaction, SPKI: spki, Reference: reference,
		WireGuard: [32]byte(keys.WireGuard.PublicKey().Bytes()),
	})
	if err != nil {
		return cmp.Info{}, err
	}
	return cmp.ProofInfo(cmp.Proof{KeyID: w.ProofKeyID, MAC: mac}), nil
}

// checkIssued judges message 4 and sets the result.
func (e *Enrollment) checkIssued(ctx context.Context, keys Keys, request, answer *cmp.Message) error {
	if err := checkAnswer(request, answer, cmp.CP, e.checkMAC); err != nil {
		return err
	}
	cert, err := issued(answer, -1)
	if err != nil {
		return err
	}
	if err := sameRoot(e.Root, answer.Body.CAPubs); err != nil {
		return err
	}
	pool := append(certificates(answer.ExtraCerts), e.issuer...)
	chain, err := checkCertificate(cert, keys, e.Root, pool, e.wire.client.judged(ctx, answer))
	if err != nil {
		return err
	}
	settings, err := settings(answer)
	if err != nil {
		return err
	}
	e.requested, e.answered = request, answer
	e.result = &Result{Certificate: cert, Chain: chain, Root: e.Root, Welcome: e.Welcome, Settings: settings}
	return nil
}

func settings(answer *cmp.Message) (cmp.Settings, error) {
	s, ok, err := cmp.ReadSettings(answer.Header.GeneralInfo)
	if err != nil {
		return cmp.Settings{}, err
	}
	if !ok || s.Device == "" || len(s.Quarantine.Addresses) == 0 {
		return cmp.Settings{}, errors.New("the gateway gave a certificate but no network settings")
	}
	return s, nil
}

// Confirm tells the gateway that the certificate is safe (messages 5 and 6); the code may be
// erased then. An error is ErrUnconfirmed, and leaves the result usable.
func (e *Enrollment) Confirm(ctx context.Context) error {
	if e.result == nil {
		return errors.New("nothing to confirm")
	}
	hash, err := cmp.CertHash(e.result.Certificate)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	err = e.exchange(ctx, "confirming the certificate", func() (*cmp.Message, error) {
		h := e.header()
		h.TransactionID, h.RecipNonce = e.requested.Header.TransactionID, e.answered.Header.SenderNonce
		return e.protect(h, cmp.Body{Kind: cmp.CertConf, Statuses: []cmp.CertStatus{{Hash: hash, RequestID: -1}}})
	}, func(request, answer *cmp.Message) error {
		return checkAnswer(request, answer, cmp.PKIConf, e.checkMAC)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnconfirmed, err)
	}
	return nil
}
