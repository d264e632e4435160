package agent

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
	"strconv"
	"time"

	"lazaret/internal/agentapi"
)

// errRefused reports that the gateway knows this device no more, or not here.
var errRefused = errors.New("the gateway refuses this device")

// gateway speaks the agent API, always from the quarantine address, so that a move never
// breaks the session.
type gateway struct {
	base string
	http *http.Client

	// What a connection of its own takes; see channel.
	dial *net.Dialer
	tls  *tls.Config
	at   string // host and port
	cert tls.Certificate
}

// newGateway trusts the pinned root alone, and the gateway's tunnel address must stand in
// its certificate; a device's certificate bears no address and is for clients only.
func newGateway(st state, via way, cert tls.Certificate) (*gateway, error) {
	root, err := x509.ParseCertificate(st.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the pinned root: %w", err)
	}
	g, err := gatewayOf(st.Settings, via)
	if err != nil {
		return nil, err
	}
	if g.API == "" {
		return nil, errors.New("the gateway named no agent API")
	}
	base, err := url.Parse(g.API)
	if err != nil {
		return nil, fmt.Errorf("reading the agent API's address: %w", err)
	}
	at, err := netip.ParseAddr(base.Hostname())
	if err != nil {
		return nil, fmt.Errorf("reading the agent API's address: %w", err)
	}
	from := sourceFor(netip.PrefixFrom(at, at.BitLen()), st.Settings.Quarantine.Addresses)
	if !from.IsValid() {
		return nil, fmt.Errorf("this device has no quarantine address to reach %s from", at)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	dial := &net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	secure := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}, ServerName: at.String()}
	port := base.Port()
	if port == "" {
		port = "443"
	}
	return &gateway{base: base.String(), dial: dial, tls: secure, at: net.JoinHostPort(base.Hostname(), port), cert: cert, http: &http.Client{Transport: &http.Transport{
		DialContext:         dial.DialContext,
		TLSClientConfig:     secure,
		TLSHandshakeTimeout: 5 * time.Second, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
	}}}, nil
}

// status asks where the device stands; with after, it waits until that changed. signer
// names the management signer that is known.
func (g *gateway) status(ctx context.Context, after int64, wait time.Duration, signer string) (agentapi.Status, error) {
	q := url.Values{}
	if wait > 0 {
		q.Set("after", strconv.FormatInt(after, 10))
		q.Set("wait", strconv.Itoa(int(wait.Seconds())))
	}
	if signer != "" {
		q.Set("signer", signer)
	}
	path := agentapi.StatusPath
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	ctx, cancel := context.WithTimeout(ctx, wait+10*time.Second)
	defer cancel()
	var st agentapi.Status
	return st, g.call(ctx, http.MethodGet, path, nil, &st)
}

func (g *gateway) report(ctx context.Context, r agentapi.Report) (agentapi.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var st agentapi.Status
	return st, g.call(ctx, http.MethodPost, agentapi.ReportPath, r, &st)
}

func (g *gateway) session(ctx context.Context, r agentapi.Report) (agentapi.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	var s agentapi.Session
	return s, g.call(ctx, http.MethodPost, agentapi.SessionPath, r, &s)
}

// call makes one request; the answer is bounded.
func (g *gateway) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the gateway: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	if resp.StatusCode == http.StatusForbidden {
		return errRefused
	}
	if resp.StatusCode != http.StatusOK {
		var p agentapi.Problem
		_ = json.Unmarshal(text, &p) // what is no problem document says only its status
		return fmt.Errorf("the gateway answered %d %s", resp.StatusCode, p.Error)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	return nil
}

// close drops idle connections, so that the next request makes a new one.
func (g *gateway) close() { g.http.CloseIdleConnections() }
