package testnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

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
	host  *Host
	id    uint64
	ended chan struct{} // closed when all records are in

	mu   sync.Mutex
	recs []Record // only appended to, and forgotten
	gone uint64   // records forgotten
	err  error
	more chan struct{} // closed and replaced when a record came in
}

// captureRequest says what to record.
type captureRequest struct {
	Device  string   `json:"device"`
	Without []uint16 `json:"without,omitempty"`
}

// Capture starts recording on the interface; an empty device means all of them. What goes
// from or to one of the UDP ports without is left out if it bears no message, such as that of a
// tunnel whose contents are recorded anyway.
func (h *Host) Capture(ctx context.Context, device string, without ...uint16) (*Capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("capturing on %s: %w", h.name, err)
	}
	c := &Capture{host: h, ended: make(chan struct{}), more: make(chan struct{})}
	err = h.agent.call(ctx, opCapture, captureRequest{device, without}, &c.id, w)
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

// Forget drops the records so far, for a capture that goes on for long. Nobody may be
// awaiting one meanwhile.
func (c *Capture) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone += uint64(len(c.recs))
	c.recs = nil
}

// Await returns the first record that match accepts, and waits for it.
func (c *Capture) Await(ctx context.Context, match func(Record) bool) (Record, error) {
	recs, err := c.AwaitN(ctx, 1, match)
	if err != nil {
		return Record{}, err
	}
	return recs[0], nil
}

// AwaitN returns the first n records that match accepts, and waits for them. With
// an error it returns those there were.
func (c *Capture) AwaitN(ctx context.Context, n int, match func(Record) bool) ([]Record, error) {
	var found []Record
	for next := 0; ; {
		c.mu.Lock()
		recs, more := c.recs, c.more
		c.mu.Unlock()
		for ; next < len(recs); next++ {
			if !match(recs[next]) {
				continue
			}
			if found = append(found, recs[next]); len(found) == n {
				return found, nil
			}
		}
		var why error
		select {
		case <-more:
			continue
		case <-c.ended:
			why = errGone
		case <-ctx.Done():
			why = ctx.Err()
		}
		return found, fmt.Errorf("awaiting %d packets on %s, of which %d came: %w", n, c.host.name, len(found), why)
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
		have, more := c.gone+uint64(len(c.recs)), c.more
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
	if have := c.gone + uint64(len(c.recs)); have != st.Written {
		return fmt.Errorf("capture on %s: %d of %d records came over", c.host.name, have, st.Written)
	}
	return nil
}
