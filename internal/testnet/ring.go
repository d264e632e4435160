package testnet

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ring that the kernel writes packets into: 16,384 frames, so that a burst is
// kept while this process does not run. A frame holds the headers and the
// beginning of the payload.
const (
	frameSize = 512
	blockSize = 128 << 10
	blockNum  = 64
)

// captures are the captures under way on a host.
type captures struct {
	mu      sync.Mutex
	next    uint64
	running map[uint64]*capturing
}

// capturing is one capture, of a ring or of ears. Its loop alone reads them.
type capturing struct {
	fd    int
	ring  []byte
	frame int // next one to read
	wake  int // event descriptor, to interrupt the loop's wait
	asks  chan captureAsk
	ended chan struct{} // closed when the loop has ended
	out   *bufio.Writer
	pipe  *os.File
	names map[int]string
	stat  CaptureStat
	ears  []ear // instead of the ring

	without []uint16 // UDP ports that are not recorded
}

type captureAsk struct {
	stop   bool
	answer chan CaptureStat
}

func (cs *captures) register(ops map[string]handler) {
	ops[opCapture] = handleFiles(cs.start)
	ops[opHear] = handleFiles(cs.hear)
	ops[opCaptureStat] = handle(func(ctx context.Context, id uint64) (any, error) { return cs.ask(ctx, id, false) })
	ops[opCaptureStop] = handle(func(ctx context.Context, id uint64) (any, error) { return cs.ask(ctx, id, true) })
}

func (cs *captures) start(_ context.Context, r captureRequest, files []*os.File) (any, error) {
	if len(files) != 1 {
		closeAll(files)
		return nil, fmt.Errorf("%d pipes came along, want 1", len(files))
	}
	c, err := openRing(r.Device)
	if err != nil {
		closeAll(files)
		return nil, err
	}
	c.without = r.Without
	return cs.add(c, files[0])
}

// add starts a capture whose records go to the pipe.
func (cs *captures) add(c *capturing, pipe *os.File) (any, error) {
	c.pipe, c.out = pipe, bufio.NewWriterSize(pipe, 64<<10)
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.next++
	cs.running[cs.next] = c
	go c.loop() // ends when stopped, or with the agent
	return cs.next, nil
}

func (cs *captures) ask(ctx context.Context, id uint64, stop bool) (CaptureStat, error) {
	cs.mu.Lock()
	c := cs.running[id]
	if stop {
		delete(cs.running, id)
	}
	cs.mu.Unlock()
	if c == nil {
		return CaptureStat{}, fmt.Errorf("no capture %d here", id)
	}
	a := captureAsk{stop: stop, answer: make(chan CaptureStat, 1)}
	select {
	case c.asks <- a:
	case <-c.ended:
		return CaptureStat{}, errors.New("the capture has ended")
	}
	// The loop looks for questions after each wait, which this ends.
	if _, err := unix.Write(c.wake, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
		return CaptureStat{}, fmt.Errorf("waking the capture: %w", err)
	}
	select {
	case st := <-a.answer:
		return st, nil
	case <-c.ended:
		select { // its last act may have been to answer
		case st := <-a.answer:
			return st, nil
		default:
			return CaptureStat{}, errors.New("the capture has ended")
		}
	case <-ctx.Done():
		return CaptureStat{}, ctx.Err()
	}
}

// openRing opens a packet socket that sees both directions of the interface, or
// of all, from the IP header on. See packet(7) and the kernel's packet_mmap.
func openRing(device string) (*capturing, error) {
	index := 0
	if device != "" {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return nil, err
		}
		index = i.Index
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	c := &capturing{fd: fd, wake: -1, asks: make(chan captureAsk, 16), ended: make(chan struct{}), names: make(map[int]string)}
	if err := c.setUp(index); err != nil {
		c.release()
		return nil, err
	}
	return c, nil
}

