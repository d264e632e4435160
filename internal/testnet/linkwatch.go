package testnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// awaitUp waits until the kernel calls the interface operational. A new link is
// that a little after both of its ends were set up, up to a second when the
// machine is busy, and drops packets until then.
func awaitUp(ctx context.Context, device string) error {
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer close(done)
	var failure error // written before updates is closed
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ListExisting:  true,
		ErrorCallback: func(err error) { failure = err },
	})
	if err != nil {
		return fmt.Errorf("watching %s come up: %w", device, err)
	}
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return fmt.Errorf("watching %s come up: %w", device, errors.Join(errors.New("the watch ended"), failure))
			}
			if a := u.Link.Attrs(); a.Name == device && a.OperState == netlink.OperUp {
				go drain(updates) // ends with the subscription
				return nil
			}
		case <-ctx.Done():
			go drain(updates)
			return fmt.Errorf("watching %s come up: %w", device, ctx.Err())
		}
	}
}

// drain lets the subscription deliver what it holds, so that it notices its end.
func drain(updates <-chan netlink.LinkUpdate) {
	for range updates {
	}
}
