package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path"
)

// Sysctl is a setting of the kernel's, in the network namespace of whoever reads it.
type Sysctl struct {
	Path  string // under /proc/sys
	Value string
}

// Sysctls are the settings without which a packet or a neighbour could choose its own way:
// source routing (RFC 791; for IPv6 RFC 5095, RFC 6554, RFC 8754) and redirects (RFC 792, RFC 4861), off for
// the interfaces that are named, those that come later, and all together.
func Sysctls(interfaces []string) []Sysctl {
	var list []Sysctl
	for _, name := range append([]string{"all", "default"}, interfaces...) {
		for _, key := range []string{"accept_source_route", "accept_redirects", "send_redirects"} {
			list = append(list, Sysctl{path.Join("net/ipv4/conf", name, key), "0"})
		}
		list = append(list, Sysctl{path.Join("net/ipv6/conf", name, "accept_source_route"), "-1"},
			Sysctl{path.Join("net/ipv6/conf", name, "accept_redirects"), "0"},
			Sysctl{path.Join("net/ipv6/conf", name, "seg6_enabled"), "0"}, Sysctl{path.Join("net/ipv6/conf", name, "rpl_seg_enabled"), "0"})
	}
	return list
}

// Interfaces are the names of this network namespace's interfaces but the loopback.
func Interfaces() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var names []string
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	return names, nil
}

// Harden makes the settings. What could not be made is named in the error; the rest is.
// A setting that the kernel does not have (no IPv6) needs none.
func Harden() error {
	names, err := Interfaces()
	if err != nil {
		return err
	}
	var faults []error
	for _, s := range Sysctls(names) {
		err := os.WriteFile(path.Join("/proc/sys", s.Path), []byte(s.Value+"\n"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			faults = append(faults, fmt.Errorf("setting %s to %s: %w", s.Path, s.Value, err))
		}
	}
	return errors.Join(faults...)
}
