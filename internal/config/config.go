package config

import (
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"lazaret/firewall"
	"lazaret/internal/form"
)

// DefaultPath is where lazaretd looks for its configuration.
const DefaultPath = "/etc/lazaret/lazaret.toml"

// Reference is the commented configuration file with every key at its default.
//
//go:embed reference.toml
var Reference []byte

// Config is one gateway's machine configuration, checked.
type Config struct {
	Name       string // of this gateway, unique in its organization
	State      string // directory of the control plane
	Enroll     Enroll
	API        API
	Tunnel     Tunnel
	Dataplane  Dataplane
	Quarantine Quarantine
	Resolver   Resolver
	Portal     Portal
	AlertEvery time.Duration      // how often the gateway looks for what people should know of
	In         []firewall.Service // what else may be reached from outside
	Out        []firewall.Service // what the gateway itself may open; From lists destinations
	Firewall   Firewall
	LogLevel   string
	LogJSON    bool
	Doubts     []Fault // what a new gateway's file may not say, and this one goes on with
}

// Enroll is the listener that faces the Internet.
type Enroll struct {
	Listen         []netip.AddrPort
	Names          []string // host names and addresses its certificate bears
	TrustedProxies []netip.Prefix
	ChannelBinding bool // off behind a proxy that ends TLS
	AllowSHA1      bool // OpenSSL 3.0's default MAC
	RepeatFor      time.Duration
}

// API is the administrators' and management servers' listener.
type API struct {
	Listen []netip.AddrPort
	Names  []string
	From   []netip.Prefix // empty: from anywhere
}

// Tunnel is the WireGuard link.
type Tunnel struct {
	Interface string
	Port      uint16
	Endpoints []string // host:port that devices dial
	MTU       int
	Userspace bool   // wireguard-go even where the kernel has WireGuard
	AgentPort uint16 // agent API on the gateway's tunnel addresses
}

// Dataplane is the privileged process.
type Dataplane struct {
	Socket      string
	State       string   // directory of its own: the WireGuard private key
	ControlUser []uint32 // user ids that may drive it
}

// Quarantine holds the times enforcement lives by.
type Quarantine struct {
	Freshness       time.Duration
	Alive           time.Duration
	CertificateLife time.Duration
}

// Load reads and checks the file of a gateway that there is: what earlier versions took in
// it is taken, and told in Doubts. The error is a *Faults with every fault in it.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading configuration: %w; make one with lazaretd init", err)
	}
	return read(path, text, true)
}

// Parse checks the text of a new gateway's configuration file; name is for messages. The
// error is a *Faults with every fault in it.
func Parse(name string, text []byte) (Config, error) { return read(name, text, false) }

func read(name string, text []byte, lenient bool) (Config, error) {
	d, err := parse(name, text)
	if err != nil {
		return Config{}, err
	}
	d.lenient = lenient
	c := Config{
		Name:  d.text("name", "gateway"),
		State: d.directory("state", "/var/lib/lazaret"),
		Enroll: Enroll{
			Listen:         d.addrPorts("enroll.listen", []string{"0.0.0.0:443", "[::]:443"}),
			Names:          d.enrollNames(),
			TrustedProxies: d.prefixes("enroll.trusted_proxies"),
			ChannelBinding: d.boolean("enroll.channel_binding", true),
			AllowSHA1:      d.boolean("enroll.allow_sha1", true),
			RepeatFor:      d.duration("enroll.repeat_for", time.Hour, time.Second, time.Hour),
		},
		API: API{
			Listen: d.addrPorts("api.listen", []string{"127.0.0.1:8443"}),
			Names:  d.names("api.names"),
			From:   d.prefixes("api.from"),
		},
		Tunnel:     d.tunnel(),
		Dataplane:  d.dataplane(),
		Quarantine: d.quarantine(),
		Resolver:   d.resolver(),
		Portal:     d.portal(),
		AlertEvery: d.duration("alerts.every", time.Minute, time.Second, time.Hour),
		In:         d.services("firewall.in", "from", nil),
		Out:        d.services("firewall.out", "to", []string{"udp/53", "tcp/53", "udp/123"}),
		Firewall:   d.firewall(),
		LogLevel:   d.choice("log.level", "info", "debug", "info", "warn", "error"),
		LogJSON:    d.choice("log.format", "text", "text", "json") == "json",
	}
	d.portsInside(c)
	if !form.GatewayName(c.Name) {
		d.fault("name", fmt.Sprintf("is %q", c.Name), "use "+form.GatewayNameIs)
	}
	for key, n := range map[string]int{"enroll.listen": len(c.Enroll.Listen), "api.listen": len(c.API.Listen)} {
		if n == 0 {
			d.fault(key, "lists no address", `write at least one, like "0.0.0.0:443"`)
		}
	}
	d.checkFirewall(c)
	d.unknown()
	if err := d.faults.err(); err != nil {
		return Config{}, err
	}
	c.Doubts = d.doubts.List
	return c, nil
}

