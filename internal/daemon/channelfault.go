package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"

	"lazaret/appliance"
	"lazaret/internal/console"
)

// channelError is why the update channel did not say what it has.
type channelError struct {
	channel string
	err     error
}

// Error implements error.
func (e *channelError) Error() string { return e.err.Error() }

// Unwrap implements error.
func (e *channelError) Unwrap() error { return e.err }

// statusError is an answer that is no list.
type statusError struct{ file, status string }

// Error implements error.
func (e *statusError) Error() string {
	return fmt.Sprintf("asking the channel for %s: it answers %s", e.file, e.status)
}

// withoutURL leaves out the URL that package http puts before its errors: one that a redirect
// led to may hold a secret.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// tellChannel puts what is wrong with a channel in the words of who set it, with what to do.
func tellChannel(err error) error {
	of, ok := errors.AsType[*channelError](err)
	if !ok {
		return err
	}
	out := &console.UpstreamFault{What: fmt.Sprintf("the update channel %s: ", shownURL(of.channel))}
	say := func(what, remedy string) error {
		out.What, out.Remedy = out.What+what, remedy
		return out
	}
	const let = "see whether the host firewall lets the gateway out (firewall.out, or firewall.proxy), and whether the server runs"
	name, named := errors.AsType[*net.DNSError](err)
	status, answered := errors.AsType[*statusError](err)
	_, network := errors.AsType[net.Error](err)
	switch {
	case named && name.IsNotFound:
		return say("no server of its name is known: "+name.Error(), "see whether the channel is written right: lazaretctl machine updates show")
	case named:
		return say("the name servers did not tell its address: "+name.Error(), "see the name servers: lazaretctl machine network show")
	case byTLS(err):
		return say("its server is not believed: "+withoutURL(of.err).Error(), "give the server a certificate of a public authority, or of one in the image; and see that the clock is right")
	case answered:
		return say("it answers "+status.status, "name the directory that holds "+status.file+": lazaretctl machine updates set --channel")
	case errors.Is(err, appliance.ErrRefused):
		return say(of.err.Error(), "ask who keeps the channel: its list is signed with a key of this image, and renewed")
	case network || errors.Is(err, context.DeadlineExceeded):
		return say("no connection: "+of.err.Error(), let)
	}
	return say(of.err.Error(), let)
}

// byTLS reports whether it is the certificate or the protocol that an error is about.
func byTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	_, ok := errors.AsType[tls.AlertError](err)
	return ok
}

// shownURL is a URL without what may be secret in it.
func shownURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(no URL)"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// expect returns an answer if it is what was asked for.
func expect(resp *http.Response, file string) (*http.Response, error) {
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, &statusError{file, resp.Status}
	}
	return resp, nil
}
