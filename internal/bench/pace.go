package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pacer sends packets of bystanders at an even pace and watches them arrive. What is lost
// is counted by the interfaces, which lose nothing themselves; latency is from before the
// packet is handed to the kernel until the kernel has it at the other end.
type pacer struct {
	path   *path
	before uint64
	sent   atomic.Int64
	cancel context.CancelFunc
	runs   sync.WaitGroup
	in     *wire
	fault  error // of the sender

	late samples // the receiver's
}

// paced is how bystanders fared.
type paced struct {
	Sent, Passed int64
	Seen         int // packets whose latency was taken
	P50, P99     time.Duration
	Worst        time.Duration
}

// startPace has n bystanders, those behind the rig's devices, send one after the other.
func (r *rig) startPace(ctx context.Context, n int) error {
	if r.pace != nil {
		return errors.New("bystanders send already")
	}
	if r.paths["bystanders up"] == nil {
		var behind []int
		for i := range n {
			behind = append(behind, r.args.Devices+i)
		}
		flows, err := flowsOf(fullPool, behind, routedTarget)
		if err != nil {
			return err
		}
		if err := r.prepare("bystanders", flows, "up"); err != nil {
			return err
		}
	}
	p := &pacer{path: r.paths["bystanders up"]}
	var err error
	if p.in, err = openWire(farOutside, unix.ETH_P_IP); err != nil {
		return err
	}
	timeout := unix.Timeval{Usec: 100_000} // to look whether it should end
	err = errors.Join(
		unix.SetsockoptInt(p.in.fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(p.in.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20),
		unix.SetsockoptTimeval(p.in.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	if err != nil {
		return fmt.Errorf("setting up the receiver: %w", err)
	}
	if p.before, err = left(p.path.out); err != nil {
		return err
	}
	ctx, p.cancel = context.WithCancel(ctx)
	p.runs.Go(func() { p.send(ctx) })
	p.runs.Go(func() { p.receive(ctx) })
	r.pace = p
	return nil
}

func (p *pacer) send(ctx context.Context) {
	t := time.NewTicker(pace)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if p.fault = p.path.wire.sendStamped(p.path.frames); p.fault != nil {
			return
		}
		p.sent.Add(1)
	}
}

func (p *pacer) receive(ctx context.Context) {
	b, oob := make([]byte, 256), make([]byte, 128)
	for ctx.Err() == nil {
		n, oobn, _, _, err := unix.Recvmsg(p.in.fd, b, oob, 0)
		if err != nil {
			continue // nothing came for a while
		}
		at, ok := kernelTime(oob[:oobn])
		if !ok || n < frameStamp+8 {
			continue
		}
		sent := int64(binary.BigEndian.Uint64(b[frameStamp:]))
		p.late = append(p.late, time.Duration(at-sent))
	}
}

// kernelTime finds the time of arrival among the control messages.
func kernelTime(oob []byte) (int64, bool) {
	all, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range all {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return (*unix.Timespec)(unsafe.Pointer(&m.Data[0])).Nano(), true
		}
	}
	return 0, false
}

// stopPace ends the sending and counts.
func (r *rig) stopPace() (paced, error) {
	p := r.pace
	if p == nil {
		return paced{}, errors.New("no bystanders send")
	}
	r.pace = nil
	p.cancel()
	p.runs.Wait()
	defer p.in.Close()
	if p.fault != nil {
		return paced{}, p.fault
	}
	got := paced{Sent: p.sent.Load(), Seen: len(p.late), P50: p.late.median(), P99: p.late.quantile(0.99), Worst: p.late.quantile(1)}
	for deadline := time.Now().Add(drained); ; {
		now, err := left(p.path.out)
		if err != nil {
			return got, err
		}
		if got.Passed = int64(now - p.before); got.Passed >= got.Sent || time.Now().After(deadline) {
			return got, nil
		}
	}
}
