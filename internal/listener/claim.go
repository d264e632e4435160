package listener

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/net/netutil"
)

// claimMost and claimEach bound connections to an unclaimed machine, in all and of one address.
const (
	claimMost = 256
	claimEach = 16
)

// Claim opens a listener for an unclaimed machine's door, with its bounds.
func Claim(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := TCP(ctx, "claims", at, false)
	if err != nil {
		return nil, err
	}
	return Each(netutil.LimitListener(l, claimMost), claimEach, Outside(nil), slog.New(slog.DiscardHandler)), nil
}
