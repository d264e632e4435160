package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"lazaret/appliance/claim"
	"lazaret/internal/confine"
	"lazaret/internal/listener"
	"lazaret/internal/notify"
)

// keeperFD is where the machine's first process hands the pipe over.
const keeperFD = 3

// Claim is what an unclaimed appliance shows the network, at the addresses given: a child of its
// first process, with which it speaks by descriptor 3. It runs until ctx ends, or the claim is
// kept. Confined, it has no files at all.
func Claim(ctx context.Context, at []string, confined bool) error {
	if confined {
		if err := confine.Enter(confine.Claim, confine.Paths{}); err != nil {
			return err
		}
	}
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
			return fmt.Errorf("listening for claims at %q: %w", text, err)
		}
		l, err := listener.Claim(ctx, address)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	d, err := claim.NewDoor(claim.DoorConfig{Listeners: listeners, Keeper: pipe, Ready: notify.Ready, Log: log})
	if err != nil {
		return err
	}
	return d.Run(ctx)
}
