package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"lazaret/appliance/claim"
	"lazaret/internal/confine"
	"lazaret/internal/daemon"
	"lazaret/internal/listener"
	"lazaret/internal/making"
)

// keeperFD is where the machine's first process hands the pipe over.
const keeperFD = 3

// claimCommand is what an unclaimed appliance shows the network: a child of its first process.
func claimCommand() *cobra.Command {
	var at []string
	var confined bool
	c := &cobra.Command{Use: "claim", Hidden: true, Args: cobra.NoArgs, Short: "Serve the claim of an unclaimed appliance; its first process runs this",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if confined { // it needs no files at all
				if err := confine.Enter(confine.Claim, confine.Paths{}); err != nil {
					return err
				}
			}
			return serveClaim(cmd.Context(), at)
		}}
	c.Flags().BoolVar(&confined, "confine", false, "give up what the process does not need, by seccomp and Landlock")
	c.Flags().StringSliceVar(&at, "listen", []string{"0.0.0.0:443", "[::]:443"}, "where to listen")
	return c
}

func serveClaim(ctx context.Context, at []string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "claim")
	f := os.NewFile(keeperFD, "keeper")
	pipe, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("finding the machine's first process at descriptor %d: %w", keeperFD, err)
	}
	defer pipe.Close()
	var listeners []net.Listener
	for _, text := range at {
		address, err := netip.ParseAddrPort(text)
		if err != nil {
			return fmt.Errorf("--listen %q: %w", text, err)
		}
		l, err := listener.Claim(ctx, address)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	d, err := claim.NewDoor(claim.DoorConfig{Listeners: listeners, Keeper: pipe, Ready: notifyReady, Log: log})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

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
