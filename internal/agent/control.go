package agent

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/peer"
)

// Request is one order to a running agent.
type Request struct {
	Op      string `json:"op"` // "status", "down", "report", "renew", "wake"
	Verdict string `json:"verdict,omitempty"`
	Token   string `json:"token,omitempty"` // "wake": the wake-up
}

// State is a running agent's answer.
type State struct {
	Error    string           `json:"error,omitempty"`
	Server   string           `json:"server"`
	Since    time.Time        `json:"answered,omitzero"` // last answer of the gateway
	Problem  string           `json:"problem,omitempty"`
	Status   *agentapi.Status `json:"status,omitempty"`
	Expires  time.Time        `json:"certificate_expires,omitzero"`
	Sessions int              `json:"sessions"`
	Peer     *Peer            `json:"peer,omitempty"`
	Commands []Executed       `json:"commands,omitempty"` // that the gateway gave, oldest first
	Notices  []Notice         `json:"notices,omitempty"`
}

// Peer is what the tunnel saw of the gateway.
type Peer struct {
	Endpoint  string    `json:"endpoint"`
	Handshake time.Time `json:"handshake,omitzero"`
	Received  uint64    `json:"received"`
	Sent      uint64    `json:"sent"`
}

// ErrNotRunning reports that no agent answers on the control socket.
var ErrNotRunning = errors.New("the agent is not running: start it with lazaret up")

// listenControl opens the control socket. Everybody may connect; who may order is
// checked by user id for each connection.
func listenControl(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("an agent is running already: %s answers", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("making the control socket: %w", err), l.Close())
	}
	return l, nil
}

// control answers orders until ctx ends.
func (a *Agent) control(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var open sync.WaitGroup
	defer open.Wait()
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("answering on the control socket: %w", err)
		}
		open.Go(func() {
			defer conn.Close()
			a.answer(ctx, conn)
		})
	}
}

// answer takes one order. Only root and the user who enrolled may give any.
func (a *Agent) answer(ctx context.Context, conn *net.UnixConn) {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second)) // a unix socket always has deadlines
	out := State{}
	var r Request
	bad := json.NewDecoder(io.LimitReader(conn, 4096)).Decode(&r) // read even what is refused: else the asker cannot read why
	uid, err := peer.User(conn)
	switch {
	case err != nil:
		out.Error = "who asks cannot be told"
	case uid != 0 && int(uid) != a.snapshot().User:
		out.Error = "only root and the user who enrolled this device may drive the agent"
	case bad != nil:
		out.Error = "the order cannot be read"
	default:
		out = a.order(ctx, r)
		if r.Op == "down" && out.Error == "" {
			defer a.quit()
		}
	}
	_ = json.NewEncoder(conn).Encode(out) // the asker may be gone
}

func (a *Agent) order(ctx context.Context, r Request) State {
	switch r.Op {
	case "status", "down":
		return a.show()
	case "report":
		if _, err := a.report(ctx, r.Verdict); err != nil {
			return State{Error: err.Error()}
		}
		return a.show()
	case "renew":
		select {
		case a.renewNow <- struct{}{}:
		default: // ordered already
		}
		return a.show()
	case "wake":
		if err := a.wake(r.Token); err != nil {
			return State{Error: err.Error()}
		}
		return a.show()
	default:
		return State{Error: fmt.Sprintf("unknown order %q", r.Op)}
	}
}

// show tells how the agent is.
func (a *Agent) show() State {
	peers, _ := a.net.Peers() // a tunnel that cannot be asked shows no peer
	a.mu.Lock()
	defer a.mu.Unlock()
	out := State{Server: a.state.Server, Since: a.seen, Problem: cmp.Or(a.problem, a.noDNS), Sessions: a.state.Sessions}
	out.Commands, out.Notices = a.managed.executed(), slices.Clone(a.managed.Notices)
	if !a.seen.IsZero() {
		st := a.status
		out.Status = &st
	} else {
		out.Problem = cmp.Or(a.problem, errNotYet.Error())
	}
	if cert, err := a.store.certificate(a.state); err == nil {
		out.Expires = cert.Leaf.NotAfter
	}
	if len(peers) > 0 {
		p := peers[0]
		out.Peer = &Peer{Endpoint: p.Endpoint.String(), Handshake: p.LastHandshake, Received: p.Received, Sent: p.Sent}
	}
	return out
}

// Ask gives a running agent one order and returns its answer.
func Ask(ctx context.Context, socket string, r Request) (State, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return State{}, fmt.Errorf("%w (%v)", ErrNotRunning, err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline) // a unix socket always has deadlines
	}
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return State{}, fmt.Errorf("ordering the agent: %w", err)
	}
	var out State
	if err := json.NewDecoder(bufio.NewReader(conn)).Decode(&out); err != nil {
		return State{}, fmt.Errorf("reading the agent's answer: %w", err)
	}
	if out.Error != "" {
		return out, errors.New(out.Error)
	}
	return out, nil
}
