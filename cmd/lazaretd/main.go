// Lazaretd is the gateway: `lazaretd serve` is the control plane, without privileges,
// and `lazaretd dataplane` the data plane, which owns the firewall table and the tunnel.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"lazaret/appliance/supervise"
	"lazaret/cmd/internal/strict"
	"lazaret/internal/config"
	"lazaret/internal/daemon"
	"lazaret/internal/machine"
	"lazaret/internal/notify"
	"lazaret/internal/plane"
	"lazaret/internal/version"
)

func main() {
	if os.Getpid() == 1 && os.Args[0] == "/init" { // the kernel started it: it is the appliance
		fmt.Fprintln(os.Stderr, "lazaretd:", machine.Run(version.Number))
		select {} // the watchdog ends this; process number 1 may not
	}
	supervise.TakeName()
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
		run("serve", "Run the control plane: enrollment, CA, policy, API", &path, confineServe, func(ctx context.Context, c config.Config, log *slog.Logger) error {
			return daemon.Serve(ctx, c, version.String(), log, notifyReady)
		}),
		run("dataplane", "Run the data plane: firewall table and WireGuard link (needs CAP_NET_ADMIN)", &path, confinePlane, func(ctx context.Context, c config.Config, log *slog.Logger) error {
			return plane.Run(ctx, c, log, notifyReady)
		}),
		initCommand(&path), rootCommand(&path), clockCommand(&path), checkCommand(&path), firewallCommand(&path), stigCommand(&path), referenceCommand(), versionCommand(),
		claimCommand(), makeCommand(),
	)
	return strict.Groups(c)
}

// run makes a command that loads the configuration and runs one long-lived part, which with
// --confine gives up first what it does not need.
func run(use, short string, path *string, confine func(config.Config, string, *slog.Logger) error, part func(context.Context, config.Config, *slog.Logger) error) *cobra.Command {
	var confined bool
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := config.Load(*path)
		if err != nil {
			return err
		}
		log := c.Logger(os.Stderr).With("process", use)
		for _, d := range c.Doubts {
			log.Warn("the configuration should be corrected", "line", d.Line, "key", d.Key, "what", d.What, "remedy", d.Remedy)
		}
		if confined {
			if err := confine(c, *path, log); err != nil {
				return err
			}
		}
		return part(cmd.Context(), c, log)
	}}
	c.Flags().BoolVar(&confined, "confine", false, "give up what the process does not need, by seccomp and Landlock")
	_ = c.Flags().MarkHidden("confine") // it is there
	return c
}

// notifyReady tells the service manager, where there is one.
func notifyReady() { notify.Ready() }

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
			c, err := config.Load(*path)
			if f, ok := errors.AsType[*config.Faults](err); ok {
				return f
			}
			if err == nil {
				for _, d := range c.Doubts {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: line %d: %s: %s; %s\n", *path, d.Line, d.Key, d.What, d.Remedy)
				}
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
