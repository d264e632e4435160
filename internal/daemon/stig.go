package daemon

import (
	"context"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/stig"
)

// Stig checks the gateway of this network namespace against its configuration. Pools and
// the gateway's addresses in the tunnel, which no file holds, are what the data plane says.
func Stig(ctx context.Context, c config.Config) stig.Report {
	return stig.Run(stig.Config{
		Host: hostRules(c),
		Held: func() (firewall.Ruleset, error) { return heldRules(ctx, c) },
	})
}
