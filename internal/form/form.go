// Package form says how the texts are written that people give a gateway: its name, hosts,
// a proxy, what a pool reaches. Whoever takes such a text in, and whoever uses it later, asks
// here, so that what passes at one end passes at the other. It reaches no network.
package form

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

const (
	// GatewayNameIs tells a person what GatewayName takes.
	GatewayNameIs = "1 to 32 lower-case letters, digits and hyphens, which begin and end with no hyphen"
	// ProxyIs tells a person what Proxy takes.
	ProxyIs = `its address and port, like "http://192.0.2.3:3128"`
)

const (
	// MaxEnrollNames is how many names devices may enroll at: the gateway's one certificate
	// holds them all, beside those of its API.
	MaxEnrollNames = 32
	// MaxCommon is the most characters of a name in a certificate's subject (RFC 5280,
	// appendix A.1, ub-common-name and ub-organization-name).
	MaxCommon = 64
)

var (
	gatewayName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`) })
	label       = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`) })
	digitsOnly  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9.]+$`) })
)

// GatewayName says whether s can be a gateway's name.
func GatewayName(s string) bool { return gatewayName().MatchString(s) }

// HostName says whether s can be a host's name or a domain (RFC 1123, section 2.1), without a
// dot at its end.
func HostName(s string) bool {
	if len(s) == 0 || len(s) > 253 || digitsOnly().MatchString(s) {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !label().MatchString(l) {
			return false
		}
	}
	return true
}

// errForeign says how names in other letters are written: as the DNS knows them (RFC 5890,
// A-label).
var errForeign = errors.New("it has other letters than a to z: write the form that the DNS knows, which begins with xn--, like xn--bcher-kva.example for bücher.example")

// foreign says whether s, which should be a name, is written in other letters.
func foreign(s string) bool {
	return utf8.ValidString(s) && strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsMark(r)) })
}

// Host says what is wrong with a name or an address at which a host is reached.
func Host(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return errors.New("no address that others reach a host at")
		}
		return nil
	}
	if foreign(s) {
		return errForeign
	}
	if !HostName(s) {
		return errors.New("neither a host name nor an address")
	}
	return nil
}

// Endpoint says what is wrong with a host and its port, like gw.example.com:51820.
func Endpoint(s string) error {
	h, port, err := net.SplitHostPort(s)
	if err != nil {
		return errors.New("no host and port")
	}
	if err := Host(h); err != nil {
		return err
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("port must be from 1 to 65535")
	}
	return nil
}

// Proxy reads where a proxy for HTTP and HTTPS is. It takes an address, not a name: the rule
// that lets nothing else out would otherwise rest on whoever answers for the name. An error
// holds nothing of s, which may hold a password.
func Proxy(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, errors.New("is no URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("begins with neither http:// nor https://")
	case u.User != nil:
		return nil, errors.New("holds a user's name or password, which this is no place for")
	case (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("says more than address and port")
	}
	at, err := netip.ParseAddrPort(u.Host)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().Is4In6() || at.Addr().IsUnspecified() {
		return nil, errors.New("names no address and port")
	}
	return &url.URL{Scheme: u.Scheme, Host: at.String()}, nil
}

// Common says what is wrong with a name in a certificate's subject: it has 1 to MaxCommon
// printable characters, and no space at either end.
func Common(s string) error {
	n := utf8.RuneCountInString(s)
	switch {
	case !utf8.ValidString(s):
		return errors.New("not UTF-8")
	case n == 0 || n > MaxCommon:
		return fmt.Errorf("has %d characters: 1 to %d are allowed", n, MaxCommon)
	case strings.TrimSpace(s) != s:
		return errors.New("begins or ends with a space")
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("holds a character that cannot be printed")
	}
	return nil
}
