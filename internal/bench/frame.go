package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// frameSize is a whole Ethernet frame: 14 bytes of its own, 20 of IPv4, 8 of UDP, and a
// payload that holds a time stamp.
const (
	frameSize  = 60
	frameStamp = 14 + 20 + 8
)

// frames are packets ready to be sent in turns.
type frames struct {
	bytes []byte
	iov   []unix.Iovec
	msgs  []message
	next  int
}

// message is one message of sendmmsg(2).
type message struct {
	header unix.Msghdr
	_      uint32 // bytes sent
}

// flow is what a frame is part of.
type flow struct{ from, to netip.AddrPort }

func (f flow) back() flow { return flow{f.to, f.from} }

// newFrames makes one frame for each flow, in an order that is random and the same in
// every process.
func newFrames(from, to net.HardwareAddr, flows []flow) *frames {
	f := &frames{bytes: make([]byte, len(flows)*frameSize), iov: make([]unix.Iovec, len(flows)), msgs: make([]message, len(flows))}
	order := rand.New(rand.NewPCG(1, uint64(len(flows)))).Perm(len(flows))
	for i, x := range order {
		b := f.bytes[i*frameSize : (i+1)*frameSize]
		putFrame(b, from, to, flows[x])
		f.iov[i].Base = &b[0]
		f.iov[i].SetLen(len(b))
		f.msgs[i].header.Iov = &f.iov[i]
		f.msgs[i].header.SetIovlen(1)
	}
	return f
}

// putFrame writes a UDP datagram (RFC 768) without a checksum, in IPv4, in Ethernet.
func putFrame(b []byte, from, to net.HardwareAddr, f flow) {
	copy(b, to)
	copy(b[6:], from)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-14))
	src, dst := f.from.Addr().As4(), f.to.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	binary.BigEndian.PutUint16(ip[10:], headerSum(ip))
	udp := b[34:]
	binary.BigEndian.PutUint16(udp, f.from.Port())
	binary.BigEndian.PutUint16(udp[2:], f.to.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(b)-34))
}

// headerSum is the checksum of an IPv4 header (RFC 1071) whose own field is zero.
func headerSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// wire sends frames out of an interface and takes those that come to it.
type wire struct{ fd int }

// openWire binds a packet socket to the interface; protocol zero receives nothing.
func openWire(name string, protocol uint16) (*wire, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: protocol<<8 | protocol>>8}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("binding a packet socket to %s: %w", name, err)
	}
	return &wire{fd}, nil
}

func (w *wire) Close() error { return unix.Close(w.fd) }

// burst is how many frames one system call sends.
const burst = 64

// send sends the next n frames, from the first one again after the last.
func (w *wire) send(f *frames, n int) error {
	for n > 0 {
		count := min(n, burst, len(f.msgs)-f.next)
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.fd), uintptr(unsafe.Pointer(&f.msgs[f.next])), uintptr(count), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return fmt.Errorf("sending packets: %w", errno)
		}
		n -= int(sent)
		f.next = (f.next + int(sent)) % len(f.msgs)
	}
	return nil
}

// sendStamped sends the next frame with the present time in it.
func (w *wire) sendStamped(f *frames) error {
	b := f.bytes[f.next*frameSize : (f.next+1)*frameSize]
	f.next = (f.next + 1) % len(f.msgs)
	binary.BigEndian.PutUint64(b[frameStamp:], uint64(time.Now().UnixNano()))
	if _, err := unix.Write(w.fd, b); err != nil {
		return fmt.Errorf("sending a packet: %w", err)
	}
	return nil
}
