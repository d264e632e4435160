package testnet

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"

	"lazaret/quarantine/tunnel"
)

// WireGuardSpec is a WireGuard interface with neither agent nor gateway around it.
type WireGuardSpec struct {
	Device string            // name of the interface
	Key    tunnel.PrivateKey // its own key
	Port   uint16            // UDP; zero: any
	MTU    int               // zero: 1420
	Addrs  []netip.Prefix    // own addresses
	Peers  []tunnel.Peer     // with an endpoint: called at once
}

// wireGuardRequest is a WireGuardSpec on its way to the process that is to hold
// the interface, to which it goes over a pipe and not as an argument.
type wireGuardRequest struct {
	Device string         `json:"device"`
	Key    string         `json:"key"`
	Port   uint16         `json:"port"`
	MTU    int            `json:"mtu"`
	Addrs  []netip.Prefix `json:"addrs"`
	Peers  []tunnel.Peer  `json:"peers"`
}

// WireGuard is an interface held by a process of its own. It goes away with the
// process.
type WireGuard struct {
	*Process
	input *os.File
}

// WireGuard starts an interface on the host and returns when it is up with its
// addresses. The allowed addresses of its peers are not routed by it: that is left
// to [Host.Configure].
func (h *Host) WireGuard(ctx context.Context, s WireGuardSpec) (*WireGuard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Device, h.name, err)
	}
	p, err := h.Start(ctx, Spec{Role: roleWireGuard, Name: "wireguard " + s.Device, Stdin: r})
	if err != nil {
		r.Close()
		w.Close()
		return nil, err
	}
	g := &WireGuard{Process: p, input: w}
	go func() { <-p.done; w.Close(); r.Close() }()
	req := wireGuardRequest{Device: s.Device, Key: s.Key.Text(), Port: s.Port, MTU: s.MTU, Addrs: s.Addrs, Peers: s.Peers}
	if err := g.tell(ctx, req); err != nil {
		_ = p.Kill(ctx) // the first error says more
		return nil, fmt.Errorf("starting %s on %s: %w", s.Device, h.name, err)
	}
	return g, nil
}

// SetPeer adds a peer, or makes the one of that key as p says.
func (g *WireGuard) SetPeer(ctx context.Context, p tunnel.Peer) error {
	if err := g.tell(ctx, p); err != nil {
		return fmt.Errorf("setting peer %s: %w", p.Key, err)
	}
	return nil
}

// tell sends one value to the process and waits until it has acted on it.
func (g *WireGuard) tell(ctx context.Context, v any) error {
	if err := json.NewEncoder(g.input).Encode(v); err != nil {
		return err
	}
	var refusal string
	if err := g.Next(ctx, &refusal); err != nil {
		return err
	}
	if refusal != "" {
		return fmt.Errorf("refused: %s", refusal)
	}
	return nil
}

// runWireGuard is the role of the process that holds an interface: it reads the
// request, then peers to set, and reports after each.
func runWireGuard(ctx context.Context, _ []string) error {
	in := json.NewDecoder(os.Stdin)
	var r wireGuardRequest
	if err := in.Decode(&r); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	link, err := openWireGuard(ctx, r)
	if err != nil {
		return err
	}
	defer link.Remove()
	peers := make(chan tunnel.Peer)
	go func() { // ends with the process
		defer close(peers)
		for {
			var p tunnel.Peer
			if in.Decode(&p) != nil {
				return
			}
			peers <- p
		}
	}()
	refusal := ""
	for {
		if err := Report(refusal); err != nil {
			return err
		}
		select {
		case p, ok := <-peers:
			if !ok {
				return nil
			}
			refusal = ""
			if err := link.SetPeer(p); err != nil {
				refusal = err.Error()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// openWireGuard prefers the interface that goes away with the process.
func openWireGuard(ctx context.Context, r wireGuardRequest) (*tunnel.Link, error) {
	key, err := tunnel.ParsePrivateKey(r.Key)
	if err != nil {
		return nil, err
	}
	_, err = os.Stat("/dev/net/tun")
	link, err := tunnel.Open(ctx, tunnel.Config{Name: r.Device, PrivateKey: key, ListenPort: r.Port,
		MTU: r.MTU, Addresses: r.Addrs, ForceUserspace: err == nil})
	if err != nil {
		return nil, err
	}
	for _, p := range r.Peers {
		if err := link.SetPeer(p); err != nil {
			_ = link.Remove() // the first error says more
			return nil, err
		}
	}
	return link, nil
}
