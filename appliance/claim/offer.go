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
	"net/url"
	"time"
)

// Offer is what a machine says, to whoever asks, of its claim. Nobody vouches for it: it
// says what to ask the person, and guards against mistakes alone.
type Offer struct {
	// Administrator says that the claim makes an administrator of the gateway it is, and not
	// a gateway. A machine refuses a request for the other.
	Administrator bool
	// Clock is the machine's; a zero Time: it does not say.
	Clock Clock
}

// AskOffer asks a machine, host:port, what its claim makes. A machine that does not know
// the question is nobody's. ErrNoMachine is wrapped.
func AskOffer(ctx context.Context, address string) (Offer, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, urlOf(address, aboutPath), nil)
	if err != nil {
		return Offer{}, fmt.Errorf("asking %s what it offers: %w", address, err)
	}
	t := &http.Transport{
		Proxy: nil, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: dialTime,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true},
	}
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t, Timeout: dialTime + time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return Offer{}, fmt.Errorf("connecting to %s: %w", address, op)
	}
	if err != nil {
		return Offer{}, fmt.Errorf("%w: %w", ErrNoMachine, err)
	}
	defer resp.Body.Close()
	var offer Offer
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		offer.Clock.Time = at // what machines of earlier versions say
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxOpening))
	var o offered
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(text, &o) != nil || o.Service != service {
		return offer, nil
	}
	offer.Administrator = o.Administrator
	if o.Clock != nil {
		offer.Clock = *o.Clock
	}
	return offer, nil
}

// urlOf is the URL of a path at a machine, host:port. A link-local address has a zone, whose
// sign is written otherwise in a URL (RFC 6874, section 2).
func urlOf(address, path string) string {
	return (&url.URL{Scheme: "https", Host: address, Path: path}).String()
}
