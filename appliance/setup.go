package appliance

import "net/netip"

// Setup is what makes an unclaimed machine a gateway: given by whoever claims it, or by a
// seed and completed by whoever claims it. What is empty has the default that lazaretd
// init has. JSON and YAML have the same keys; unknown ones are refused.
type Setup struct {
	Name          string         `yaml:"name,omitempty" json:"name,omitempty"`                     // this gateway's, default gateway
	Organization  string         `yaml:"organization,omitempty" json:"organization,omitempty"`     // in the authorities' certificates
	Administrator string         `yaml:"administrator,omitempty" json:"administrator,omitempty"`   // name of the first administrator
	EnrollNames   []string       `yaml:"enroll_names" json:"enroll_names"`                         // where devices enroll; required
	Endpoints     []string       `yaml:"endpoints,omitempty" json:"endpoints,omitempty"`           // where devices dial WireGuard, host:port
	Management    []string       `yaml:"management" json:"management"`                             // what quarantine reaches, like "192.0.2.10 tcp/443"; required
	AdminNetworks []netip.Prefix `yaml:"admin_networks,omitempty" json:"admin_networks,omitempty"` // who may reach the API; empty: the networks the machine is on
	Quarantine    []netip.Prefix `yaml:"quarantine,omitempty" json:"quarantine,omitempty"`         // pool prefixes, one per family
	Full          []netip.Prefix `yaml:"full,omitempty" json:"full,omitempty"`
	Routes        []netip.Prefix `yaml:"routes,omitempty" json:"routes,omitempty"` // what released devices send into the tunnel; empty: everything
	Masquerade    bool           `yaml:"masquerade,omitempty" json:"masquerade,omitempty"`
	Network       *Network       `yaml:"network,omitempty" json:"network,omitempty"` // nil: leave it as it is
	TimeServers   []string       `yaml:"time_servers,omitempty" json:"time_servers,omitempty"`
	Proxy         string         `yaml:"proxy,omitempty" json:"proxy,omitempty"` // for HTTP and HTTPS of the gateway itself
	Updates       Updates        `yaml:"updates,omitempty" json:"updates,omitzero"`
}

// Updates say how the machine keeps itself up to date.
type Updates struct {
	Channel   string `yaml:"channel,omitempty" json:"channel,omitempty"`     // URL of the channel's directory; empty: by upload alone
	Automatic bool   `yaml:"automatic,omitempty" json:"automatic,omitempty"` // install in the window; false: tell, and wait for a person
	Window    string `yaml:"window,omitempty" json:"window,omitempty"`       // "Sun 02:00-05:00" in UTC; days may be listed or left out; empty: 02:00-05:00
}
