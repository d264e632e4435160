package console

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"lazaret/internal/agentapi"
	"lazaret/internal/console/api"
	"lazaret/internal/manage"
	"lazaret/quarantine"
)

// Management orders devices about; *manage.Manager does.
type Management interface {
	Issue(ctx context.Context, by quarantine.Actor, id quarantine.ID, o manage.Order) (manage.Command, error)
	List(id quarantine.ID) []manage.Command
	Cancel(ctx context.Context, by quarantine.Actor, id quarantine.ID, command string) (manage.Command, error)
	// Waiting returns a wake-up if something waits for the device, else a channel that is
	// closed once something does.
	// A device that is fresh has just begun to ask.
	Waiting(ctx context.Context, r quarantine.Record, fresh bool) (wake string, changed <-chan struct{})
	// SignerChain is the chain of the management signer, unless known names it.
	SignerChain(known string) [][]byte
	Hello(ctx context.Context, p manage.Peer, h agentapi.Hello) (agentapi.Welcome, error)
	Exchange(ctx context.Context, p manage.Peer, x agentapi.Exchange) (agentapi.Orders, error)
}

const (
	managePrefix = "/agent/v1/manage/"
	manageBurst  = 60 // as reportBurst: a session with every command that may wait
)

func (s *Server) commandRoutes() []route {
	const ok, created = http.StatusOK, http.StatusCreated
	return []route{
		{"GET /api/v1/devices/{device}/commands", ReadDevices, (*Server).listCommands, "A device's commands and what became of them, oldest first.", nil, []api.Command{}, ok},
		{"POST /api/v1/devices/{device}/commands", CommandDevices, (*Server).issueCommand, "Order a device to do something.", api.CommandRequest{}, api.Command{}, created},
		{"GET /api/v1/devices/{device}/commands/{command}", ReadDevices, (*Server).showCommand, "One command.", nil, api.Command{}, ok},
		{"DELETE /api/v1/devices/{device}/commands/{command}", CommandDevices, (*Server).cancelCommand, "Take a command back that the device does not have yet.", nil, api.Command{}, ok},
	}
}

// errNoManagement answers where the gateway was built without.
var errNoManagement = fmt.Errorf("commands: %w", ErrNotFound)

func (s *Server) listCommands(w http.ResponseWriter, r *http.Request, _ identity) error {
	d, err := s.commanded(r)
	if err != nil {
		return err
	}
	out := []api.Command{}
	for _, c := range s.cfg.Manage.List(d.ID) {
		out = append(out, showCommand(d, c))
	}
	reply(w, http.StatusOK, out)
	return nil
}

// commanded is the device of the path.
func (s *Server) commanded(r *http.Request) (quarantine.Record, error) {
	if s.cfg.Manage == nil {
		return quarantine.Record{}, errNoManagement
	}
	return s.find(r.PathValue("device"))
}

func (s *Server) showCommand(w http.ResponseWriter, r *http.Request, _ identity) error {
	d, err := s.commanded(r)
	if err != nil {
		return err
	}
	all := s.cfg.Manage.List(d.ID)
	i := slices.IndexFunc(all, func(c manage.Command) bool { return c.ID == r.PathValue("command") })
	if i < 0 {
		return fmt.Errorf("command %.80q of device %s: %w", r.PathValue("command"), d.ID, ErrNotFound)
	}
	reply(w, http.StatusOK, showCommand(d, all[i]))
	return nil
}

func (s *Server) issueCommand(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.CommandRequest
	if err := read(r, &q); err != nil {
		return err
	}
	if err := mayOrder(who, q.Kind); err != nil {
		return err
	}
	d, err := s.commanded(r)
	if err != nil {
		return err
	}
	life, err := duration("life", q.Life)
	if err != nil {
		return err
	}
	c, err := s.cfg.Manage.Issue(r.Context(), who.actor, d.ID, manage.Order{Kind: q.Kind, Why: q.Why, Args: q.Args, Life: life})
	if err != nil {
		return commandFault(err)
	}
	reply(w, http.StatusCreated, showCommand(d, c))
	return nil
}

