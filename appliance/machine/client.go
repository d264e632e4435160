package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"lazaret/appliance"
)

// Client asks the machine; it is a Host, and safe for use by several.
type Client struct {
	http *http.Client
}

var _ Host = (*Client)(nil)

// Connect returns the client of a socket. Nothing is dialed before it is asked; where
// nobody listens, answers are errors that wrap ErrUnknown.
func Connect(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: dial, MaxConnsPerHost: mostAsking / 2, IdleConnTimeout: 10 * time.Second, DisableCompression: true,
	}}}
}

// maxAnswer bounds what is read of an answer: MaxLines of a kilobyte.
const maxAnswer = MaxLines << 10

func (c *Client) ask(ctx context.Context, method, path string, body io.Reader, size int64, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://machine/v1/"+path, body)
	if err != nil {
		return err
	}
	if size > 0 {
		req.ContentLength = size
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			return ErrUnknown
		}
		return fmt.Errorf("asking the machine: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the machine's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return remote(resp.StatusCode, text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("reading the machine's answer: %w", err)
	}
	return nil
}

// remote is the error that the machine answered with.
func remote(status int, text []byte) error {
	var f fault
	if err := json.Unmarshal(text, &f); err != nil || f.Error == "" {
		return fmt.Errorf("the machine answered %d", status)
	}
	of, ok := kinds[f.Kind]
	if !ok {
		return errors.New(f.Error)
	}
	return told{f.Error, of}
}

// told is an error with the machine's own words.
type told struct {
	text string
	of   error
}

func (t told) Error() string { return t.text }
func (t told) Unwrap() error { return t.of }

func (c *Client) send(ctx context.Context, method, path string, in, out any) error {
	text, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.ask(ctx, method, path, bytes.NewReader(text), 0, out)
}

func (c *Client) do(ctx context.Context, path string) error {
	return c.ask(ctx, http.MethodPost, path, nil, 0, nil)
}

// Status implements Host.
func (c *Client) Status(ctx context.Context) (st appliance.Status, err error) {
	err = c.ask(ctx, http.MethodGet, "status", nil, 0, &st)
	return st, err
}

// Log implements Host.
func (c *Client) Log(ctx context.Context, n int, f Filter) (lines []Line, err error) {
	q := url.Values{"n": {strconv.Itoa(n)}, "part": {f.Part}, "contains": {f.Contains}}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.Format(time.RFC3339Nano))
	}
	err = c.ask(ctx, http.MethodGet, "log?"+q.Encode(), nil, 0, &lines)
	return lines, err
}

// Network implements Host.
func (c *Client) Network(ctx context.Context) (n NetworkIs, err error) {
	err = c.ask(ctx, http.MethodGet, "network", nil, 0, &n)
	return n, err
}

// TryNetwork implements Host.
func (c *Client) TryNetwork(ctx context.Context, n appliance.Network, d time.Duration) (time.Time, error) {
	var u until
	err := c.send(ctx, http.MethodPost, "network", trial{n, int(d / time.Second)}, &u)
	return u.Until, err
}

// ConfirmNetwork implements Host.
func (c *Client) ConfirmNetwork(ctx context.Context) error { return c.do(ctx, "network/confirm") }

// StageUpdate implements Host.
func (c *Client) StageUpdate(ctx context.Context, bundle io.Reader, o Options) (s Staged, err error) {
	q := url.Values{"reboot": {strconv.FormatBool(o.Reboot)}, "automatic": {strconv.FormatBool(o.Automatic)}}
	if o.Version != "" {
		q.Set("version", o.Version)
	}
	if o.SHA256 != "" {
		q.Set("sha256", o.SHA256)
	}
	if o.Size > 0 {
		q.Set("size", strconv.FormatInt(o.Size, 10))
	}
	err = c.ask(ctx, http.MethodPost, "update?"+q.Encode(), io.NopCloser(bundle), o.Size, &s)
	return s, err
}

// UpdateSettings implements Host.
func (c *Client) UpdateSettings(ctx context.Context) (s Settings, err error) {
	err = c.ask(ctx, http.MethodGet, "updates", nil, 0, &s)
	return s, err
}

// SetUpdates implements Host.
func (c *Client) SetUpdates(ctx context.Context, u appliance.Updates) error {
	return c.send(ctx, http.MethodPut, "updates", u, nil)
}

// Heard implements Host.
func (c *Client) Heard(ctx context.Context, h Heard) error {
	return c.send(ctx, http.MethodPost, "heard", h, nil)
}

// Rollback implements Host.
func (c *Client) Rollback(ctx context.Context) error { return c.do(ctx, "rollback") }

// Reboot implements Host.
func (c *Client) Reboot(ctx context.Context) error { return c.do(ctx, "reboot") }

// PowerOff implements Host.
func (c *Client) PowerOff(ctx context.Context) error { return c.do(ctx, "poweroff") }

// SetPassphrase implements Host.
func (c *Client) SetPassphrase(ctx context.Context, passphrase string) error {
	return c.send(ctx, http.MethodPost, "passphrase", secret{Passphrase: passphrase}, nil)
}

// Seal implements Host.
func (c *Client) Seal(ctx context.Context, pin string) (string, error) {
	var out recovery
	err := c.send(ctx, http.MethodPost, "seal", secret{PIN: pin}, &out)
	return out.Recovery, err
}

// NewRecovery implements Host.
func (c *Client) NewRecovery(ctx context.Context) (string, error) {
	var out recovery
	err := c.ask(ctx, http.MethodPost, "recovery", nil, 0, &out)
	return out.Recovery, err
}

// AcceptTime implements Host.
func (c *Client) AcceptTime(ctx context.Context) error { return c.do(ctx, "clock/accept") }

// SelfCheck implements Host.
func (c *Client) SelfCheck(ctx context.Context) (r appliance.Report, err error) {
	err = c.ask(ctx, http.MethodGet, "check", nil, 0, &r)
	return r, err
}

// Inventory implements Host.
func (c *Client) Inventory(ctx context.Context) (bom json.RawMessage, err error) {
	err = c.ask(ctx, http.MethodGet, "inventory", nil, 0, &bom)
	return bom, err
}

// Reset implements Host.
func (c *Client) Reset(ctx context.Context, name string) error {
	return c.send(ctx, http.MethodPost, "reset", named{name}, nil)
}
