package claim

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// IsForAdministrator asks a machine, host:port, whether its claim makes an administrator of
// the gateway it is, and not a gateway. Nobody vouches for the answer: it says what to ask
// the person, and a machine refuses a request for the other. A machine that does not know
// the question is nobody's. ErrNoMachine is wrapped.
func IsForAdministrator(ctx context.Context, address string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+aboutPath, nil)
	if err != nil {
		return false, fmt.Errorf("asking %s what it offers: %w", address, err)
	}
	t := &http.Transport{
		Proxy: nil, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: dialTime,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
	}
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t, Timeout: dialTime + time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return false, fmt.Errorf("connecting to %s: %w", address, op)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrNoMachine, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxOpening))
	var o offered
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(text, &o) != nil || o.Service != service {
		return false, nil
	}
	return o.Administrator, nil
}