func (s *Server) cancelCommand(w http.ResponseWriter, r *http.Request, who identity) error {
	d, err := s.commanded(r)
	if err != nil {
		return err
	}
	for _, c := range s.cfg.Manage.List(d.ID) {
		if c.ID == r.PathValue("command") {
			if err := mayOrder(who, c.Kind); err != nil {
				return err
			}
		}
	}
	c, err := s.cfg.Manage.Cancel(r.Context(), who.actor, d.ID, r.PathValue("command"))
	if err != nil {
		return commandFault(err)
	}
	reply(w, http.StatusOK, showCommand(d, c))
	return nil
}

// mayOrder refuses what destroys to whoever may order the rest.
func mayOrder(who identity, kind string) error {
	if (kind == agentapi.Wipe || kind == agentapi.Erase) && !who.can(WipeDevices) {
		return fmt.Errorf("command %s needs %s: %w", kind, WipeDevices, errDenied)
	}
	return nil
}

// commandFault names the errors of the command desk as this package's table of public
// errors knows them.
func commandFault(err error) error {
	for from, to := range map[error]error{manage.ErrNotFound: ErrNotFound, manage.ErrInvalid: ErrInvalid, manage.ErrFull: ErrInUse, manage.ErrBegun: ErrInUse} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", err, to)
		}
	}
	return err
}

func showCommand(d quarantine.Record, c manage.Command) api.Command {
	return api.Command{
		ID: c.ID, Device: string(d.ID), Name: d.Name, Kind: c.Kind, Args: c.Args, Why: c.Why, By: c.By.Name, Issued: c.Issued, Expires: c.Expires,
		Sequence: c.Sequence, Standing: c.Standing, State: string(c.State), Over: c.State.Over(), Sent: c.Sent, Answered: c.Answered, Detail: c.Detail,
	}
}

// waiting asks whether something waits for the device.
func (s *Server) waiting(ctx context.Context, d quarantine.Record, fresh bool) (wake string, changed <-chan struct{}) {
	if s.cfg.Manage == nil {
		return "", nil
	}
	return s.cfg.Manage.Waiting(ctx, d, fresh)
}

// cancelOn calls cancel once changed is closed, unless ctx ends or stop is called before.
func cancelOn(ctx context.Context, changed <-chan struct{}, cancel func()) (stop func()) {
	if changed == nil {
		return func() {}
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

// peer is a device at the other end of the request's connection.
func peer(r *http.Request, d quarantine.Record) (manage.Peer, error) {
	binding, err := exporter(r.TLS)
	if err != nil {
		return manage.Peer{}, fmt.Errorf("%w: %w", manage.ErrSession, err)
	}
	return manage.Peer{Record: d, Leaf: r.TLS.PeerCertificates[0], Binding: binding, Address: r.RemoteAddr}, nil
}

// exporter names a TLS connection (RFC 9266).
func exporter(c *tls.ConnectionState) ([]byte, error) {
	return c.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
}

func (s *Server) agentHello(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	var h agentapi.Hello
	if err := read(r, &h); err != nil {
		return err
	}
	p, err := peer(r, d)
	if err == nil {
		var welcome agentapi.Welcome
		if welcome, err = s.cfg.Manage.Hello(r.Context(), p, h); err == nil {
			reply(w, http.StatusOK, welcome)
			return nil
		}
	}
	return s.sessionFault(w, r, d, err)
}

func (s *Server) agentExchange(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	var x agentapi.Exchange
	if err := read(r, &x); err != nil {
		return err
	}
	p, err := peer(r, d)
	if err == nil {
		var orders agentapi.Orders
		if orders, err = s.cfg.Manage.Exchange(r.Context(), p, x); err == nil {
			reply(w, http.StatusOK, orders)
			return nil
		}
	}
	return s.sessionFault(w, r, d, err)
}

// sessionFault tells a device that there is no such session; why stays in the log.
func (s *Server) sessionFault(w http.ResponseWriter, r *http.Request, d quarantine.Record, err error) error {
	if !errors.Is(err, manage.ErrSession) {
		return err
	}
	s.cfg.Log.Warn("management session refused", "device", d.ID, "from", r.RemoteAddr, "path", strings.TrimPrefix(r.URL.Path, managePrefix), "err", err)
	reply(w, http.StatusConflict, agentapi.Problem{Error: manage.ErrSession.Error()})
	return nil
}
