package poll

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	shortToken = 10 * time.Second // life of a token whose life the server does not tell
	longToken  = 12 * time.Hour   // and the longest that is believed
)

// Credentials obtain tokens with a client's ID and secret (RFC 6749, section 4.4, with the
// secret in the body, section 2.3.1) and keep one until shortly before it runs out.
type Credentials struct {
	Endpoint string // https URL
	ID       string
	Secret   string
	Scope    string // optional

	mu    sync.Mutex
	token string
	until time.Time
}

// Authorize implements Authorizer.
func (k *Credentials) Authorize(ctx context.Context, c *Client, r *http.Request) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.token == "" || !c.Now().Before(k.until) {
		if err := k.renew(ctx, c); err != nil {
			return fmt.Errorf("obtaining a token: %w", err)
		}
	}
	r.Header.Set("Authorization", "Bearer "+k.token)
	return nil
}

// Refused implements Authorizer: the token is forgotten.
func (k *Credentials) Refused() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token = ""
	return true
}

// renew asks for a token. The caller holds mu.
func (k *Credentials) renew(ctx context.Context, c *Client) error {
	k.token = ""
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {k.ID}, "client_secret": {k.Secret}}
	if k.Scope != "" {
		form.Set("scope", k.Scope)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, k.Endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("asking for it: malformed request")
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	now := c.Now()
	body, err := c.Do(r)
	if err != nil {
		return err
	}
	token, life, err := readToken(body)
	if err != nil {
		return fmt.Errorf("reading the answer of %s: %w", r.URL.Host, err)
	}
	k.token, k.until = token, now.Add(life)
	return nil
}

// readToken reads an answer as of RFC 6749, section 5.1, and returns how long the token is to
// be used.
func readToken(body []byte) (token string, life time.Duration, err error) {
	o, err := ReadObject(body)
	if err != nil {
		return "", 0, err
	}
	token = o.Text("access_token")
	kind := o.Text("token_type")
	if err := o.Err(); err != nil {
		return "", 0, err
	}
	if !strings.EqualFold(kind, "bearer") {
		return "", 0, fmt.Errorf("its token is none to bear: %w", errBody)
	}
	if token == "" || len(token) > 64<<10 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", 0, fmt.Errorf("it holds no token: %w", errBody)
	}
	var expires struct {
		In json.Number `json:"expires_in"`
	}
	life = shortToken
	if json.Unmarshal(body, &expires) == nil {
		if n, err := expires.In.Int64(); err == nil && n > 0 {
			life = min(time.Duration(min(n, int64(longToken/time.Second)))*time.Second, longToken)
		}
	}
	return token, life - min(life/10, time.Minute), nil
}
