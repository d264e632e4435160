package appliance

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
)

// ParseSetup reads a Setup from YAML or JSON, which have the same keys, and checks it. The
// error is of type Faults and lists everything that is wrong. Documents of more than
// 64 KiB are refused.
func ParseSetup(text []byte) (Setup, error) { return readSetup(text, nil, true) }

// ReadSetup is ParseSetup for a setup that somebody is to complete: what is required may be
// missing. It takes the further keys in also, whose values are strings.
func ReadSetup(text []byte, also map[string]*string) (Setup, error) {
	return readSetup(text, also, false)
}

// ReadKeys reads a document of a few keys whose values are strings; other keys are refused.
// The error is of type Faults.
func ReadKeys(text []byte, keys map[string]*string) error {
	d := &document{lines: make(map[string]int), also: keys}
	var none struct{}
	if top := d.root(fromJSON(text)); top != nil {
		d.decode(top, reflect.ValueOf(&none).Elem(), "")
	}
	return d.sorted()
}

func readSetup(text []byte, also map[string]*string, whole bool) (Setup, error) {
	d := &document{lines: make(map[string]int), also: also}
	var s Setup
	top := d.root(fromJSON(text))
	if top == nil {
		return Setup{}, d.sorted()
	}
	d.decode(top, reflect.ValueOf(&s).Elem(), "")
	s.check(whole, func(path, format string, args ...any) { d.fault(d.at(path), format, args...) })
	if err := d.sorted(); err != nil {
		return Setup{}, err
	}
	return s, nil
}

// fromJSON writes the strings of a JSON document as YAML has them, which knows neither
// "\/" nor surrogates, and leaves its lines as they are. Other documents pass.
func fromJSON(text []byte) []byte {
	if len(text) > maxDocument || !json.Valid(text) {
		return text
	}
	var out []byte
	for i := 0; i < len(text); {
		end := i + 1
		if text[i] == '"' {
			for text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end++
			var word string
			if json.Unmarshal(text[i:end], &word) != nil {
				return text // cannot be: it is valid
			}
			out = strconv.AppendQuote(out, word)
		} else {
			out = append(out, text[i])
		}
		i = end
	}
	return out
}

// Check says what is wrong with a setup; the error is of type Faults, without lines.
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

// maxList bounds each list of a setup.
const maxList = 64

var (
	gatewayName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	dnsLabel    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
	digitsOnly  = regexp.MustCompile(`^[0-9.]+$`)
	window      = regexp.MustCompile(`^((Mon|Tue|Wed|Thu|Fri|Sat|Sun)([,-](Mon|Tue|Wed|Thu|Fri|Sat|Sun))* )?([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$`)
)

