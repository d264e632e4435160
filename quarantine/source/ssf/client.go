package ssf

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxAnswer  = 1 << 20          // bytes of an answer, save of a poll
	maxPolled  = 16 << 20         // bytes of a poll's answer
	callTime   = 20 * time.Second // of a call, save of a poll
	pollTime   = 2 * time.Minute  // of a poll, which the transmitter may hold open
	retryLimit = time.Hour        // longest Retry-After that is heeded
	tokenSlack = 30 * time.Second // an access token is renewed so long before its end
	maxToken   = 12 * time.Hour   // and is used so long at most
	minToken   = 10 * time.Second // and at least
	dialTime   = 10 * time.Second
	idleTime   = 90 * time.Second
	userAgent  = "lazaret-ssf/1.0"
)

// MaxSecret is the longest secret, in bytes.
const MaxSecret = 8 << 10

// failure is an answer that is no success.
type failure struct {
	status int
	after  time.Duration // Retry-After; zero: not said
	url    string
}

func (f *failure) Error() string { return fmt.Sprintf("%s answered %d", f.url, f.status) }

// client asks one stream's transmitter. It follows no redirect, and connects to no private
// address that the settings do not allow, whatever a name resolves to.
type client struct {
	settings Settings
	secret   func(ctx context.Context, s Secret) (string, error) // "" for none
	http     *http.Client

	mu    sync.Mutex
	token string // access token, if token_url is set
	until time.Time
}

func newClient(s Settings, proxy func(*http.Request) (*url.URL, error), secret func(context.Context, Secret) (string, error)) *client {
	c := &client{settings: s, secret: secret}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.Roots != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(s.Roots))
	}
	dialer := &net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", address, err)
		}
		return c.allowed(at.Addr())
	}}
	t := &http.Transport{TLSClientConfig: config, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		MaxConnsPerHost: 4, IdleConnTimeout: idleTime, TLSHandshakeTimeout: dialTime, MaxResponseHeaderBytes: 64 << 10}
	if proxy != nil {
		if through, err := proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: "transmitter.invalid"}}); err == nil && through != nil {
			// The proxy resolves names then, and it is the administrator's.
			t.Proxy, t.DialContext = proxy, (&net.Dialer{Timeout: dialTime}).DialContext
		}
	}
	c.http = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

func (c *client) close() { c.http.CloseIdleConnections() }

// allowed refuses addresses inside: of this machine, of private networks.
func (c *client) allowed(a netip.Addr) error {
	a = a.Unmap()
	if slices.ContainsFunc(c.settings.Allow, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() || shared.Contains(a) {
		return fmt.Errorf("%s is no public address: list its network in allow if the transmitter is there", a)
	}
	return nil
}

// shared is between carriers and their customers (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// call makes one request and decodes a JSON answer into out, if there is any. in is sent as
// JSON, url.Values as a form.
func (c *client) call(ctx context.Context, method, at string, auth bool, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	var header string
	if auth {
		token, err := c.bearer(ctx)
		if err != nil {
			return err
		}
		if token != "" {
			header = "Bearer " + token
		}
	}
	err := c.send(ctx, method, at, header, in, out, maxAnswer)
	if f, ok := errors.AsType[*failure](err); ok && f.status == http.StatusUnauthorized && auth {
		c.forget()
	}
	return err
}

func (c *client) send(ctx context.Context, method, at, authorization string, in, out any, most int64) error {
	where, err := httpsURL(at)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(where.Hostname()); err == nil { // behind a proxy nobody else looks at it
		if err := c.allowed(a); err != nil {
			return err
		}
	}
	var body io.Reader
	kind := "application/json"
	switch v := in.(type) {
	case nil:
	case url.Values:
		kind, body = "application/x-www-form-urlencoded", strings.NewReader(v.Encode())
	default:
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, where.String(), body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent)
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return answer(resp, out, most)
}

// answer reads a response of at most so many bytes.
func answer(resp *http.Response, out any, most int64) error {
	at := resp.Request.URL.Redacted()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		f := &failure{status: resp.StatusCode, url: at}
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			f.after = min(time.Duration(min(n, 1<<20))*time.Second, retryLimit)
		} else if when, err := http.ParseTime(resp.Header.Get("Retry-After")); err == nil {
			f.after = min(max(0, time.Until(when)), retryLimit)
		}
		return f
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", at, err)
	}
	if int64(len(b)) > most {
		return fmt.Errorf("the answer of %s is longer than %d bytes", at, most)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	if out == nil || len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", at, err)
	}
	return nil
}

// bearer is what to send as bearer token: the secret itself, or an access token had for it
// by client credentials (RFC 6749 section 4.4).
func (c *client) bearer(ctx context.Context) (string, error) {
	if c.settings.TokenURL == "" {
		return c.secret(ctx, Bearer)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Now().Before(c.until) {
		return c.token, nil
	}
	password, err := c.secret(ctx, ClientSecret)
	if err != nil {
		return "", err
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if c.settings.Scope != "" {
		form.Set("scope", c.settings.Scope)
	}
	var got struct {
		AccessToken string  `json:"access_token"`
		TokenType   string  `json:"token_type"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	basic := http.Request{Header: http.Header{}}
	basic.SetBasicAuth(url.QueryEscape(c.settings.ClientID), url.QueryEscape(password))
	if err := c.send(ctx, http.MethodPost, c.settings.TokenURL, basic.Header.Get("Authorization"), form, &got, maxAnswer); err != nil {
		return "", fmt.Errorf("asking for an access token: %w", err)
	}
	if got.AccessToken == "" || !strings.EqualFold(got.TokenType, "Bearer") {
		return "", errors.New("asking for an access token: the answer has none of type Bearer")
	}
	life := time.Duration(min(got.ExpiresIn, maxToken.Seconds()))*time.Second - tokenSlack
	c.token, c.until = got.AccessToken, time.Now().Add(max(life, minToken))
	return c.token, nil
}

// forget drops an access token that was refused.
func (c *client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = ""
}
