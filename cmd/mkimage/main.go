// mkimage builds the appliance's disk image.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"lazaret/cmd/internal/strict"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := root(log).ExecuteContext(ctx); err != nil {
		log.Error(err.Error())
		os.Exit(1)
	}
}

func root(log *slog.Logger) *cobra.Command {
	c := &cobra.Command{
		Use:           "mkimage",
		Short:         "Build the appliance's disk image",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	c.AddCommand(buildCommand(log), fetchCommand(log), pinCommand(), debCommand(), convertCommand(), bundleCommand(), channelCommand(), releaseCommand(), verifyCommand(), keyCommand(), signCommand())
	return strict.Groups(c)
}