func (c *capturing) setUp(index int) error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V2); err != nil {
		return fmt.Errorf("choosing the ring's version: %w", err)
	}
	req := unix.TpacketReq{Block_size: blockSize, Block_nr: blockNum, Frame_size: frameSize, Frame_nr: blockSize / frameSize * blockNum}
	if err := unix.SetsockoptTpacketReq(c.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("making the ring: %w", err)
	}
	ring, err := unix.Mmap(c.fd, 0, blockSize*blockNum, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the ring: %w", err)
	}
	c.ring = ring
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("making the event descriptor: %w", err)
	}
	all := uint16(unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8) // in network order
	if err := unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return fmt.Errorf("binding the packet socket: %w", err)
	}
	return nil
}

func (c *capturing) release() {
	if c.ring != nil {
		_ = unix.Munmap(c.ring)
	}
	if c.wake >= 0 {
		unix.Close(c.wake)
	}
	for _, e := range c.ears {
		unix.Close(e.fd)
	}
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
}

// loop hands over packets as they come and answers questions when all that came
// before them is handed over.
func (c *capturing) loop() {
	defer close(c.ended)
	defer c.release()
	defer c.pipe.Close()
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(c.wake), Events: unix.POLLIN}}
	for _, e := range c.ears {
		fds = append(fds, unix.PollFd{Fd: int32(e.fd), Events: unix.POLLIN})
	}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
		var asks []captureAsk
		if fds[1].Revents != 0 {
			var b [8]byte
			_, _ = unix.Read(c.wake, b[:]) // only empties it
			asks = c.pending()
		}
		if fds[0].Revents&unix.POLLERR != 0 {
			_, _ = unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR) // the interface went down: clears it
		}
		c.drain()
		c.drainEars()
		if err := c.out.Flush(); err != nil {
			return // nobody reads any more
		}
		c.count()
		for _, a := range asks {
			a.answer <- c.stat
			if a.stop {
				return
			}
		}
	}
}

func (c *capturing) pending() []captureAsk {
	var asks []captureAsk
	for {
		select {
		case a := <-c.asks:
			asks = append(asks, a)
		default:
			return asks
		}
	}
}

// drain hands over every frame that is the reader's, and gives it back.
func (c *capturing) drain() {
	for c.ring != nil {
		frame := c.ring[c.frame*frameSize : (c.frame+1)*frameSize]
		status := (*uint32)(unsafe.Pointer(&frame[0]))
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return
		}
		c.record(frame)
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		c.frame = (c.frame + 1) % (len(c.ring) / frameSize)
	}
}

func (c *capturing) record(frame []byte) {
	h := (*unix.Tpacket2Hdr)(unsafe.Pointer(&frame[0]))
	from := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(&frame[unix.SizeofTpacket2Hdr]))
	start := int(h.Net)
	end := start + int(h.Snaplen)
	if start > len(frame) || end > len(frame) {
		return // not possible with this ring
	}
	r, ok := parsePacket(frame[start:end])
	if !ok || r.Stream == 0 && r.Proto == protoUDP && (slices.Contains(c.without, r.From.Port()) || slices.Contains(c.without, r.To.Port())) {
		return
	}
	r.At, r.Len = fromWall(int64(h.Sec), int64(h.Nsec)), int(h.Len)
	r.Device, r.Out = c.name(int(from.Ifindex)), from.Pkttype == unix.PACKET_OUTGOING
	b, err := json.Marshal(r)
	if err != nil {
		return // a struct of numbers and addresses always encodes
	}
	_, _ = c.out.Write(append(b, '\n')) // the error stays for Flush
	c.stat.Written++
}

func (c *capturing) name(index int) string {
	if n, ok := c.names[index]; ok {
		return n
	}
	n := fmt.Sprintf("#%d", index)
	if i, err := net.InterfaceByIndex(index); err == nil {
		n = i.Name
	}
	c.names[index] = n
	return n
}

// count adds the kernel's counters, which reading sets back to zero.
func (c *capturing) count() {
	if c.ring == nil {
		return
	}
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		c.stat.Dropped++ // unknown is not "none"
		return
	}
	c.stat.Seen += uint64(st.Packets)
	c.stat.Dropped += uint64(st.Drops)
}
