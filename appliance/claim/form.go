package claim

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"lazaret/appliance"
)

// entry is one thing the page asks for. Its name is the key in Setup's JSON where there is one.
type entry struct {
	Name, Label, Help, Value string
	Kind                     string // text, area, check or choice
	Rows                     int
	Required, Code, Card     bool // Card: only for one card's own address
	Options                  []option
	Faults                   []string
}

type option struct{ Value, Label string }

// section is some entries under one heading.
type section struct {
	Title, Intro string
	Name         string // of its kind, where it looks otherwise than the rest
	More         string // behind Intro
	Folded       bool
	Entries      []*entry
}

// form is what the page shows, with what was typed and what is wrong with it.
type form struct {
	Sections []section
	Faults   []string // of the whole
	cards    []Card
	only     bool // of an administrator
}

// Names of entries that are no keys of Setup.
const (
	entryCode    = "code"
	entryClock   = "clock"
	entryMode    = "mode"
	entryCard    = "card"
	entryAddress = "address"
	entryGateway = "gateway"
	entryDNS     = "dns"
	entryVLAN    = "vlan"
	entryChannel = "channel"
	entryAuto    = "automatic"
	entryWindow  = "window"
)

// How the network is to be.
const (
	modeLeave  = "leave"
	modeDHCP   = "dhcp"
	modeStatic = "static"
)

// newForm is an empty form with its defaults: what a seed said, and from where it is asked.
func newForm(about About, clock Clock, from netip.Addr) *form {
	if about.Administrator {
		return administratorForm(about, clock)
	}
	s := about.Setup
	admin := s.AdminNetworks
	if len(admin) == 0 {
		admin = suggest(about.Networks, from)
	}
	cards := []option{}
	for _, c := range about.Links {
		label := c.Name + ", " + c.MAC
		if !c.Up {
			label += " (no cable)"
		}
		cards = append(cards, option{c.Name, label})
	}
	if len(cards) == 0 {
		cards = []option{{"", "the first one"}}
	}
	f := &form{cards: about.Links}
	f.Sections = []section{
		{Title: "Claim code", Entries: []*entry{
			{Name: entryCode, Label: "Code on the machine's screen", Kind: "text", Required: true, Code: true, Help: "Seven groups of three letters and digits. Capitals, spaces and dashes do not matter."},
		}},
		clockSection(clock, !about.SeedCode),
		{Title: "The gateway", Entries: []*entry{
			{Name: "name", Label: "Name of this gateway", Kind: "text", Value: cmp.Or(s.Name, "gateway"), Help: "Lower-case letters, digits and hyphens."},
			{Name: "organization", Label: "Organization", Kind: "text", Value: cmp.Or(s.Organization, "Lazaret"), Help: "Stands in the certificates that are made here. It cannot be changed later."},
			{Name: "administrator", Label: "Administrator", Kind: "text", Value: cmp.Or(s.Administrator, "administrator"), Help: "The first administrator's name, yours perhaps. It stands in the log beside what is done."},
			{Name: "enroll_names", Label: "Names devices enroll at", Kind: "area", Rows: 2, Required: true, Value: lines1(s.EnrollNames), Help: "Host names or addresses that lead to this machine from where devices are, like enroll.example.com; one on each line, the first is what users are told."},
			{Name: "management", Label: "Management servers", Kind: "area", Rows: 3, Required: true, Value: lines1(s.Management), Help: "All that a device in quarantine reaches, one on each line, like 192.0.2.10 tcp/443 or mdm.example.com tcp/443."},
		}},
		{Title: "Administration", Entries: []*entry{
			{Name: "admin_networks", Label: "Administrators' networks", Kind: "area", Rows: 3, Value: lines1(admin), Help: "Only from these networks is the gateway administered. Your own must be among them, or you shut yourself out. Empty: the networks the machine is on."},
		}},
		{Title: "The machine's network", Entries: []*entry{
			{Name: entryMode, Label: "How it is connected", Kind: "choice", Value: modeLeave, Options: []option{
				{modeLeave, "Leave it as it is now"}, {modeDHCP, "Ask a DHCP server, on one card"}, {modeStatic, "A fixed address, on one card"},
			}, Help: "A change takes effect when the gateway starts."},
			{Name: entryCard, Label: "Network card", Kind: "select", Options: cards, Card: true, Value: cards[0].Value},
			{Name: entryVLAN, Label: "VLAN", Kind: "text", Card: true, Help: "A number from 1 to 4094, if the gateway is on a tagged one; mostly empty."},
			{Name: entryAddress, Label: "Addresses, with prefix length", Kind: "area", Rows: 2, Card: true, Help: "For a fixed address, like 192.0.2.20/24 and 2001:db8::20/64; one on each line."},
			{Name: entryGateway, Label: "Routers", Kind: "area", Rows: 2, Card: true, Help: "For a fixed address, one of each family, like 192.0.2.1."},
			{Name: entryDNS, Label: "DNS servers", Kind: "area", Rows: 2, Card: true, Help: "Addresses; one on each line. Needed with a fixed address."},
		}},
		{Title: "Addresses of devices, and more", Folded: true, Intro: "All of this has defaults that work.", Entries: []*entry{
			{Name: "quarantine", Label: "Networks for devices in quarantine", Kind: "area", Rows: 2, Value: lines1(s.Quarantine), Help: "One IPv4 and one IPv6 network inside the tunnel, unused elsewhere. Empty: 10.66.0.0/16 and fd66:6c61:7a61::/64."},
			{Name: "full", Label: "Networks for released devices", Kind: "area", Rows: 2, Value: lines1(s.Full), Help: "Likewise. Empty: 10.67.0.0/16 and fd67:6c61:7a61::/64."},
			{Name: "routes", Label: "What released devices send through the gateway", Kind: "area", Rows: 2, Value: lines1(s.Routes), Help: "Networks, one on each line. Empty: everything."},
			{Name: "masquerade", Label: "Hide released devices behind the gateway's own address", Kind: "check", Value: truth(s.Masquerade), Help: "Where your routers know no way back to the networks above (NAT)."},
			{Name: "endpoints", Label: "Where devices dial WireGuard", Kind: "area", Rows: 2, Value: lines1(s.Endpoints), Help: "Host and port, like gw.example.com:51820. Empty: the first enrollment name, port 51820 (UDP)."},
			{Name: "time_servers", Label: "Time servers", Kind: "area", Rows: 2, Value: lines1(s.TimeServers), Help: "Names or addresses. Empty: the defaults."},
			{Name: "proxy", Label: "Proxy", Kind: "text", Value: s.Proxy, Help: "For the gateway's own HTTP and HTTPS, by address, like http://192.0.2.3:3128. Empty: none."},
			{Name: entryChannel, Label: "Update channel", Kind: "text", Value: s.Updates.Channel, Help: "URL from which the machine takes signed updates. Empty: updates are uploaded by you."},
			{Name: entryAuto, Label: "Install updates by itself", Kind: "check", Value: truth(s.Updates.Automatic), Help: "Within the window below; otherwise it tells you."},
			{Name: entryWindow, Label: "Update window", Kind: "text", Value: s.Updates.Window, Help: "In UTC, like Sun 02:00-05:00. Empty: every day 02:00-05:00."},
		}},
	}
	f.network(s.Network)
	return f
}

