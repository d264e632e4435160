package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"lazaret/internal/daemon"
)

// initFlags are what init says of the gateway to be.
type initFlags struct {
	made                       daemon.InitOptions // what flags give as it is
	name, state, plane         string
	adminDir, iface, user      string
	names, management          []string
	enrollAt, apiAt, endpoints []string
	quarantine, full, routes   []string
	port                       int
	asJSON                     bool
}

func initCommand(path *string) *cobra.Command {
	var v initFlags
	c := &cobra.Command{
		Use: "init", Args: cobra.NoArgs,
		Short: "Make a working gateway: configuration, keys, authorities, pools and the first administrator",
		Example: `  lazaretd init --enroll-name gw.example.com --management "192.0.2.10 tcp/443"
  lazaretd init --enroll-name 198.51.100.1 --management "192.0.2.10 tcp/443" --masquerade`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := v.options(*path, cmd.Flags().Changed)
			if err != nil {
				return err
			}
			own, err := findOwner(v.user)
			if err != nil {
				return err
			}
			if own != nil {
				o.Values["dataplane.control_uids"] = own.control()
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			fmt.Fprintln(os.Stderr, "making keys, authorities and the store; this takes a few seconds")
			made, err := daemon.Init(cmd.Context(), o, log)
			if err != nil {
				return err
			}
			if own != nil {
				if err := own.give(v.state); err != nil {
					return err
				}
			}
			return showInit(cmd, made, v.asJSON)
		},
	}
	v.define(c)
	return c
}

func (v *initFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&v.name, "name", daemon.DefaultName, "this gateway's name")
	f.StringVar(&v.state, "state", "/var/lib/lazaret", "directory of the control plane")
	f.StringVar(&v.plane, "dataplane-state", "/var/lib/lazaret-dataplane", "directory of the data plane")
	f.StringVar(&v.user, "user", "", "user that serve will run as (default: lazaret where root runs this and there is that user, else whoever runs this)")
	f.StringVar(&v.made.Organization, "organization", daemon.DefaultOrganization, "name in the authorities' certificates")
	f.StringVar(&v.made.Administrator, "administrator", daemon.DefaultAdministrator, "name of the first administrator")
	f.StringVar(&v.adminDir, "admin-dir", defaultAdminDir(), "where to put the administrator's credential")
	f.StringSliceVar(&v.names, "enroll-name", nil, "host name or address devices enroll at (required)")
	f.StringSliceVar(&v.enrollAt, "enroll-listen", nil, "where enrollment listens (default 0.0.0.0:443 and [::]:443)")
	f.StringSliceVar(&v.apiAt, "api-listen", nil, "where the API listens (default 127.0.0.1:8443)")
	f.StringSliceVar(&v.endpoints, "endpoint", nil, "host:port devices dial WireGuard at (default: first enroll name)")
	f.IntVar(&v.port, "port", 51820, "WireGuard's UDP port")
	f.StringVar(&v.iface, "interface", "lz0", "name of the WireGuard interface")
	f.StringArrayVar(&v.management, "management", nil, `what quarantine reaches, like "192.0.2.10 tcp/443" (required)`)
	f.StringSliceVar(&v.quarantine, "quarantine", daemon.DefaultQuarantine, "prefixes of the quarantine pool")
	f.StringSliceVar(&v.full, "full", daemon.DefaultFull, "prefixes of the full pool")
	f.StringSliceVar(&v.routes, "route", nil, "what released devices send into the tunnel (default: everything)")
	f.BoolVar(&v.made.Masquerade, "masquerade", false, "hide released devices behind the gateway's own address")
	f.DurationVar(&v.made.MaxValidity, "max-validity", daemon.DefaultMaxValidity, "longest validity of the management server's reports")
	f.BoolVar(&v.asJSON, "json", false, "print JSON")
	_ = c.MarkFlagRequired("enroll-name") // the flag is defined above
	_ = c.MarkFlagRequired("management")
}

// options are what the flags say; of configuration values, only those that were given.
func (v *initFlags) options(path string, changed func(flag string) bool) (daemon.InitOptions, error) {
	o := v.made
	o.ConfigPath, o.Management, o.AdminDir, o.MayRelease = path, v.management, v.adminDir, true
	var err error
	for _, x := range []struct {
		from []string
		to   *[]netip.Prefix
		what string
	}{{v.quarantine, &o.Quarantine, "quarantine"}, {v.full, &o.Full, "full"}, {v.routes, &o.Routes, "route"}} {
		if *x.to, err = prefixes(x.what, x.from); err != nil {
			return o, err
		}
	}
	o.Values = make(map[string]any)
	for key, value := range map[string]any{
		"name": v.name, "state": v.state, "dataplane.state": v.plane, "enroll.names": v.names, "enroll.listen": v.enrollAt, "api.listen": v.apiAt,
		"tunnel.endpoints": v.endpoints, "tunnel.port": v.port, "tunnel.interface": v.iface,
	} {
		if changed(flagOf[key]) {
			o.Values[key] = value
		}
	}
	return o, nil
}

// flagOf names the flag that gives each configuration value.
var flagOf = map[string]string{
	"name": "name", "state": "state", "dataplane.state": "dataplane-state", "enroll.names": "enroll-name", "enroll.listen": "enroll-listen", "api.listen": "api-listen",
	"tunnel.endpoints": "endpoint", "tunnel.port": "port", "tunnel.interface": "interface",
}

func defaultAdminDir() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "/root/.config/lazaret"
	}
	return filepath.Join(dir, "lazaret")
}

func prefixes(what string, list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() {
			return nil, fmt.Errorf("--%s %q: write a network like 10.66.0.0/16", what, s)
		}
		out = append(out, p)
	}
	return out, nil
}

func showInit(cmd *cobra.Command, made daemon.Initialized, asJSON bool) error {
	w := cmd.OutOrStdout()
	if asJSON {
		return json.NewEncoder(w).Encode(made)
	}
	fmt.Fprintf(w, `Made a gateway.
  configuration          %s
  administrator          %s
  management server      token in %s
  devices enroll at      %s
  root certificate       SHA-256 %s

Next, in two units or terminals:
  lazaretd dataplane -c %s
  lazaretd serve     -c %s
then create a first one-time password:
  lazaretctl otp create --user NAME
`, made.ConfigPath, made.AdminDir, made.TokenFile, made.EnrollURL, made.Root, made.ConfigPath, made.ConfigPath)
	return nil
}
