package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Cable is the other end of a card's cable: Ethernet frames go both ways.
type Cable struct {
	v    *VM
	name string
	MAC  net.HardwareAddr // of the guest's card
	conn net.Conn
}

// maxFrame bounds a frame, in bytes: what an offloading card may send at once.
const maxFrame = 128 << 10

func cableName(i int) string { return fmt.Sprintf("net%d", i+1) }

func cableMAC(i int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, 0xca, 0xb1, byte(i)}
}

// cableArguments give each card a stream of frames, each behind its length (four bytes, the
// first the highest; net/socket.c of QEMU).
func cableArguments(c Config, fds []int) []string {
	var a []string
	for i, fd := range fds {
		a = append(a, "-netdev", fmt.Sprintf("socket,id=%s,fd=%d", cableName(i), fd),
			"-device", fmt.Sprintf("%s,netdev=%s,mac=%s", c.Card, cableName(i), cableMAC(i)))
	}
	return a
}

// plug makes one more cable, and returns QEMU's end.
func (v *VM) plug() (*os.File, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, errors.Join(err, theirs.Close())
	}
	i := len(v.cables)
	v.cables = append(v.cables, &Cable{v: v, name: cableName(i), MAC: cableMAC(i), conn: conn})
	return theirs, nil
}

// Cable is the end of one of Config.Cables, counted from 0.
func (v *VM) Cable(i int) *Cable { return v.cables[i] }

// Link plugs it in or out at the guest's card.
func (c *Cable) Link(ctx context.Context, up bool) error { return c.v.link(ctx, c.name, up) }

// Send sends a frame to the guest.
func (c *Cable) Send(frame []byte) error {
	if _, err := c.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		return fmt.Errorf("sending a frame: %w", err)
	}
	return nil
}

// Receive returns the next frame that the guest sends. Whoever receives does so all the
// time: frames wait here, and a cable that is full stops the guest's card. After an error,
// also that of ctx, nothing more can be received.
func (c *Cable) Receive(ctx context.Context) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) }) // fails where it is closed
	defer stop()
	var length [4]byte
	if _, err := io.ReadFull(c.conn, length[:]); err != nil {
		return nil, fmt.Errorf("receiving a frame: %w", err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return nil, fmt.Errorf("receiving a frame: it is said to have %d bytes", n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(c.conn, frame); err != nil {
		return nil, fmt.Errorf("receiving a frame: %w", err)
	}
	return frame, nil
}
