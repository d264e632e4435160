package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"

	"lazaret/internal/form"
)

// What earlier versions took in a file, a gateway that runs with that file goes on with: a
// stricter version must not keep it from starting. A file for a new gateway is held to what
// package form says.

// earlierHostName has labels that begin with an underscore, and numbers that are no address.
var earlierHostName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
})

func earlierName(s string) bool {
	_, err := netip.ParseAddr(s)
	return err != nil && len(s) <= 253 && earlierHostName().MatchString(s)
}

func earlierHost(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil || earlierName(s)
}

func earlierEndpoint(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && earlierHost(host) && form.Endpoint(net.JoinHostPort("gw", port)) == nil
}

// tolerated passes what check finds fault with and earlier versions took, if the file may be
// one of theirs; it notes the doubt.
func (d *document) tolerated(key, s string, check func(string) error, earlier func(string) bool) error {
	err := check(s)
	if err == nil || !d.lenient || !earlier(s) {
		return err
	}
	d.doubt(key, fmt.Sprintf("%q: %v", s, err), "correct it: it is taken because earlier versions took it")
	return nil
}

func (d *document) doubt(key, what, remedy string) {
	d.doubts.add(d.lines[key], key, what, remedy)
}

// enrollNames reads the names in the gateway's certificate.
func (d *document) enrollNames() []string {
	const key = "enroll.names"
	list := d.names(key)
	switch n := len(list); {
	case n == 0:
		d.fault(key, "is empty", "name the host devices enroll at, like enroll.example.com")
	case n > form.MaxEnrollNames:
		what, remedy := fmt.Sprintf("has %d names", n), fmt.Sprintf("write %d at most: one certificate holds them all", form.MaxEnrollNames)
		if d.lenient {
			d.doubt(key, what, remedy)
		} else {
			d.fault(key, what, remedy)
		}
	}
	return list
}

// portalName says what is wrong with the name that devices reach the portal at.
func portalName(s string) error {
	if !form.HostName(s) || !strings.Contains(s, ".") {
		return errors.New("is no host name with a dot in it")
	}
	return nil
}
