package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"crypto/rand"

	"lazaret/internal/agentapi"
)

// channel is a TLS connection of its own, which a management session is bound to.
type channel struct {
	*gateway
	conn    *tls.Conn
	binding []byte
}

// channel opens one.
func (g *gateway) channel(ctx context.Context) (*channel, error) {
	if g.tls == nil {
		return nil, errors.New("opening a management session: there is no gateway yet")
	}
	raw, err := g.dial.DialContext(ctx, "tcp", g.at)
	if err != nil {
		return nil, fmt.Errorf("opening a management session: %w", err)
	}
	conn := tls.Client(raw, g.tls)
	hand, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := conn.HandshakeContext(hand); err != nil {
		return nil, fmt.Errorf("opening a management session: %w", errors.Join(err, raw.Close()))
	}
	state := conn.ConnectionState()
	binding, err := state.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
	if err != nil {
		return nil, fmt.Errorf("opening a management session: %w", errors.Join(err, conn.Close()))
	}
	var used atomic.Bool
	once := func(context.Context, string, string) (net.Conn, error) {
		if used.Swap(true) {
			return nil, errors.New("the session's connection is gone")
		}
		return conn, nil
	}
	over := &gateway{base: g.base, cert: g.cert, http: &http.Client{Transport: &http.Transport{DialTLSContext: once, MaxConnsPerHost: 1, IdleConnTimeout: time.Minute}}}
	return &channel{over, conn, binding}, nil
}

func (c *channel) end() {
	c.close()
	c.conn.Close()
}

// post sends one message of a session.
func (c *channel) post(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return c.call(ctx, http.MethodPost, path, in, out)
}

// dialogue is a management session (D2) that the gateway has proven itself in.
type dialogue struct {
	*channel
	key     crypto.Signer // the device's
	device  string
	signer  agentapi.Signer
	hello   agentapi.Hello
	welcome agentapi.Welcome
	number  uint64
}

// greet opens a session. Where the gateway has seen a higher number than this device gives,
// as after the device was restored from a backup, it says so, signed, and the device goes
// on above it; that happens once.
func (a *Agent) greet(ctx context.Context, c *channel) (*dialogue, error) {
	st := a.snapshot()
	root, err := x509.ParseCertificate(st.Root)
	if err != nil {
		return nil, fmt.Errorf("reading the pinned root: %w", err)
	}
	key, ok := c.cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("opening a management session: %T cannot sign", c.cert.PrivateKey)
	}
	for range 2 {
		d := &dialogue{channel: c, key: key, device: st.Settings.Device}
		d.hello = agentapi.Hello{Version: 1, Device: d.device, Nonce: make([]byte, 32)}
		rand.Read(d.hello.Nonce)
		// The number is on the disk before it is used.
		if err := a.note(func(m *managed) { m.Sequence++; d.hello.Sequence = m.Sequence }); err != nil {
			return nil, err
		}
		if err := c.post(ctx, agentapi.HelloPath, d.hello, &d.welcome); err != nil {
			return nil, err
		}
		if d.signer, err = agentapi.CheckSigner(d.welcome.Chain, root, time.Now()); err != nil {
			return nil, err
		}
		if err := d.welcome.Verify(d.signer, c.binding, d.hello); err != nil {
			return nil, err
		}
		err := a.note(func(m *managed) {
			m.Signer = d.welcome.Chain
			m.Executed = max(m.Executed, d.welcome.Executed)
			m.Sequence = max(m.Sequence, d.welcome.Sequence)
		})
		if err != nil {
			return nil, err
		}
		if !d.welcome.Resync {
			return d, nil
		}
		a.log.Info("the gateway has seen later management sessions of this device: going on after them", "sequence", d.welcome.Sequence)
	}
	return nil, errors.New("opening a management session: the gateway has seen each number that it is given")
}

// exchange sends results and returns the commands that come for them.
func (d *dialogue) exchange(ctx context.Context, executed uint64, results []outcome) (agentapi.Orders, error) {
	d.number++
	x := agentapi.Exchange{Session: d.welcome.Session, Number: d.number}
	if d.number == 1 {
		proof, err := d.welcome.Prove(d.key, d.binding, d.hello, executed)
		if err != nil {
			return agentapi.Orders{}, err
		}
		x.Proof, x.Executed = proof, executed
	}
	for _, o := range results {
		r := agentapi.Result{Version: 1, Command: o.ID, Device: d.device, Session: d.welcome.Session, Sequence: o.Sequence, Kind: o.Kind, State: o.State, Detail: o.Detail, At: o.At}
		signed, err := r.Sign(d.key)
		if err != nil {
			return agentapi.Orders{}, err
		}
		x.Results = append(x.Results, signed)
	}
	var out agentapi.Orders
	if err := d.post(ctx, agentapi.ExchangePath, x, &out); err != nil {
		return agentapi.Orders{}, err
	}
	return out, out.Check(x.Number)
}

