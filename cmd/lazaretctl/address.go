package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance/claim"
)

// claimAddress is the address to dial for HOST[:PORT], and the host alone without a zone,
// which means something on this computer only. Brackets around an IPv6 address may be missing
// where there is no port.
func claimAddress(host string) (address, name string) {
	if a, err := netip.ParseAddr(unescapeZone(host)); err == nil {
		return net.JoinHostPort(a.String(), "443"), a.WithZone("").String()
	}
	h, port, err := net.SplitHostPort(host)
	if err != nil {
		return net.JoinHostPort(strings.Trim(host, "[]"), "443"), host
	}
	if a, err := netip.ParseAddr(unescapeZone("[" + h + "]")); err == nil {
		return net.JoinHostPort(a.String(), port), a.WithZone("").String()
	}
	return host, h
}

// unescapeZone takes an address out of its brackets, where a URL escapes the zone's sign
// (RFC 6874, section 2).
func unescapeZone(host string) string {
	in, ok := strings.CutPrefix(host, "[")
	in, closed := strings.CutSuffix(in, "]")
	if !ok || !closed {
		return host
	}
	a, zone, _ := strings.Cut(in, "%")
	if rest, escaped := strings.CutPrefix(zone, "25"); escaped && rest != "" {
		zone = rest
	}
	if zone == "" {
		return in
	}
	return a + "%" + zone
}

var zoned = regexp.MustCompile(`^https://(\[[^/\]]*%[^/\]]+\])(.*)$`)

// withoutZone is a server's URL with its zone escaped, and the name that its certificate must
// bear where that is not the URL's: the address without the zone.
func withoutZone(server string) (escaped, name string) {
	m := zoned.FindStringSubmatch(server)
	if m == nil {
		return server, ""
	}
	a, err := netip.ParseAddr(unescapeZone(m[1]))
	if err != nil {
		return server, ""
	}
	u := url.URL{Scheme: "https", Host: "[" + a.String() + "]"}
	return u.String() + m[2], a.WithZone("").String()
}

// checkClock compares a machine's clock with this computer's. What the machine makes is valid
// from its time on: by a wrong one, it is over when the clock is right, or has not begun.
func checkClock(w io.Writer, c claim.Clock, now time.Time, accepted bool) error {
	if c.Time.IsZero() && !accepted {
		return errors.New("the machine does not say what time it is, and what it makes by a wrong clock is of no use: nothing was made. Look at the time on its screen, and go on with --accept-clock if it is right")
	}
	if c.Time.IsZero() {
		return nil
	}
	off := now.Sub(c.Time).Abs() // the longest Duration, if it is longer
	says := fmt.Sprintf("the machine's clock says %s; this computer's says %s", c, now.UTC().Format("2 January 2006, 15:04 UTC"))
	switch {
	case off > claim.ClockFar && !accepted:
		return fmt.Errorf("%s. What the machine makes by a wrong clock is of no use once the clock is right: nothing was made. Set the wrong one of the two (the machine's by the clock of its hypervisor or board, then start it again, or by a time server that it reaches: DHCP or its seed may name one), and give the command again; or go on with --accept-clock", says)
	case off > claim.ClockNear:
		fmt.Fprintf(w, "warning: %s\n", says)
	}
	return nil
}

// where is how a command that this one suggests finds the same credential.
func (s *session) where(cmd *cobra.Command) string {
	if !cmd.Flags().Changed("dir") {
		return ""
	}
	if strings.ContainsFunc(s.dir, func(r rune) bool { return !strings.ContainsRune(plain, r) }) {
		return "--dir '" + strings.ReplaceAll(s.dir, "'", `'\''`) + "' "
	}
	return "--dir " + s.dir + " "
}

// plain are the characters that no shell takes for something else.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%"
