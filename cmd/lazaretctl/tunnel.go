package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

func (s *session) deviceConfig() *cobra.Command {
	var pool string
	c := &cobra.Command{
		Use: "config DEVICE", Short: "Print configuration files for a stock WireGuard app", Args: cobra.ExactArgs(1),
		Long: `Print configuration files for a stock WireGuard app on a device, as wg-quick reads them.

With fixed addressing there is one; else one for quarantine and one for the pool that the
device is released into, of which --pool prints one alone. The private key is the device's
own and is not known here: put it in the place of the line that says so.`,
		ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, raw, err := ask[api.Tunnel](cmd.Context(), s, http.MethodGet, "/api/v1/devices/"+url.PathEscape(args[0])+"/tunnel", nil)
			if err != nil {
				return err
			}
			if pool != "" {
				t.Configurations = slices.DeleteFunc(t.Configurations, func(c api.TunnelConfiguration) bool { return c.Name != pool })
				if len(t.Configurations) == 0 {
					return fmt.Errorf("device %s has no configuration for pool %q", t.Name, pool)
				}
			}
			return s.show(cmd, raw, func(w io.Writer) { showTunnel(w, t) })
		}}
	c.Flags().StringVar(&pool, "pool", "", "only the configuration for this pool")
	return c
}

// showTunnel prints wg-quick(8) files, one after the other.
func showTunnel(w io.Writer, t api.Tunnel) {
	for i, c := range t.Configurations {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "# %s, %s\n[Interface]\n", t.Name, c.Name)
		fmt.Fprintf(w, "# the device's own, to which belongs the public key\n# %s\nPrivateKey = PRIVATE KEY OF THE DEVICE\n", t.Key)
		fmt.Fprintf(w, "Address = %s\n", joined(c.Addresses))
		if len(c.DNS) > 0 {
			fmt.Fprintf(w, "DNS = %s\n", joined(c.DNS))
		}
		fmt.Fprintf(w, "MTU = %d\n\n[Peer]\nPublicKey = %s\nEndpoint = %s\n", c.MTU, c.Peer.Key, c.Peer.Endpoint)
		fmt.Fprintf(w, "AllowedIPs = %s\nPersistentKeepalive = %d\n", joined(c.Peer.AllowedIPs), c.Peer.KeepAlive)
	}
}

func joined[T fmt.Stringer](items []T) string {
	out := make([]string, len(items))
	for i, item := range items {
		out[i] = item.String()
	}
	return strings.Join(out, ", ")
}
