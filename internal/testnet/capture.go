package testnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"
)

// Record is one packet as an interface carried it.
type Record struct {
	At       Stamp          `json:"at"`
	Device   string         `json:"device"`
	Out      bool           `json:"out"` // leaving this host
	Len      int            `json:"len"` // bytes, from the IP header on
	Proto    uint8          `json:"proto"`
	From     netip.AddrPort `json:"from"` // no port for what has none, and for later fragments
	To       netip.AddrPort `json:"to"`
	Fragment bool           `json:"fragment,omitempty"`
	ICMPType uint8          `json:"icmp_type,omitempty"`
	ICMPCode uint8          `json:"icmp_code,omitempty"`
	TCPFlags uint8          `json:"tcp_flags,omitempty"`
	TCPSeq   uint32         `json:"tcp_seq,omitempty"`
	TCPLen   int            `json:"tcp_len,omitempty"`  // bytes of payload
	TCPTime  uint32         `json:"tcp_time,omitempty"` // the sender's time stamp option
	Stream   uint32         `json:"stream,omitempty"`   // of the first message in the payload; zero: no message
	Seq      uint64         `json:"seq,omitempty"`
	Sent     Stamp          `json:"sent,omitempty"`
	Bad      string         `json:"bad,omitempty"` // why it could not be read further
}

// CaptureStat says how far a capture can be trusted: where Dropped is not zero,
// a packet that is not among the records may still have been there.
type CaptureStat struct {
	Seen    uint64 `json:"seen"`    // packets that passed the interface
	Dropped uint64 `json:"dropped"` // of these, not recorded
	Written uint64 `json:"written"` // records handed over
}

// Capture records what interfaces of a host carry, from the moment that
// [Host.Capture] returned.
type Capture struct {
	host   *Host
	id     uint64
	ended  chan struct{} // closed when all records are in
	mu     sync.Mutex
	recs   []Record
	err    error
	more   chan struct{} // closed and replaced when a record came in
	closed bool
}

// Capture starts recording on the interface; an empty device means all of them.
func (h *Host) Capture(ctx context.Context, device string) (*Capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("capturing on %s: %w", h.name, err)
	}
	c := &Capture{host: h, ended: make(chan struct{}), more: make(chan struct{})}
	err = h.agent.call(ctx, opCapture, device, &c.id, w)
	w.Close()
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("capturing %s on %s: %w", device, h.name, err)
	}
	go c.read(r) // ends with the capture, or the lab
	return c, nil
}

func (c *Capture) read(r io.ReadCloser) {
	defer r.Close()
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	for {
		var rec Record
		err := dec.Decode(&rec)
		c.mu.Lock()
		if err == nil {
			c.recs = append(c.recs, rec)
		} else if !errors.Is(err, io.EOF) {
			c.err = err
		}
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			close(c.ended)
			return
		}
	}
}

// Records returns what match accepts among the records so far, in order of
// capture; a nil match accepts all.
func (c *Capture) Records(match func(Record) bool) []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	if match == nil {
		return slices.Clone(c.recs)
	}
	var out []Record
	for _, r := range c.recs {
		if match(r) {
			out = append(out, r)
		}
	}
	return out
}

// Await returns the first record that match accepts, and waits for it.
func (c *Capture) Await(ctx context.Context, match func(Record) bool) (Record, error) {
	for next := 0; ; {
		c.mu.Lock()
		recs, more := c.recs, c.more
		c.mu.Unlock()
		for ; next < len(recs); next++ {
			if match(recs[next]) {
				return recs[next], nil
			}
		}
		select {
		case <-more:
		case <-c.ended:
			return Record{}, fmt.Errorf("awaiting a packet on %s: %w", c.host.name, errGone)
		case <-ctx.Done():
			return Record{}, fmt.Errorf("awaiting a packet on %s: %w", c.host.name, ctx.Err())
		}
	}
}

// Stat returns the counters so far, after every packet that the interface had
// carried when it was called has become a record.
func (c *Capture) Stat(ctx context.Context) (CaptureStat, error) {
	return c.ask(ctx, opCaptureStat)
}

// Stop ends the capture and returns its counters when all records are in.
func (c *Capture) Stop(ctx context.Context) (CaptureStat, error) {
	st, err := c.ask(ctx, opCaptureStop)
	if err != nil {
		return st, err
	}
	select {
	case <-c.ended:
	case <-ctx.Done():
		return st, ctx.Err()
	}
	return st, c.complete(st)
}

func (c *Capture) ask(ctx context.Context, op string) (CaptureStat, error) {
	var st CaptureStat
	if err := c.host.agent.call(ctx, op, c.id, &st); err != nil {
		return st, fmt.Errorf("asking for the capture on %s: %w", c.host.name, err)
	}
	for {
		c.mu.Lock()
		have, more := uint64(len(c.recs)), c.more
		c.mu.Unlock()
		if have >= st.Written {
			return st, nil
		}
		select {
		case <-more:
		case <-c.ended:
			return st, c.complete(st)
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

func (c *Capture) complete(st CaptureStat) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("reading the capture on %s: %w", c.host.name, c.err)
	}
	if uint64(len(c.recs)) != st.Written {
		return fmt.Errorf("capture on %s: %d of %d records came over", c.host.name, len(c.recs), st.Written)
	}
	return nil
}
