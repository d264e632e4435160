package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

const (
	callTime   = 15 * time.Second // of one attempt, all of it
	mostAnswer = 4 << 10          // bytes of an answer that are read
	longestAsk = time.Hour        // that a receiver may ask us to wait
)

// metadata are services of clouds that tell machines their secrets, beside 169.254.0.0/16.
var metadata = []netip.Prefix{netip.MustParsePrefix("fd00:ec2::254/128"), netip.MustParsePrefix("fd20:ce::254/128"), netip.MustParsePrefix("100.100.100.200/32"), netip.MustParsePrefix("168.63.129.16/32")}

// nat64 carries an IPv4 address in its end (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// checkAddr refuses addresses that no receiver has, and that are trusted for being near:
// this machine, the link, a cloud's metadata. Private networks are where many receivers are.
func checkAddr(addr netip.Addr, allow []netip.Prefix, loopback bool) error {
	addr = addr.Unmap().WithZone("")
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	if loopback && addr.IsLoopback() {
		return nil
	}
	for _, p := range allow {
		if p.Contains(addr) {
			return nil
		}
	}
	special := addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || addr.IsUnspecified() || !addr.IsValid() ||
		addr.Is4() && (addr.As4()[0] == 0 || addr.As4()[0] >= 240)
	for _, p := range metadata {
		special = special || p.Contains(addr)
	}
	if special {
		return fmt.Errorf("%s is an address of this machine, of the link or of a special service: list it in allow if it is meant", addr)
	}
	return nil
}

// newClient makes a client for one receiver. What it connects to is checked once names are
// resolved, so that no name leads elsewhere later.
func newClient(r Receiver, loopback bool, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	through := proxy != nil
	if u, err := proxyOf(proxy, r.URL); through && err == nil {
		through = u != nil
	}
	if !through { // a proxy resolves names itself, and is ours to reach
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return checkAddr(at.Addr(), r.Allow, loopback)
		}
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.CA != "" {
		t.RootCAs = x509.NewCertPool()
		t.RootCAs.AppendCertsFromPEM([]byte(r.CA))
	}
	return &http.Client{
		Timeout: callTime,
		Transport: &http.Transport{
			Proxy: proxy, DialContext: dialer.DialContext, TLSClientConfig: t, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns: 1, MaxConnsPerHost: 1, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: callTime, MaxResponseHeaderBytes: 16 << 10,
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func proxyOf(proxy func(*http.Request) (*url.URL, error), to string) (*url.URL, error) {
	if proxy == nil {
		return nil, nil
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	return proxy(&http.Request{URL: u})
}

// failure is why an attempt failed.
type failure struct {
	text string
	wait time.Duration // that the receiver asked for
	gone bool          // it asked to be told nothing more
}

func (f *failure) Error() string { return f.text }

// post makes one attempt. A success is any status of 200 to 299; a redirect is none, since
// nobody but the receiver that an administrator named is told.
func post(client *http.Client, q *http.Request) error {
	q.Header.Set("User-Agent", "lazaret")
	resp, err := client.Do(q)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the URL is known, and stays out of logs
		}
		return &failure{text: err.Error()}
	}
	defer resp.Body.Close()
	// Read a little, so that the connection can be used again; what it says is not looked at.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, mostAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	f := &failure{text: "it answered " + strconv.Itoa(resp.StatusCode), gone: resp.StatusCode == http.StatusGone}
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		f.wait = min(time.Duration(min(seconds, 1<<20))*time.Second, longestAsk)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		f.text += ", a redirect, which is not followed"
	}
	return f
}
