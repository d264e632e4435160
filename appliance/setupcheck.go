package appliance

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"lazaret/internal/form"
)

// DefaultQuarantine and DefaultFull are the pools' networks where none are given.
var (
	DefaultQuarantine = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16"), netip.MustParsePrefix("fd66:6c61:7a61::/64")}
	DefaultFull       = []netip.Prefix{netip.MustParsePrefix("10.67.0.0/16"), netip.MustParsePrefix("fd67:6c61:7a61::/64")}
)

// Bounds of a setup's lists.
const (
	maxList    = 64
	maxManaged = 32  // management servers: so many names a pool reaches
	maxURL     = 500 // bytes
)

// Check says what is wrong with a setup; the error is of type Faults, without lines. A
// gateway can be made of what passes.
func (s Setup) Check() error {
	var c checked
	s.check(true, c.fault)
	return c.err()
}

// CheckGiven checks what is there, and misses nothing: what is not there is for others to say.
func (s Setup) CheckGiven() error {
	var c checked
	s.check(false, c.fault)
	return c.err()
}

func (s Setup) check(whole bool, fault reporter) {
	if s.Name != "" && !form.GatewayName(s.Name) {
		fault("name", "name: %s", form.GatewayNameIs)
	}
	for path, text := range map[string]string{"organization": s.Organization, "administrator": s.Administrator} {
		if err := form.Common(text); text != "" && err != nil {
			fault(path, "%s: %v", path, err)
		}
	}
	if whole && len(s.EnrollNames) == 0 {
		fault("enroll_names", "enroll_names: name at least one, under which devices reach this gateway")
	}
	if whole && len(s.Management) == 0 {
		fault("management", `management: name at least one server, like "192.0.2.10 tcp/443"`)
	}
	texts(fault, "enroll_names", s.EnrollNames, form.MaxEnrollNames, "a name or an address", form.Host)
	texts(fault, "endpoints", s.Endpoints, maxList, "host and port, like gw.example.com:51820", form.Endpoint)
	texts(fault, "management", s.Management, maxManaged, `an address or a name with protocol and port, like "192.0.2.10 tcp/443"`, func(text string) error {
		_, err := managed(text)
		return err
	})
	texts(fault, "time_servers", s.TimeServers, maxList, "a name or an address", form.Host)
	s.prefixes(whole, fault)
	if s.Network != nil {
		s.Network.check("network.", func(path, format string, args ...any) { fault(path, format, args...) })
	}
	if s.Proxy != "" {
		if _, err := form.Proxy(s.Proxy); err != nil {
			fault("proxy", "proxy: it %v; write %s", err, form.ProxyIs)
		}
	}
	s.Updates.check(whole, func(path, format string, args ...any) { fault("updates."+path, "updates."+format, args...) })
}

// Check says what is wrong with settings of updates; the error is of type Faults.
func (u Updates) Check() error {
	var c checked
	u.check(true, c.fault)
	return c.err()
}

func (u Updates) check(whole bool, fault reporter) {
	if u.Channel != "" && !isDirectory(u.Channel) {
		fault("channel", "channel: an https URL of a directory, without a password, query or fragment")
	}
	if whole && u.Automatic && u.Channel == "" {
		fault("automatic", "automatic: name a channel, which updates come from")
	}
	if _, err := ParseWindow(u.Window); err != nil {
		fault("window", `window: write it like "Sun 02:00-05:00"; the time is UTC`)
	}
}

func isDirectory(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Scheme == "https" && u.User == nil && u.RawQuery == "" && u.Fragment == "" && form.Host(u.Hostname()) == nil && len(s) <= maxURL
}

// managed reads what quarantine reaches.
func managed(text string) (form.Reach, error) {
	r, err := form.ParseReach(text)
	if err == nil {
		err = r.Check(true)
	}
	return r, err
}

// texts checks each item of a list.
func texts(fault reporter, path string, list []string, most int, what string, check func(string) error) {
	if len(list) > most {
		fault(path, "%s: more than %d", path, most)
		return
	}
	seen := make(map[string]bool)
	for i, text := range list {
		where := item(path, i)
		if err := check(text); err != nil {
			fault(where, "%s: %q is not %s: %v", where, text, what, err)
		} else if seen[text] {
			fault(where, "%s: %q is there already", where, text)
		}
		seen[text] = true
	}
}

func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// pooled is a pool's network, and where it stands.
type pooled struct {
	path string
	p    netip.Prefix
}

// prefixes checks the networks of a setup: pools have one for each family, and overlap
// nothing, the defaults of what is not given included where that is whole.
func (s Setup) prefixes(whole bool, fault reporter) {
	var pools []pooled
	for _, list := range []struct {
		path     string
		all      []netip.Prefix
		pool     bool
		standard []netip.Prefix
	}{
		{"admin_networks", s.AdminNetworks, false, nil}, {"routes", s.Routes, false, nil},
		{"quarantine", s.Quarantine, true, DefaultQuarantine}, {"full", s.Full, true, DefaultFull},
	} {
		if len(list.all) > maxList {
			fault(list.path, "%s: more than %d", list.path, maxList)
			continue
		}
		for i, p := range list.all {
			where := item(list.path, i)
			if err := form.Network(p); err != nil {
				fault(where, "%s: %v", where, err)
			} else if list.pool {
				pools = append(pools, checkPool(pools, pooled{list.path, p}, where, fault))
			}
		}
		if whole && list.pool && len(list.all) == 0 {
			for _, p := range list.standard {
				pools = append(pools, checkPool(pools, pooled{list.path, p}, list.path, fault))
			}
		}
	}
	for i, text := range s.Management {
		r, err := managed(text)
		if err != nil || r.Name != "" {
			continue
		}
		if at := slices.IndexFunc(pools, func(x pooled) bool { return x.p.Overlaps(r.To) }); at >= 0 {
			fault(item("management", i), "%s: %s is among devices' addresses, %s of %s", item("management", i), r.To, pools[at].p, pools[at].path)
		}
	}
}

// checkPool reports what is wrong with a network x of a pool, beside those before it.
func checkPool(before []pooled, x pooled, where string, fault reporter) pooled {
	for _, err := range []error{form.Hosts(x.p), form.Room(x.p)} {
		if err != nil {
			fault(where, "%s: %v", where, err)
		}
	}
	for _, other := range before {
		if other.path == x.path && other.p.Addr().Is4() == x.p.Addr().Is4() {
			fault(where, "%s: a pool has one network of each family", where)
		}
		if other.p.Overlaps(x.p) {
			fault(where, "%s: %s overlaps %s in %s", where, x.p, other.p, other.path)
		}
	}
	return x
}
