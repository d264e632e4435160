package servercert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"lazaret/pki"
)

// What bounds one attempt.
const (
	attemptTime = 10 * time.Minute
	mostCalls   = 400     // requests to the server
	maxAnswer   = 1 << 20 // bytes of each answer
)

// obtain asks for a certificate: account, order, proofs, certificate (RFC 8555, section 7).
// The answer's second part is the account's URL.
func (k *Keeper) obtain(ctx context.Context, a account) (Bundle, string, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	names, err := k.wanted(a.Settings.Names) // the configuration's may be others by now
	if err != nil {
		return Bundle{}, a.URL, err
	}
	transport, err := k.transport(a.Settings)
	if err != nil {
		return Bundle{}, a.URL, err
	}
	defer transport.CloseIdleConnections()
	key, err := pki.ParseKey(a.Key)
	if err != nil {
		return Bundle{}, a.URL, fmt.Errorf("reading the account's key: %w", errForm)
	}
	c := &acme.Client{Key: key, DirectoryURL: a.Settings.Directory, UserAgent: "lazaret", RetryBackoff: backoffCall, HTTPClient: &http.Client{
		Timeout: time.Minute, Transport: &meter{next: transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("the server leads elsewhere") },
	}}
	if err := register(ctx, c, a.Settings); err != nil {
		return Bundle{}, string(c.KID), err
	}
	order, err := c.AuthorizeOrder(ctx, acme.DomainIDs(names...))
	if err != nil {
		return Bundle{}, string(c.KID), fmt.Errorf("ordering a certificate: %w", err)
	}
	for _, u := range order.AuthzURLs {
		if err := k.prove(ctx, c, u, names); err != nil {
			return Bundle{}, string(c.KID), err
		}
	}
	b, err := k.fetch(ctx, c, order, names, a.Settings.Key)
	return b, string(c.KID), err
}

// register finds the account of the key, or makes it.
func register(ctx context.Context, c *acme.Client, s ACMESettings) error {
	d, err := c.Discover(ctx)
	if err != nil {
		return fmt.Errorf("asking for the directory: %w", err)
	}
	account := &acme.Account{}
	for _, m := range s.Contacts {
		account.Contact = append(account.Contact, "mailto:"+m)
	}
	if s.KeyID != "" {
		mac, err := decodeMAC(s.MAC)
		if err != nil {
			return errors.New("the external account's key is not base64url")
		}
		account.ExternalAccountBinding = &acme.ExternalAccountBinding{KID: s.KeyID, Key: mac}
	} else if d.ExternalAccountRequired {
		return errors.New("the server wants an external account: give its key id and key (--eab-kid, --eab-key-file)")
	}
	_, err = c.Register(ctx, account, func(string) bool { return s.Agreed })
	if errors.Is(err, acme.ErrAccountAlreadyExists) {
		return follow(ctx, c, account.Contact)
	}
	if err != nil {
		return fmt.Errorf("making an account: %w", err)
	}
	return nil
}

// follow has the account's contacts be those that are set.
func follow(ctx context.Context, c *acme.Client, contacts []string) error {
	there, err := c.GetReg(ctx, "")
	if err != nil {
		return fmt.Errorf("finding the account: %w", err)
	}
	if len(contacts) == 0 || slices.Equal(there.Contact, contacts) {
		return nil
	}
	if _, err := c.UpdateReg(ctx, &acme.Account{URI: there.URI, Contact: contacts}); err != nil {
		return fmt.Errorf("changing the account's contacts: %w", err)
	}
	return nil
}

// prove shows the server that a name leads here (RFC 8737).
func (k *Keeper) prove(ctx context.Context, c *acme.Client, u string, names []string) error {
	z, err := c.GetAuthorization(ctx, u)
	if err != nil {
		return fmt.Errorf("asking for a challenge: %w", err)
	}
	name := strings.ToLower(z.Identifier.Value)
	if !slices.Contains(names, name) {
		return fmt.Errorf("proving %.80q: the gateway did not ask for it", name)
	}
	if z.Status == acme.StatusValid {
		return nil
	}
	i := slices.IndexFunc(z.Challenges, func(x *acme.Challenge) bool { return x.Type == "tls-alpn-01" })
	if i < 0 {
		return fmt.Errorf("proving %s: the server offers no challenge of type tls-alpn-01", name)
	}
	cert, err := c.TLSALPN01ChallengeCert(z.Challenges[i].Token, name)
	if err != nil {
		return fmt.Errorf("proving %s: %w", name, err)
	}
	k.proofs.set(name, &cert)
	defer k.proofs.set(name, nil)
	if _, err := c.Accept(ctx, z.Challenges[i]); err != nil {
		return fmt.Errorf("proving %s: %w", name, err)
	}
	if _, err := c.WaitAuthorization(ctx, u); err != nil {
		return fmt.Errorf("proving %s, which the server tries at its port 443: %w", name, err)
	}
	return nil
}

// fetch makes a new key and has it certified.
func (k *Keeper) fetch(ctx context.Context, c *acme.Client, order *acme.Order, names []string, kind string) (Bundle, error) {
	order, err := c.WaitOrder(ctx, order.URI)
	if err != nil {
		return Bundle{}, fmt.Errorf("waiting for the order: %w", err)
	}
	key, err := makeKey(kind)
	if err != nil {
		return Bundle{}, err
	}
	request, err := signRequest(names, key)
	if err != nil {
		return Bundle{}, err
	}
	ders, _, err := c.CreateCertFromOrder(ctx, order, request, true)
	if err != nil {
		return Bundle{}, fmt.Errorf("fetching the certificate: %w", err)
	}
	b, size := Bundle{Key: key}, 0
	if len(ders) > MaxCertificates {
		return Bundle{}, fmt.Errorf("fetching the certificate: %s", errMany)
	}
	for _, der := range ders {
		if size += len(der); size > MaxText {
			return Bundle{}, fmt.Errorf("fetching the certificate: it has more than %d KiB", MaxText>>10)
		}
		x, err := parseCertificate(der)
		if err != nil {
			return Bundle{}, fmt.Errorf("fetching the certificate: %w", err)
		}
		b.Chain = append(b.Chain, x)
	}
	if len(b.Chain) == 0 {
		return Bundle{}, errors.New("fetching the certificate: the server sent none")
	}
	return check{names: names, now: k.config.Now()}.run(b)
}

func (k *Keeper) transport(s ACMESettings) (*http.Transport, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.Roots != "" {
		pool, err := parsePool(s.Roots)
		if err != nil {
			return nil, fmt.Errorf("reading the server's authorities: %w", err)
		}
		t.RootCAs = pool
	}
	return &http.Transport{Proxy: k.config.Proxy, TLSClientConfig: t, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: 30 * time.Second}, nil
}

// meter bounds what one attempt asks a server, and what that answers.
type meter struct {
	next  http.RoundTripper
	calls int // the ACME client asks one thing at a time
}

// RoundTrip implements http.RoundTripper.
func (m *meter) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		return nil, errors.New("the server's directory leads to an address that is not https")
	}
	if m.calls++; m.calls > mostCalls {
		return nil, fmt.Errorf("the server was asked %d times, and is not done", mostCalls)
	}
	resp, err := m.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// backoffCall says how long to wait before the same request is sent again within one attempt:
// at once with another nonce, a moment after a fault of the server's, and not at all where
// it says that it was asked too often.
func backoffCall(n int, _ *http.Request, resp *http.Response) time.Duration {
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || n > 5:
		return -1
	case resp.StatusCode < 500:
		return 50 * time.Millisecond
	case n > 2:
		return -1
	}
	return 2 * time.Second
}
