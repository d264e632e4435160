package testnet

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Proto is what a probe or a stream is made of.
type Proto string

// The three protocols probed. Streams know TCP and UDP.
const (
	TCP  Proto = "tcp"
	UDP  Proto = "udp"
	ICMP Proto = "icmp"
)

// ProbeSpec is one question: does this get there and back?
type ProbeSpec struct {
	Proto   Proto          `json:"proto"`
	From    netip.Addr     `json:"from,omitzero"`     // zero: as the routes say
	To      netip.AddrPort `json:"to"`                // no port for ICMP
	Device  string         `json:"device,omitempty"`  // bind to this interface
	Timeout time.Duration  `json:"timeout,omitempty"` // for all tries; 1 s by default
	Tries   int            `json:"tries,omitempty"`   // UDP and ICMP: packets sent, evenly spread; 3 by default
	Size    int            `json:"size,omitempty"`    // bytes of payload; 64 by default
}

// Outcome is what became of a probe.
type Outcome string

// The zero Outcome is none of these.
const (
	Echoed      Outcome = "echo"        // the target answered with what was sent
	Refused     Outcome = "refused"     // something answered: no such port there
	Unreachable Outcome = "unreachable" // something on the way, or the own routing, said no
	Silent      Outcome = "timeout"     // it was sent, and nothing came back
	NotSent     Outcome = "not sent"    // this host could not send it: the question was not asked
)

// ProbeResult is the answer.
type ProbeResult struct {
	Outcome Outcome        `json:"outcome"`
	RTT     time.Duration  `json:"rtt,omitempty"` // of the first echo
	At      Stamp          `json:"at"`            // when the first packet was sent
	ID      uint32         `json:"id"`            // in the payload of each packet, as [Record.Stream]
	Local   netip.AddrPort `json:"local,omitzero"`
	To      netip.AddrPort `json:"to"`
	Detail  string         `json:"detail,omitempty"` // the error behind it, for people
}

// Passed reports whether packets went there and came back, which a refusal by the
// target's own kernel shows as well as an echo does.
func (r ProbeResult) Passed() bool { return r.Outcome == Echoed || r.Outcome == Refused }

// Is reports whether a captured packet is one that this probe sent.
func (r ProbeResult) Is(p Record) bool {
	if r.ID != 0 && p.Stream == r.ID {
		return p.To.Addr() == r.To.Addr()
	}
	return p.Proto == protoTCP && r.Local.Port() != 0 && p.From == r.Local && p.To == r.To
}

// Probe asks once, and waits for the answer. The error says that the probe could
// not be made at all; that it found nothing is a result.
func (h *Host) Probe(ctx context.Context, s ProbeSpec) (ProbeResult, error) {
	var r ProbeResult
	if err := h.agent.call(ctx, opProbe, s, &r); err != nil {
		return ProbeResult{}, fmt.Errorf("probing %s %s from %s: %w", s.Proto, s.To, h.name, err)
	}
	return r, nil
}

// Server answers probes and streams on a host.
type Server struct {
	host  *Host
	id    uint64
	addrs []netip.AddrPort
}

// Serve starts a server on these addresses, on TCP and UDP both. It echoes,
// swallows or sends as each client asks.
func (h *Host) Serve(ctx context.Context, addrs ...netip.AddrPort) (*Server, error) {
	s := &Server{host: h, addrs: addrs}
	if err := h.agent.call(ctx, opServe, addrs, &s.id); err != nil {
		return nil, fmt.Errorf("starting the server on %s: %w", h.name, err)
	}
	return s, nil
}

// Close stops the server and the streams it carries.
func (s *Server) Close(ctx context.Context) error {
	return s.host.agent.call(ctx, opUnserve, s.id, nil)
}
