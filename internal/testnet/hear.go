package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// heardProtocols are the IP protocols that ears listen to, in each family.
var heardProtocols = map[int][]int{
	unix.AF_INET:  {1, 2, 4, 6, 17, 41, 47, 50, 132, 136, 253},
	unix.AF_INET6: {4, 6, 17, 41, 47, 50, 58, 132, 136, 253},
}

// earBuffer is the room for packets not read yet, in bytes, of each protocol.
const earBuffer = 1 << 20

// Group is a multicast group to be a member of.
type Group struct {
	Device string     `json:"device"`
	Addr   netip.Addr `json:"addr"`
}

type hearRequest struct {
	Groups []Group `json:"groups"`
}

// Hear records the messages that the host takes in as its own, behind its firewall's
// input hook and before any port is looked for: what a socket could have received, were
// there one. Only packets with a message ([Message]) are recorded, as Device "input". The
// host joins the groups as long.
func (h *Host) Hear(ctx context.Context, groups ...Group) (*Capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", h.name, err)
	}
	c := &Capture{host: h, ended: make(chan struct{}), more: make(chan struct{})}
	err = h.agent.call(ctx, opHear, hearRequest{groups}, &c.id, w)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("listening on %s: %w", h.name, err)
	}
	go c.read(r) // ends with the capture, or the lab
	return c, nil
}

func (cs *captures) hear(_ context.Context, r hearRequest, files []*os.File) (any, error) {
	if len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("%d pipes came along, want 1", len(files))
	}
	c, err := openEars(r.Groups)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return cs.add(c, files[0])
}

// ear is one raw socket. An IPv4 one yields whole packets, an IPv6 one what follows the
// IP headers.
type ear struct {
	fd, family, protocol int
}

func openEars(groups []Group) (*capturing, error) {
	c := &capturing{fd: -1, wake: -1, asks: make(chan captureAsk, 16), ended: make(chan struct{})}
	var err error
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("making the event descriptor: %w", err)
	}
	for family, protocols := range heardProtocols {
		for _, p := range protocols {
			fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, p)
			if err != nil {
				c.release()
				return nil, fmt.Errorf("opening a raw socket of protocol %d: %w", p, err)
			}
			c.ears = append(c.ears, ear{fd, family, p})
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, earBuffer) // a smaller one serves, too
		}
	}
	for _, g := range groups {
		if err := c.join(g); err != nil {
			c.release()
			return nil, fmt.Errorf("joining %s on %s: %w", g.Addr, g.Device, err)
		}
	}
	return c, nil
}

// join makes the host a member, for as long as the first ear of the family is open.
func (c *capturing) join(g Group) error {
	i, err := net.InterfaceByName(g.Device)
	if err != nil {
		return err
	}
	family := unix.AF_INET6
	if g.Addr.Is4() {
		family = unix.AF_INET
	}
	for _, e := range c.ears {
		switch {
		case e.family != family:
			continue
		case family == unix.AF_INET:
			err = unix.SetsockoptIPMreqn(e.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: g.Addr.As4(), Ifindex: int32(i.Index)})
		default:
			err = unix.SetsockoptIPv6Mreq(e.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: g.Addr.As16(), Interface: uint32(i.Index)})
		}
		return err
	}
	return errors.New("no ear of that family")
}

// drainEars hands over what was heard so far.
func (c *capturing) drainEars() {
	b := make([]byte, maxStamped)
	for _, e := range c.ears {
		for {
			n, err := unix.Read(e.fd, b)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if err != nil {
				break // nothing left
			}
			c.heard(e, b[:n])
		}
	}
}

func (c *capturing) heard(e ear, b []byte) {
	c.stat.Seen++
	r, ok := Record{Proto: uint8(e.protocol)}, true
	if e.family == unix.AF_INET {
		r, ok = parsePacket(b)
	}
	if m, found := findStamped(b); found {
		r.Stream, r.Seq, r.Sent = m.stream, m.seq, m.sent
	}
	if !ok || r.Stream == 0 {
		return
	}
	r.At, r.Len, r.Device = Now(), len(b), "input"
	line, err := json.Marshal(r)
	if err != nil {
		return // a struct of numbers and addresses always encodes
	}
	_, _ = c.out.Write(append(line, '\n')) // the error stays for Flush
	c.stat.Written++
}