func (d *document) tunnel() Tunnel {
	t := Tunnel{
		Interface: d.text("tunnel.interface", "lz0"),
		Port:      uint16(d.number("tunnel.port", 51820, 1, 65535)),
		Endpoints: each(d, "tunnel.endpoints", nil, `write host and port, like "gw.example.com:51820"`, d.same("tunnel.endpoints", form.Endpoint, earlierEndpoint)),
		MTU:       int(d.number("tunnel.mtu", 1420, 1280, 9000)),
		Userspace: d.boolean("tunnel.userspace", false),
		AgentPort: uint16(d.number("tunnel.agent_port", 8444, 1, 65535)),
	}
	if len(t.Interface) == 0 || len(t.Interface) > 15 {
		d.fault("tunnel.interface", fmt.Sprintf("is %q", t.Interface), "use 1 to 15 characters, as the kernel demands")
	}
	return t
}

func (d *document) dataplane() Dataplane {
	return Dataplane{
		Socket: d.directory("dataplane.socket", "/run/lazaret/dataplane.sock"),
		State:  d.directory("dataplane.state", "/var/lib/lazaret-dataplane"),
		ControlUser: each(d, "dataplane.control_uids", []string{"0"}, `write user ids, like "997"`, func(s string) (uint32, error) {
			n, err := strconv.ParseUint(s, 10, 32)
			return uint32(n), err
		}),
	}
}

func (d *document) quarantine() Quarantine {
	return Quarantine{
		Freshness:       d.duration("quarantine.freshness", time.Minute, 2*time.Second, 24*time.Hour),
		Alive:           d.duration("quarantine.alive", 24*time.Hour, 2*time.Second, 48*time.Hour),
		CertificateLife: d.duration("quarantine.certificate_life", 90*24*time.Hour, time.Minute, 2*365*24*time.Hour),
	}
}

func (d *document) directory(key, def string) string {
	s := d.text(key, def)
	if !filepath.IsAbs(s) {
		d.fault(key, fmt.Sprintf("is %q", s), "write a full path, like "+def)
	}
	return s
}

func (d *document) choice(key, def string, allowed ...string) string {
	s := d.text(key, def)
	if !slices.Contains(allowed, s) {
		d.fault(key, fmt.Sprintf("is %q", s), fmt.Sprintf("write one of %v", allowed))
		return def
	}
	return s
}

// same checks a text that stays as it is written.
func (d *document) same(key string, check func(string) error, earlier func(string) bool) func(string) (string, error) {
	return func(s string) (string, error) { return s, d.tolerated(key, s, check, earlier) }
}

func (d *document) names(key string) []string {
	return each(d, key, nil, "write host names or addresses without port", d.same(key, form.Host, earlierHost))
}

// Logger returns the one logger, as the file says.
func (c Config) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked when read; the zero level is info
	o := &slog.HandlerOptions{Level: level}
	if c.LogJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
