package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	cmpmsg "lazaret/enroll/cmp"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// keepAlive is what a stock WireGuard app sends, in seconds, so that address translators
// on its way keep their state.
const keepAlive = 25

// deviceTunnel tells what a stock WireGuard app needs on a device, but for the private key,
// which is the device's own.
func (s *Server) deviceTunnel(w http.ResponseWriter, r *http.Request, _ identity) error {
	d, err := s.find(r.PathValue("device"))
	if err != nil {
		return err
	}
	if d.Stage == quarantine.Revoked {
		return fmt.Errorf("device %s: %w", d.ID, quarantine.ErrFinal)
	}
	profile, settings, err := s.releasedSettings(r.Context(), d)
	if err != nil {
		return err
	}
	t := api.Tunnel{Device: string(d.ID), Name: d.Name, Key: d.Key.String(), Addressing: cmp.Or(string(profile.Addressing), "follow")}
	if len(settings.Gateways) == 0 || len(settings.Gateways[0].Endpoints) == 0 {
		return fmt.Errorf("device %s: the gateway's tunnel has not been up yet: %w", d.ID, quarantine.ErrNotReady)
	}
	g := settings.Gateways[0]
	peer := api.TunnelPeer{Key: g.WireGuard, Endpoint: g.Endpoints[0], KeepAlive: keepAlive}
	for _, n := range networks(profile.Addressing, settings) {
		p := peer
		for _, to := range n.Routes {
			if sameFamily(to, n.Addresses) && !slices.Contains(p.AllowedIPs, to) {
				p.AllowedIPs = append(p.AllowedIPs, to)
			}
		}
		t.Configurations = append(t.Configurations, api.TunnelConfiguration{
			Name: n.Pool, Addresses: n.Addresses, DNS: append([]netip.Addr{}, n.DNS...), MTU: settings.MTU, Peer: p,
		})
	}
	reply(w, http.StatusOK, t)
	return nil
}

// releasedSettings are the settings that the device has, or would have, once released.
func (s *Server) releasedSettings(ctx context.Context, d quarantine.Record) (quarantine.Profile, cmpmsg.Settings, error) {
	profiles, err := s.cfg.Organization.Profiles.List(ctx)
	if err != nil {
		return quarantine.Profile{}, cmpmsg.Settings{}, err
	}
	profile := values(profiles)[d.Profile]
	d.Stage, d.Pool = quarantine.Routed, profile.Pool
	settings, err := s.cfg.Settings(ctx, d)
	return profile, settings, err
}

// networks are those that a stock app is configured for: one with fixed addressing, which
// serves in quarantine and out of it, else one for either. A released device reaches the
// management servers from its pool's address, as far as the pool lets it.
func networks(a quarantine.Addressing, s cmpmsg.Settings) []cmpmsg.Network {
	full := s.Full
	full.Routes = slices.Concat(s.Quarantine.Routes, s.Full.Routes)
	if a != quarantine.Fixed {
		return []cmpmsg.Network{s.Quarantine, full}
	}
	full.Pool = string(quarantine.Fixed)
	full.DNS = slices.Concat(s.Full.DNS, s.Quarantine.DNS)
	return []cmpmsg.Network{full}
}

func sameFamily(to netip.Prefix, own []netip.Prefix) bool {
	return slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr().Is4() == to.Addr().Is4() })
}
