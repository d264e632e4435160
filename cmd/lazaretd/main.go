// Lazaretd is the gateway: `lazaretd serve` is the control plane, without privileges,
// and `lazaretd dataplane` the data plane, which owns the firewall table and the tunnel.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"lazaret/internal/config"
	"lazaret/internal/daemon"
	"lazaret/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lazaretd:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "lazaretd", Short: "Enrollment gateway and quarantine VPN", SilenceUsage: true, SilenceErrors: true,
		Version: version.String(),
	}
	c.PersistentFlags().StringVarP(&path, "config", "c", config.DefaultPath, "configuration file")
	c.AddCommand(
		run("serve", "Run the control plane: enrollment, CA, policy, API", &path, func(ctx context.Context, c config.Config, log *slog.Logger) error {
			return daemon.Serve(ctx, c, version.String(), log, notifyReady)
		}),
		run("dataplane", "Run the data plane: firewall table and WireGuard link (needs CAP_NET_ADMIN)", &path, func(ctx context.Context, c config.Config, log *slog.Logger) error {
			return daemon.Dataplane(ctx, c, log, notifyReady)
		}),
		initCommand(&path), rootCommand(&path), clockCommand(&path), checkCommand(&path), firewallCommand(&path), stigCommand(&path), referenceCommand(), versionCommand(),
	)
	return c
}

// run makes a command that loads the configuration and runs one long-lived part.
func run(use, short string, path *string, part func(context.Context, config.Config, *slog.Logger) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := config.Load(*path)
		if err != nil {
			return err
		}
		return part(cmd.Context(), c, c.Logger(os.Stderr).With("process", use))
	}}
}

// notifyReady tells the service manager, where there is one (sd_notify(3)).
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: strings.Replace(path, "@", "\x00", 1), Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1")) // nobody listening is the manager's affair
}

func initCommand(path *string) *cobra.Command {
	o := daemon.InitOptions{Values: map[string]any{}}
	var (
		name, state, plane         string
		adminDir, iface            string
		names, management          []string
		enrollAt, apiAt, endpoints []string
		quarantine, full, routes   []string
		port                       int
		asJSON                     bool
	)
	c := &cobra.Command{
		Use: "init", Args: cobra.NoArgs,
		Short: "Make a working gateway: configuration, keys, authorities, pools and the first administrator",
		Example: `  lazaretd init --enroll-name gw.example.com --management "192.0.2.10 tcp/443"
  lazaretd init --enroll-name 198.51.100.1 --management "192.0.2.10 tcp/443" --masquerade`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.ConfigPath, o.Management, o.AdminDir = *path, management, adminDir
			var err error
			for _, x := range []struct {
				from []string
				to   *[]netip.Prefix
				what string
			}{{quarantine, &o.Quarantine, "quarantine"}, {full, &o.Full, "full"}, {routes, &o.Routes, "route"}} {
				if *x.to, err = prefixes(x.what, x.from); err != nil {
					return err
				}
			}
			for key, v := range map[string]any{
				"name": name, "state": state, "dataplane.state": plane, "enroll.names": names, "enroll.listen": enrollAt, "api.listen": apiAt,
				"tunnel.endpoints": endpoints, "tunnel.port": port, "tunnel.interface": iface,
			} {
				if cmd.Flags().Changed(flagOf[key]) {
					o.Values[key] = v
				}
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			fmt.Fprintln(os.Stderr, "making keys, authorities and the store; this takes a few seconds")
			made, err := daemon.Init(cmd.Context(), o, log)
			if err != nil {
				return err
			}
			return showInit(cmd, made, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "gateway", "this gateway's name")
	f.StringVar(&state, "state", "/var/lib/lazaret", "directory of the control plane")
	f.StringVar(&plane, "dataplane-state", "/var/lib/lazaret-dataplane", "directory of the data plane")
	f.StringVar(&o.Organization, "organization", "Lazaret", "name in the authorities' certificates")
	f.StringVar(&o.Administrator, "administrator", "administrator", "name of the first administrator")
	f.StringVar(&adminDir, "admin-dir", defaultAdminDir(), "where to put the administrator's credential")
	f.StringSliceVar(&names, "enroll-name", nil, "host name or address devices enroll at (required)")
	f.StringSliceVar(&enrollAt, "enroll-listen", nil, "where enrollment listens (default 0.0.0.0:443 and [::]:443)")
	f.StringSliceVar(&apiAt, "api-listen", nil, "where the API listens (default 127.0.0.1:8443)")
	f.StringSliceVar(&endpoints, "endpoint", nil, "host:port devices dial WireGuard at (default: first enroll name)")
	f.IntVar(&port, "port", 51820, "WireGuard's UDP port")
	f.StringVar(&iface, "interface", "lz0", "name of the WireGuard interface")
	f.StringArrayVar(&management, "management", nil, `what quarantine reaches, like "192.0.2.10 tcp/443" (required)`)
	f.StringSliceVar(&quarantine, "quarantine", []string{"10.66.0.0/16", "fd66:6c61:7a61::/64"}, "prefixes of the quarantine pool")
	f.StringSliceVar(&full, "full", []string{"10.67.0.0/16", "fd67:6c61:7a61::/64"}, "prefixes of the full pool")
	f.StringSliceVar(&routes, "route", nil, "what released devices send into the tunnel (default: everything)")
	f.BoolVar(&o.Masquerade, "masquerade", false, "hide released devices behind the gateway's own address")
	f.DurationVar(&o.MaxValidity, "max-validity", time.Hour, "longest validity of the management server's reports")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	o.MayRelease = true
	_ = c.MarkFlagRequired("enroll-name") // the flag is defined above
	_ = c.MarkFlagRequired("management")
	return c
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

func rootCommand(path *string) *cobra.Command {
	c := &cobra.Command{Use: "root", Short: "The root key: export it, and remove it from this gateway"}
	var remove bool
	export := &cobra.Command{
		Use: "export FILE", Short: "Write the root's certificate and private key to a new file (stop serve first)", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(*path)
			if err != nil {
				return err
			}
			return daemon.ExportRoot(cmd.Context(), c, args[0], remove, c.Logger(os.Stderr))
		},
	}
	export.Flags().BoolVar(&remove, "remove", false, "forget the key here once it is written; daily work does not need it")
	c.AddCommand(export)
	return c
}

func clockCommand(path *string) *cobra.Command {
	c := &cobra.Command{Use: "clock", Short: "The stored time that nothing is issued behind"}
	c.AddCommand(&cobra.Command{
		Use: "reset", Short: "Set the stored time back to the clock and cancel pending one-time passwords (stop serve first)", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(*path)
			if err != nil {
				return err
			}
			return daemon.ResetClock(cmd.Context(), c, c.Logger(os.Stderr))
		},
	})
	return c
}

func checkCommand(path *string) *cobra.Command {
	return &cobra.Command{Use: "check", Short: "Read the configuration and say what is wrong with it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := config.Load(*path)
			if f, ok := errors.AsType[*config.Faults](err); ok {
				return f
			}
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), *path+": no faults")
			}
			return err
		}}
}

func referenceCommand() *cobra.Command {
	return &cobra.Command{Use: "reference", Short: "Print the commented reference configuration", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(config.Reference)
			return err
		}}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) }}
}
