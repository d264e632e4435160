package poll

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"lazaret/quarantine"
)

const (
	maxBody     = 16 << 20 // of one answer, unpacked
	maxURL      = 8 << 10
	requestTime = time.Minute     // of one request, with its answer
	maxRetry    = 2 * time.Minute // that a request waits for its turn; a longer wait ends the round
	tries       = 4
	maxSkew     = quarantine.MaxAhead // that a server's clock may differ by
)

// Authorizer puts a credential on requests.
type Authorizer interface {
	// Authorize adds the credential. It may ask for one first, with c.
	Authorize(ctx context.Context, c *Client, r *http.Request) error
	// Refused says that the server did not take it. It returns true where another may do.
	Refused() bool
}

// Bearer is a token that does not change.
type Bearer string

// Authorize implements Authorizer.
func (b Bearer) Authorize(_ context.Context, _ *Client, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

// Refused implements Authorizer.
func (Bearer) Refused() bool { return false }

// ClientConfig is what a Client needs.
type ClientConfig struct {
	Base    string     // required: https URL that every request is for
	Auth    Authorizer // required
	Roots   string     // optional: PEM of the only authorities to trust; else the system's
	Agent   string     // optional: User-Agent
	Headers map[string]string

	Proxy func(*http.Request) (*url.URL, error)           // optional: none
	Now   func() time.Time                                // optional: time.Now
	Wait  func(ctx context.Context, d time.Duration) bool // optional: waits for d; false when ctx ended
	Trip  func(http.RoundTripper) http.RoundTripper       // optional: wraps the transport
}

// Client asks one server, over verified TLS only. It sends its credential to no other host,
// reads no more than it may, waits where it is told to, and watches the server's clock. Its
// errors name the server and never what was sent or answered.
type Client struct {
	ClientConfig
	base *url.URL
	http *http.Client

	mu   sync.Mutex
	skew time.Duration // of the server's clock ahead of ours, the largest since resetSkew
}

// Throttled reports a server that wants to be asked later.
type Throttled struct {
	Host  string
	After time.Duration // from now; zero: it did not say
}

func (t *Throttled) Error() string {
	if t.After > 0 {
		return fmt.Sprintf("%s asks to be left alone for %s", t.Host, t.After)
	}
	return t.Host + " asks to be left alone for a while"
}

// StatusError is an answer that is no success.
type StatusError struct {
	Host string
	Code int
}

func (s *StatusError) Error() string {
	hint := ""
	switch s.Code {
	case http.StatusUnauthorized:
		hint = ": it does not take the credential"
	case http.StatusForbidden:
		hint = ": the credential lacks a permission"
	case http.StatusNotFound:
		hint = ": another product or version answers there"
	}
	if s.Code >= 300 && s.Code < 400 {
		hint = ": it leads to another server"
	}
	return fmt.Sprintf("%s answered %d %s%s", s.Host, s.Code, http.StatusText(s.Code), hint)
}

// CheckURL refuses what is no base of an HTTPS API.
func CheckURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, errors.New("it is no URL like https://mdm.example.com")
	case u.Scheme != "https":
		return nil, errors.New("it is not https://: neither the credential nor the answer would be safe")
	case u.User != nil:
		return nil, errors.New("it holds a password: give that as a secret")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("it says more than server and path")
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// NewClient makes a Client.
func NewClient(c ClientConfig) (*Client, error) {
	base, err := CheckURL(c.Base)
	if err != nil {
		return nil, fmt.Errorf("reading url: %w", err)
	}
	if c.Auth == nil {
		return nil, errors.New("making client: no credential")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Roots != "" {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM([]byte(c.Roots)) {
			return nil, errors.New("reading ca: it holds no certificate in PEM")
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Wait == nil {
		c.Wait = pause
	}
	var trip http.RoundTripper = &http.Transport{
		TLSClientConfig: conf, Proxy: c.Proxy, ForceAttemptHTTP2: true, MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns: 2, IdleConnTimeout: 30 * time.Second, TLSHandshakeTimeout: 20 * time.Second,
	}
	if c.Trip != nil {
		trip = c.Trip(trip)
	}
	return &Client{ClientConfig: c, base: base, http: &http.Client{
		Transport:     trip,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Host is the server's name, for messages.
func (c *Client) Host() string { return c.base.Host }

// Get asks for a path below the base, with a query, and returns the body of a success. What
// the path takes from elsewhere must be a plain number.
func (c *Client) Get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	return c.get(ctx, &u)
}

// Follow asks for a link that the server itself gave. One that leads anywhere else is refused.
func (c *Client) Follow(ctx context.Context, link string) ([]byte, error) {
	u, err := url.Parse(link)
	if err != nil || len(link) > maxURL || u.Scheme != "https" || u.Host != c.base.Host || u.User != nil {
		return nil, fmt.Errorf("%s gave a link that does not lead to itself", c.base.Host)
	}
	return c.get(ctx, u)
}

// get asks until there is an answer, an error that asking again does not mend, or no time.
func (c *Client) get(ctx context.Context, u *url.URL) ([]byte, error) {
	for try, renewed := 1, false; ; try++ {
		body, err := c.try(ctx, u)
		if s, ok := err.(*StatusError); ok && s.Code == http.StatusUnauthorized && !renewed && c.Auth.Refused() {
			renewed = true // a token that ran out, or was revoked: one more
			continue
		}
		if err == nil || ctx.Err() != nil || try >= tries || !again(err) {
			return body, err
		}
		wait := time.Second << (try - 1)
		wait += rand.N(wait / 2)
		if t, ok := errors.AsType[*Throttled](err); ok && t.After > 0 {
			wait = t.After
		}
		if wait > maxRetry || !c.Wait(ctx, wait) {
			return nil, err
		}
	}
}

// try asks once. An error of the answer itself comes as it is, one of the credential wrapped.
func (c *Client) try(ctx context.Context, u *url.URL) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s: malformed request: %w", c.base.Host, errBody)
	}
	r.Header.Set("Accept", "application/json")
	for k, v := range c.Headers {
		r.Header.Set(k, v)
	}
	if err := c.Auth.Authorize(ctx, c, r); err != nil {
		return nil, err
	}
	return c.Do(r)
}

// again reports whether asking once more may help.
func again(err error) bool {
	if s, ok := errors.AsType[*StatusError](err); ok {
		return s.Code >= 500
	}
	return !errors.Is(err, errBody)
}

// errBody is an answer that was no use, and will be none when asked again at once.
var errBody = errors.New("it is not what was asked for")

// Do makes one request, of which the caller set the credential, and returns the body of a
// success. The request must be for the client's own servers.
func (c *Client) Do(r *http.Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	if c.Agent != "" {
		r.Header.Set("User-Agent", c.Agent)
	}
	host := r.URL.Host
	resp, err := c.http.Do(r.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", host, plain(err))
	}
	defer resp.Body.Close()
	c.watchClock(resp.Header)
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable:
		return nil, &Throttled{host, c.retryAfter(resp.Header)}
	case resp.StatusCode < 200 || resp.StatusCode >= 300:
		return nil, &StatusError{host, resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s: %w", host, plain(err))
	case len(body) > maxBody:
		return nil, fmt.Errorf("reading the answer of %s: it is longer than %d MiB: %w", host, maxBody>>20, errBody)
	}
	return body, nil
}

// plain is an error of net/http without the URL, which may bear a secret of the server's.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// retryAfter reads RFC 9110, section 10.2.3: seconds, or a date, by the server's own clock.
func (c *Client) retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now := c.Now()
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0)
}

// watchClock notes how far the server's clock is from ours.
func (c *Client) watchClock(h http.Header) {
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	d := date.Sub(c.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Abs() > c.skew.Abs() {
		c.skew = d
	}
}

// resetSkew forgets how far the server's clock was from ours.
func (c *Client) resetSkew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = 0
}

// Skew is how far the server's clock was ahead of ours, or behind; zero while it is not worth
// mention.
func (c *Client) Skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.skew.Abs() <= maxSkew {
		return 0
	}
	return c.skew
}
