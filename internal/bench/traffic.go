package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lazaret/internal/testnet"
)

const (
	roleSend = "send"
	roleSink = "sink"
)

// sendArgs says from where to where packets go.
type sendArgs struct {
	From netip.Addr
	To   netip.AddrPort
}

// runSend is the role of a device that sends stamped datagrams at an even pace, whether
// anybody gets them or not.
func runSend(ctx context.Context, args []string) error {
	var a sendArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.From, 0)), net.UDPAddrFromAddrPort(a.To))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := tell(nil, nil); err != nil {
		return err
	}
	t := time.NewTicker(pace)
	defer t.Stop()
	b := make([]byte, 64)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			binary.BigEndian.PutUint64(b, uint64(testnet.Now()))
			_, _ = c.Write(b) // a refusal is a packet that does not arrive
		}
	}
}

// arrival is one packet: when it was sent and when it was read.
type arrival struct{ Sent, At testnet.Stamp }

// sink notes what arrives.
type sink struct {
	mu    sync.Mutex
	first *arrival // since it was armed
	last  arrival
	count int
	came  chan struct{} // closed when first is set
}

// runSink is the role of the server that the device sends to.
func runSink(ctx context.Context, args []string) error {
	var at netip.AddrPort
	if err := arguments(args, &at); err != nil {
		return err
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	defer c.Close()
	s := &sink{came: make(chan struct{})}
	go s.read(c) // ends with the socket
	return obey(ctx, nil, s.obey)
}

func (s *sink) read(c *net.UDPConn) {
	b := make([]byte, 128)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		a := arrival{At: testnet.Now()}
		if n < 8 {
			continue
		}
		a.Sent = testnet.Stamp(binary.BigEndian.Uint64(b))
		s.mu.Lock()
		s.last = a
		s.count++
		if s.first == nil {
			s.first = &a
			close(s.came)
		}
		s.mu.Unlock()
	}
}

func (s *sink) obey(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "arm":
		if err := s.silence(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.first, s.came = nil, make(chan struct{})
		return nil, nil
	case "first":
		return s.await(ctx)
	case "last":
		if err := s.silence(ctx); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.last, nil
	}
	return unknown(o)
}

// await waits for the first packet since it was armed.
func (s *sink) await(ctx context.Context) (arrival, error) {
	s.mu.Lock()
	came := s.came
	s.mu.Unlock()
	late := time.NewTimer(20 * time.Second)
	defer late.Stop()
	select {
	case <-came:
	case <-late.C:
		return arrival{}, fmt.Errorf("no packet came within 20 s of the release")
	case <-ctx.Done():
		return arrival{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.first, nil
}

// still is how long nothing must arrive for the flow to count as cut: many times its pace.
const still = 20 * time.Millisecond

// silence waits until nothing arrives any more.
func (s *sink) silence(ctx context.Context) error {
	t := time.NewTicker(still)
	defer t.Stop()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	before := -1
	for {
		s.mu.Lock()
		count := s.count
		s.mu.Unlock()
		if count == before {
			return nil
		}
		before = count
		select {
		case <-t.C:
		case <-late.C:
			return fmt.Errorf("packets still arrive 10 s after the demotion")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
