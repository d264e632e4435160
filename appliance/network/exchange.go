package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// Waits for an answer before a question is sent again; the sum is how long one lasts.
var repeats = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}

// maxMessage bounds what is read at once, in bytes; what is longer is cut off and so refused.
const maxMessage = 4096

// exchange sends text until take accepts an answer; what it does not is passed over. The
// connection's deadlines are the only clock of it.
func exchange(ctx context.Context, conn net.PacketConn, to net.Addr, text func() []byte, take func([]byte) bool) error {
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the reader returns; it looks at ctx
	})
	defer stop()
	b := make([]byte, maxMessage)
	for _, wait := range repeats {
		if _, err := conn.WriteTo(text(), to); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		for {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n, _, err := conn.ReadFrom(b)
			if os.IsTimeout(err) {
				break
			}
			if err != nil {
				return fmt.Errorf("receiving: %w", err)
			}
			if take(b[:n]) {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errSilent
}

// parse4 reads a message from a stranger. A parser that fails badly costs its message alone.
func parse4(b []byte) (m *dhcpv4.DHCPv4, err error) {
	defer recovered(&err)
	return dhcpv4.FromBytes(b)
}

// parse6 is parse4 for DHCPv6.
func parse6(b []byte) (m *dhcpv6.Message, err error) {
	defer recovered(&err)
	return dhcpv6.MessageFromBytes(b)
}

func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("reading a message: %v", r)
	}
}