// management holds a session whenever a wake-up was accepted, until ctx ends.
func (a *Agent) management(ctx context.Context) error {
	a.mu.Lock()
	if len(a.managed.untold()) > 0 {
		a.rouse()
	}
	a.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.woken:
		}
		if err := a.manage(ctx); errors.Is(err, errWipe) {
			return err
		}
	}
}

// rouse has a session held soon.
func (a *Agent) rouse() {
	select {
	case a.woken <- struct{}{}:
	default: // so it is already
	}
}

// manageTries is how often a session is begun anew that broke off, as one does in which the
// certificate was renewed.
const manageTries = 3

// manage holds one management session: it tells what became of commands and executes those
// that wait. It is errWipe where one of them was a wipe, which is begun on the disk; other
// errors are in the log.
func (a *Agent) manage(ctx context.Context) error {
	a.managing.Lock()
	defer a.managing.Unlock()
	var err error
	for range manageTries {
		if err = a.manageOnce(ctx); err == nil || errors.Is(err, errWipe) || ctx.Err() != nil {
			return err
		}
		if wait(ctx, retryFirst) != nil {
			return ctx.Err()
		}
	}
	a.log.Warn("management session for commands", "err", err)
	return err
}

func (a *Agent) manageOnce(ctx context.Context) error {
	c, err := a.client().channel(ctx)
	if err != nil {
		return err
	}
	defer c.end()
	d, err := a.greet(ctx, c)
	if err != nil {
		return err
	}
	for range 2 * agentapi.MaxTogether { // each round has told something, or ends it
		a.mu.Lock()
		executed, results := a.managed.Executed, a.managed.untold()
		a.mu.Unlock()
		results = results[:min(len(results), agentapi.MaxTogether)]
		if d.number > 0 && len(results) == 0 {
			return nil
		}
		orders, err := d.exchange(ctx, executed, results)
		if err != nil {
			return err
		}
		if err := a.note(func(m *managed) { m.told(orders.Taken, results) }); err != nil {
			return err
		}
		for _, signed := range orders.Commands {
			command, err := agentapi.OpenCommand(signed, d.signer, d.device, d.welcome.Session)
			if err != nil {
				return err // nobody but the gateway can have sent it: the session is not what it seems
			}
			if err := a.perform(ctx, d, command); err != nil {
				return err
			}
		}
	}
	return errors.New("the gateway finds no end")
}

// told notes that the gateway has these, unless they have become others meanwhile.
func (m *managed) told(taken []string, sent []outcome) {
	for _, id := range taken {
		o := m.find(id)
		if o == nil {
			continue
		}
		for _, s := range sent {
			if s.ID == id && s.State == o.State {
				o.Told = true
			}
		}
	}
}

// takeSigner keeps the management signer's chain if it leads to the pinned root. The caller
// holds mu.
func (a *Agent) takeSigner(chain [][]byte) {
	if len(chain) == 0 || len(a.managed.Signer) > 0 && bytes.Equal(chain[0], a.managed.Signer[0]) {
		return
	}
	root, err := x509.ParseCertificate(a.state.Root)
	if err == nil {
		_, err = agentapi.CheckSigner(chain, root, time.Now())
	}
	if err == nil {
		err = a.noteLocked(func(m *managed) { m.Signer = chain })
	}
	if err != nil {
		a.log.Warn("the gateway's management signer", "err", err)
	}
}

// takeWake accepts a wake-up that came with the gateway's answer. The caller holds mu.
func (a *Agent) takeWake(token string) {
	if token == "" {
		return
	}
	if err := a.wakeLocked(token); err != nil {
		a.log.Warn("wake-up refused", "err", err)
	}
}

// wake accepts a wake-up that came by another way (D3): whoever brings it is nobody, and
// what the gateway signed says all there is to say.
func (a *Agent) wake(token string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.wakeLocked(token); err != nil {
		a.log.Warn("wake-up refused", "err", err)
		return err
	}
	return nil
}

func (a *Agent) wakeLocked(token string) error {
	w, err := agentapi.ParseWakeup(token)
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(a.state.Root)
	if err != nil {
		return fmt.Errorf("reading the pinned root: %w", err)
	}
	signer, err := agentapi.CheckSigner(a.managed.Signer, root, time.Now())
	if err != nil {
		return err
	}
	if err := w.Verify(signer, a.state.Settings.Device, a.managed.Wake, time.Now()); err != nil {
		return err
	}
	if err := a.noteLocked(func(m *managed) { m.Wake = w.Counter }); err != nil {
		return err
	}
	a.rouse()
	return nil
}
