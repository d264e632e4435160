package plane

import (
	"context"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/stig"
)

// Stig checks the gateway of this network namespace against its configuration. Pools and
// the gateway's addresses in the tunnel, which no file holds, are what the data plane says.
// The process dhcp, if it is not 0, may have the sockets that DHCPv4 needs.
func Stig(ctx context.Context, c config.Config, dhcp int) stig.Report {
	return stig.Run(stig.Config{
		Host: hostRules(c), DHCP: dhcp,
		Held: func() (firewall.Ruleset, error) { return heldRules(ctx, c) },
	})
}
