package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"lazaret/internal/daemon"
	"lazaret/internal/making"
)

// makeCommand makes a gateway of a claim; the machine's first process runs it as the user that
// will own it.
func makeCommand() *cobra.Command {
	at := making.AppliancePlaces
	var confined bool
	c := &cobra.Command{Use: "make", Hidden: true, Args: cobra.NoArgs, Short: "Make a gateway from a claim on standard input; an appliance's first process runs this",
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("process", "make")
			if confined {
				if err := confineMake(at, log); err != nil {
					return err
				}
			}
			return daemon.ServeMake(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), at, log)
		}}
	f := c.Flags()
	f.BoolVar(&confined, "confine", false, "give up what the process does not need, by seccomp and Landlock")
	f.StringVar(&at.State, "state", at.State, "directory of the control plane")
	f.StringVar(&at.Plane, "dataplane-state", at.Plane, "directory of the data plane")
	f.StringVar(&at.Config, "to", at.Config, "where the configuration will be")
	return c
}
