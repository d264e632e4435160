package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Direction is which way a stream's messages go.
type Direction string

// Echo goes both ways: the server returns each message.
const (
	Upload   Direction = "upload"
	Download Direction = "download"
	Echo     Direction = "echo"
)

// StreamSpec is a flow of numbered and stamped messages at an even pace, until it
// is closed or both ends run out of life.
type StreamSpec struct {
	Proto     Proto          `json:"proto"` // TCP or UDP
	Direction Direction      `json:"direction"`
	From      netip.Addr     `json:"from,omitzero"`
	To        netip.AddrPort `json:"to"` // a [Server]
	Device    string         `json:"device,omitempty"`
	Every     time.Duration  `json:"every,omitempty"` // between messages; 2 ms by default
	Size      int            `json:"size,omitempty"`  // bytes of a message; 256 by default, at least 32
	// Timeout bounds the opening: the time until the first message arrived; 3 s by
	// default.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// StreamStat is what one end of a stream saw so far.
type StreamStat struct {
	Due      uint64         `json:"due"`       // messages to be sent by the pace, had nothing held them up
	Sent     uint64         `json:"sent"`      // messages that the kernel took
	Failed   uint64         `json:"failed"`    // messages that it refused
	Received uint64         `json:"received"`  // messages read
	LastSeq  uint64         `json:"last_seq"`  // number of the message read last
	LastSent Stamp          `json:"last_sent"` // when that had been sent
	LastAt   Stamp          `json:"last_at"`   // when it was read
	MaxGap   time.Duration  `json:"max_gap"`   // longest time without reading one, up to now
	Local    netip.AddrPort `json:"local"`
	Remote   netip.AddrPort `json:"remote"`
	Error    string         `json:"error,omitempty"` // the last failure, or why this end stopped by itself
}

// Stream is a running flow.
type Stream struct {
	host   *Host
	server *Server
	id     uint32
	local  netip.AddrPort
	spec   StreamSpec
}

type streamOpened struct {
	ID    uint32         `json:"id"`
	Local netip.AddrPort `json:"local"`
}

// Stream opens a flow to a server and returns when the first message has arrived
// at its end (Upload and Echo: come back acknowledged).
func (h *Host) Stream(ctx context.Context, srv *Server, s StreamSpec) (*Stream, error) {
	var o streamOpened
	if err := h.agent.call(ctx, opStream, s, &o); err != nil {
		return nil, fmt.Errorf("opening a %s %s stream from %s to %s: %w", s.Proto, s.Direction, h.name, s.To, err)
	}
	return &Stream{host: h, server: srv, id: o.ID, local: o.Local, spec: s}, nil
}

// ID is in the payload of each of the stream's messages, and so in the records of
// a [Capture].
func (s *Stream) ID() uint32 { return s.id }

// Local is the client's address and port.
func (s *Stream) Local() netip.AddrPort { return s.local }

// Client returns what the client's end saw so far.
func (s *Stream) Client(ctx context.Context) (StreamStat, error) {
	return s.stat(ctx, s.host)
}

// Server returns what the server's end saw so far.
func (s *Stream) Server(ctx context.Context) (StreamStat, error) {
	return s.stat(ctx, s.server.host)
}

func (s *Stream) stat(ctx context.Context, h *Host) (StreamStat, error) {
	var st StreamStat
	if err := h.agent.call(ctx, opStreamStat, s.id, &st); err != nil {
		return StreamStat{}, fmt.Errorf("asking %s about stream %d: %w", h.name, s.id, err)
	}
	return st, nil
}

// Close stops both ends, each told over the lab and not over the network.
func (s *Stream) Close(ctx context.Context) error {
	for _, h := range []*Host{s.host, s.server.host} {
		if err := h.agent.call(ctx, opStreamClose, s.id, nil); err != nil {
			return fmt.Errorf("closing stream %d on %s: %w", s.id, h.name, err)
		}
	}
	return nil
}