// network says that a seed gave a network, which the form does not take apart.
func (f *form) network(n *appliance.Network) {
	if n == nil {
		return
	}
	e := f.entry(entryMode)
	e.Options[0].Label = "As the machine's seed says"
}

// administratorForm asks for what a new administrator of a gateway takes.
func administratorForm(about About, clock Clock) *form {
	return &form{only: true, Sections: []section{
		{Title: "Claim code", Entries: []*entry{
			{Name: entryCode, Label: "Code on the machine's screen", Kind: "text", Required: true, Code: true, Help: "Seven groups of three letters and digits. Capitals, spaces and dashes do not matter."},
		}},
		clockSection(clock, !about.SeedCode),
		{Title: "The administrator", Entries: []*entry{
			{Name: "administrator", Label: "Administrator", Kind: "text", Value: cmp.Or(about.Setup.Administrator, "administrator"), Help: "The new administrator's name, yours perhaps. It stands in the log beside what is done."},
		}},
	}}
}

// suggest are the networks that administrators are probably on: the machine's, and whoever asks.
func suggest(networks []netip.Prefix, from netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range networks {
		if p = p.Masked(); !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	inside := slices.ContainsFunc(out, func(p netip.Prefix) bool { return p.Contains(from) })
	if from.IsValid() && !inside && !from.IsLinkLocalUnicast() && !from.IsLoopback() {
		out = append(out, netip.PrefixFrom(from, from.BitLen()))
	}
	return out
}

func truth(b bool) string {
	if b {
		return "on"
	}
	return ""
}

func lines1[T any](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return strings.Join(out, "\n")
}

func (f *form) entry(name string) *entry {
	for _, s := range f.Sections {
		for _, e := range s.Entries {
			if e.Name == name {
				return e
			}
		}
	}
	return nil
}

// fault notes what is wrong, beside its entry where there is one.
func (f *form) fault(name, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	switch name {
	case "network":
		name = entryAddress
	case "updates":
		name = entryChannel
		if strings.Contains(text, "window") {
			name = entryWindow
		}
	}
	if e := f.entry(name); e != nil {
		e.Faults = append(e.Faults, text)
	} else {
		f.Faults = append(f.Faults, text)
	}
}

// Faulty are the entries that something is wrong with.
func (f *form) Faulty() []*entry {
	var out []*entry
	for _, s := range f.Sections {
		for _, e := range s.Entries {
			if len(e.Faults) > 0 {
				out = append(out, e)
			}
		}
	}
	return out
}

// Open says whether a folded section must be seen.
func (s section) Open() bool {
	return slices.ContainsFunc(s.Entries, func(e *entry) bool { return len(e.Faults) > 0 })
}

func (f *form) bad() bool { return len(f.Faults) > 0 || len(f.Faulty()) > 0 }

// take puts in what was typed.
func (f *form) take(v url.Values) {
	for _, s := range f.Sections {
		for _, e := range s.Entries {
			e.Value = strings.ReplaceAll(strings.TrimSpace(v.Get(e.Name)), "\r\n", "\n")
		}
	}
}

// setup reads the form: a code, and what the gateway is to be. All faults are noted in it.
// seeded is the network that "leave" stands for; nil: the machine's present one.
func (f *form) setup(seeded *appliance.Network) (Code, appliance.Setup) {
	at := func(name string) string { return f.entry(name).Value }
	code, err := ParseCode(at(entryCode))
	if at(entryCode) == "" {
		f.fault(entryCode, "type the code that the machine's screen shows")
	} else if err != nil {
		f.fault(entryCode, "%v", err)
	}
	if e := f.entry(entryClock); e != nil && e.Value == "" {
		f.fault(entryClock, "look at the time above, and tick this if it is right")
	}
	if f.only {
		s := appliance.Setup{Administrator: at("administrator")}
		for _, x := range CheckRequest(Request{Setup: s, AdministratorOnly: true}) {
			f.fault(x.Field, "%s", x.What)
		}
		return code, s
	}
	s := appliance.Setup{
		Name: at("name"), Organization: at("organization"), Administrator: at("administrator"),
		EnrollNames: words(at("enroll_names")), Endpoints: words(at("endpoints")), Management: reaches(at("management")),
		AdminNetworks: f.prefixes("admin_networks"), Quarantine: f.prefixes("quarantine"), Full: f.prefixes("full"), Routes: f.prefixes("routes"),
		Masquerade: at("masquerade") != "", TimeServers: words(at("time_servers")), Proxy: at("proxy"), Network: seeded,
		Updates: appliance.Updates{Channel: at(entryChannel), Automatic: at(entryAuto) != "", Window: at(entryWindow)},
	}
	switch mode := at(entryMode); mode {
	case modeLeave:
	case modeDHCP, modeStatic:
		n := f.link(mode)
		s.Network = &n
	default:
		f.fault(entryMode, "choose one")
	}
	for _, x := range Check(s) {
		f.fault(x.Field, "%s", x.What)
	}
	return code, s
}

// link is a network of one card, by DHCP or with a fixed address.
func (f *form) link(mode string) appliance.Network {
	l := appliance.Link{Nameservers: appliance.Nameservers{Addresses: f.addresses(entryDNS)}}
	six := false
	if mode == modeDHCP {
		l.DHCP4, l.AcceptRA = true, true
	} else {
		for _, w := range words(f.entry(entryAddress).Value) {
			p, err := netip.ParsePrefix(w)
			if err != nil {
				f.fault(entryAddress, "%q is not an address with its prefix length, like 192.0.2.20/24", w)
				continue
			}
			six = six || p.Addr().Is6()
			l.Addresses = append(l.Addresses, p)
		}
		l.AcceptRA = !six
		if f.entry(entryAddress).Value == "" {
			f.fault(entryAddress, "give the address, or choose DHCP")
		}
		for _, a := range f.addresses(entryGateway) {
			l.Routes = append(l.Routes, appliance.Route{To: "default", Via: a})
		}
	}
	card := Card{Name: "eth0"}
	if i := slices.IndexFunc(f.cards, func(c Card) bool { return c.Name == f.entry(entryCard).Value }); i >= 0 {
		card = f.cards[i]
	} else if len(f.cards) > 0 {
		f.fault(entryCard, "choose one of the machine's cards")
	}
	e := appliance.Ethernet{Match: appliance.Match{MAC: card.MAC}, Link: l}
	n := appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{card.Name: e}}
	if text := f.entry(entryVLAN).Value; text != "" {
		id, err := strconv.Atoi(text)
		if err != nil || id < 1 || id > 4094 {
			f.fault(entryVLAN, "%q is not a number from 1 to 4094", text)
			return n
		}
		e.Link = appliance.Link{}
		n.Ethernets[card.Name] = e
		n.VLANs = map[string]appliance.VLAN{fmt.Sprintf("vlan%d", id): {ID: id, On: card.Name, Link: l}}
	}
	return n
}

// words are separated by spaces, commas or line ends.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,;\t\n", r) })
}

// reaches are one to a line, with single spaces between their words.
func reaches(text string) []string {
	var out []string
	for l := range strings.Lines(text) {
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// prefixes reads networks; an address alone is a network of its own.
func (f *form) prefixes(name string) []netip.Prefix {
	var out []netip.Prefix
	for _, w := range words(f.entry(name).Value) {
		if a, err := netip.ParseAddr(w); err == nil && a.Zone() == "" {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(w)
		if err != nil {
			f.fault(name, "%q is not a network, like 192.0.2.0/24", w)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (f *form) addresses(name string) []netip.Addr {
	var out []netip.Addr
	for _, w := range words(f.entry(name).Value) {
		a, err := netip.ParseAddr(w)
		if err != nil {
			f.fault(name, "%q is not an address, like 192.0.2.1", w)
			continue
		}
		out = append(out, a)
	}
	return out
}

// cutPort parts a host from its port, as far as there is one.
func cutPort(host string) (name, port string, ok bool) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		return host[:i], host[i+1:], true
	}
	return host, "", false
}
