package network

import (
	"net/netip"
	"slices"

	"lazaret/appliance"
)

// Protocols that our routes bear in the kernel (rtnetlink(7)): how they are told from others'.
const (
	protoConfigured = 4  // RTPROT_STATIC
	protoLeased     = 16 // RTPROT_DHCP
)

// metricLeased is the metric of leased routes, behind configured ones; the link's index is
// added, so that two cards do not contend.
const metricLeased = 100

// metric6 is what the kernel makes of no metric for IPv6.
const metric6 = 1024

// layer is the addresses and routes of one link: as they are, or as they should be.
type layer struct {
	Addresses []netip.Prefix
	Routes    []route
}

// want is what a link should bear, from configuration and leases.
func want(index int, l appliance.Link, leases []lease) layer {
	var out layer
	add := func(p netip.Prefix) {
		if !slices.Contains(out.Addresses, p) {
			out.Addresses = append(out.Addresses, p)
		}
	}
	for _, p := range l.Addresses {
		add(p)
	}
	for _, r := range l.Routes {
		to, ok := r.Target()
		if !ok {
			continue // refused while checking
		}
		near := r.Via.IsLinkLocalUnicast() || slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Masked().Contains(r.Via) })
		out.Routes = append(out.Routes, normal(route{To: to, Via: r.Via, Metric: r.Metric, OnLink: r.Via.IsValid() && !near}))
	}
	for _, lease := range leases {
		add(lease.Address)
		for _, r := range lease.Routes {
			if r.Metric == 0 {
				r.Metric = metricLeased + index
			}
			out.Routes = append(out.Routes, normal(r))
		}
	}
	return out
}

// normal is a route as the kernel tells it.
func normal(r route) route {
	if r.Metric == 0 && r.To.Addr().Is6() {
		r.Metric = metric6
	}
	return r
}

// same says whether two routes are one to the kernel; onlink is how it got in.
func same(a, b route) bool {
	return a.To == b.To && a.Via == b.Via && a.Metric == b.Metric && a.Leased == b.Leased
}

// change is what makes a link's layer another. It is applied in the order of its fields, so
// that what stays or is replaced works throughout.
type change struct {
	AddAddresses    []netip.Prefix
	AddRoutes       []route
	RemoveRoutes    []route
	RemoveAddresses []netip.Prefix
}

func (c change) empty() bool {
	return len(c.AddAddresses)+len(c.AddRoutes)+len(c.RemoveRoutes)+len(c.RemoveAddresses) == 0
}

// difference is what is to be done to have want where have is.
func difference(have, want layer) change {
	return change{
		AddAddresses:    lacking(want.Addresses, have.Addresses, func(a, b netip.Prefix) bool { return a == b }),
		AddRoutes:       lacking(want.Routes, have.Routes, same),
		RemoveRoutes:    lacking(have.Routes, want.Routes, same),
		RemoveAddresses: lacking(have.Addresses, want.Addresses, func(a, b netip.Prefix) bool { return a == b }),
	}
}

// lacking are the members of list that are not in of.
func lacking[T any](list, of []T, same func(a, b T) bool) []T {
	var out []T
	for _, x := range list {
		if !slices.ContainsFunc(of, func(y T) bool { return same(x, y) }) {
			out = append(out, x)
		}
	}
	return out
}