// IsDNSName says whether s can be a host's name or a domain (RFC 1123), without a dot at its end.
func IsDNSName(s string) bool {
	if len(s) == 0 || len(s) > 253 || digitsOnly.MatchString(s) {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !dnsLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// isHost says whether s is a name or an address.
func isHost(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() || IsDNSName(s)
}

func (s Setup) check(whole bool, fault reporter) {
	if s.Name != "" && !gatewayName.MatchString(s.Name) {
		fault("name", "name: lower-case letters, digits and hyphens, 63 at most")
	}
	words := func(path, text string) {
		if len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) || strings.TrimSpace(text) != text {
			fault(path, "%s: up to 64 bytes without line breaks, or spaces at the ends", path)
		}
	}
	words("organization", s.Organization)
	words("administrator", s.Administrator)
	if whole && len(s.EnrollNames) == 0 {
		fault("enroll_names", "enroll_names: name at least one, under which devices reach this gateway")
	}
	if whole && len(s.Management) == 0 {
		fault("management", `management: name at least one server, like "192.0.2.10 tcp/443"`)
	}
	texts(fault, "enroll_names", s.EnrollNames, "a name or an address", isHost)
	texts(fault, "endpoints", s.Endpoints, "host and port, like gw.example.com:51820", isEndpoint)
	texts(fault, "management", s.Management, `an address or a name with protocol and port, like "192.0.2.10 tcp/443"`, isReach)
	texts(fault, "time_servers", s.TimeServers, "a name or an address", isHost)
	s.prefixes(fault)
	if s.Network != nil {
		s.Network.check("network.", func(path, format string, args ...any) { fault(path, format, args...) })
	}
	if s.Proxy != "" && !isURL(s.Proxy, "http", "https") {
		fault("proxy", `proxy: write it like "http://192.0.2.3:3128"`)
	}
	if s.Updates.Channel != "" && !isURL(s.Updates.Channel, "https") {
		fault("updates.channel", "updates.channel: an https URL without a password, query or fragment")
	}
	if s.Updates.Window != "" && !window.MatchString(s.Updates.Window) {
		fault("updates.window", `updates.window: write it like "Sun 02:00-05:00"; the time is UTC`)
	}
}

// texts checks each item of a list.
func texts(fault reporter, path string, list []string, what string, ok func(string) bool) {
	if len(list) > maxList {
		fault(path, "%s: more than %d", path, maxList)
		return
	}
	seen := make(map[string]bool)
	for i, text := range list {
		if where := item(path, i); !ok(text) {
			fault(where, "%s: %q is not %s", where, text, what)
		} else if seen[text] {
			fault(where, "%s: %q is there already", where, text)
		}
		seen[text] = true
	}
}

func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// prefixes checks the networks of a setup: pools have one for each family, and overlap nothing.
func (s Setup) prefixes(fault reporter) {
	type place struct {
		path string
		p    netip.Prefix
	}
	var pools []place
	for _, list := range []struct {
		path string
		all  []netip.Prefix
		pool bool
	}{{"admin_networks", s.AdminNetworks, false}, {"quarantine", s.Quarantine, true}, {"full", s.Full, true}, {"routes", s.Routes, false}} {
		if len(list.all) > maxList {
			fault(list.path, "%s: more than %d", list.path, maxList)
			continue
		}
		families := make(map[bool]bool)
		for i, p := range list.all {
			where := item(list.path, i)
			if !p.IsValid() {
				continue // said while reading
			}
			if p != p.Masked() || p.Addr().Is4In6() {
				fault(where, "%s: %s is not a network: bits are set behind its prefix length", where, p)
				continue
			}
			if !list.pool {
				continue
			}
			if families[p.Addr().Is4()] {
				fault(where, "%s: a pool has one network of each family", where)
			}
			families[p.Addr().Is4()] = true
			for _, other := range pools {
				if other.p.Overlaps(p) {
					fault(where, "%s: %s overlaps %s in %s", where, p, other.p, other.path)
				}
			}
			pools = append(pools, place{list.path, p})
		}
	}
}

func isEndpoint(s string) bool {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Port() != 0 && isHost(a.Addr().String())
	}
	host, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	return ok && err == nil && n != 0 && isHost(host)
}

// isReach takes what pools take: an address, a network or a name, and a protocol with ports.
func isReach(s string) bool {
	f := strings.Fields(s)
	if len(f) == 0 || len(f) > 2 || strings.Join(f, " ") != s {
		return false
	}
	_, err := netip.ParsePrefix(f[0])
	address := err == nil
	if _, err := netip.ParseAddr(f[0]); err == nil {
		address = true
	}
	if !address && (!IsDNSName(f[0]) || len(f) == 1) {
		return false
	}
	return len(f) == 1 || isProtocol(f[1])
}

func isProtocol(s string) bool {
	if s == "icmp" {
		return true
	}
	proto, ports, ok := strings.Cut(s, "/")
	if proto != "tcp" && proto != "udp" {
		return false
	}
	from, to, ranged := strings.Cut(ports, "-")
	a, err := strconv.ParseUint(from, 10, 16)
	if err != nil || a == 0 {
		return !ok
	}
	if !ranged {
		return true
	}
	b, err := strconv.ParseUint(to, 10, 16)
	return err == nil && a <= b
}

func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !isHost(u.Hostname()) {
		return false
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			return true
		}
	}
	return false
}
