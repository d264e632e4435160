package console

import (
	"context"
	"errors"
	"net/http"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Signals keeps the streams of sources of kind ssf. Errors wrap ErrNotFound, ErrInvalid,
// ErrUpstream, enroll.ErrExists or quarantine.ErrConflict.
type Signals interface {
	// Stream tells of a source's stream, without its secrets.
	Stream(ctx context.Context, source string) (api.Signals, error)
	// PutStream creates a stream or changes it.
	PutStream(ctx context.Context, by quarantine.Actor, source string, q api.SignalsRequest) error
	// VerifyStream asks the transmitter for a verification event, and waits some seconds for it.
	VerifyStream(ctx context.Context, source string) (bool, error)
	// SetStreamStatus asks the transmitter to change the stream's status.
	SetStreamStatus(ctx context.Context, by quarantine.Actor, source string, q api.SignalsStatusRequest) error
	// LiftAccount takes back what stands against a user's account.
	LiftAccount(ctx context.Context, by quarantine.Actor, source, account string) error
}

// ErrUpstream reports a server of somebody else's that did not do as it was asked.
var ErrUpstream = errors.New("another server did not do as it was asked")

// signalRoutes are about Shared Signals. What changes a stream's keys or secrets is as good
// as a token.
func (s *Server) signalRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/sources/{name}/ssf", ReadOrganization, (*Server).showStream, "A Shared Signals stream and how it does, without its secrets.", nil, api.Signals{}, ok},
		{"PUT /api/v1/sources/{name}/ssf", WriteTokens, (*Server).putStream, "Create a Shared Signals stream (revision 0) or change it.", api.SignalsRequest{}, api.Signals{}, ok},
		{"POST /api/v1/sources/{name}/ssf/verify", WriteOrganization, (*Server).verifyStream, "Ask the transmitter for a verification event.", nil, api.SignalsVerified{}, ok},
		{"PUT /api/v1/sources/{name}/ssf/status", WriteOrganization, (*Server).setStreamStatus, "Ask the transmitter to enable, pause or disable the stream.", api.SignalsStatusRequest{}, api.Signals{}, ok},
		{"DELETE /api/v1/sources/{name}/ssf/accounts/{account}", WriteTokens, (*Server).liftAccount, "Take back what stands against a user's account.", nil, nil, none},
	}
}

// streamSource is the source that a path names, if it is one of Shared Signals.
func (s *Server) streamSource(r *http.Request) (string, error) {
	name := r.PathValue("name")
	sources, err := s.cfg.Organization.Sources.List(r.Context())
	if err != nil {
		return "", err
	}
	for _, it := range sources {
		if it.Name == name && it.Value.Kind == quarantine.SourceSSF && s.cfg.Signals != nil {
			return name, nil
		}
	}
	return "", bad("create it first: lazaretctl source set NAME --kind ssf", "there is no source %.64q of kind ssf", name)
}

func (s *Server) showStream(w http.ResponseWriter, r *http.Request, _ identity) error {
	name, err := s.streamSource(r)
	if err != nil {
		return err
	}
	return s.replyStream(w, r, name)
}

func (s *Server) replyStream(w http.ResponseWriter, r *http.Request, name string) error {
	v, err := s.cfg.Signals.Stream(r.Context(), name)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, v)
	return nil
}

func (s *Server) putStream(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.SignalsRequest
	if err := read(r, &q); err != nil {
		return err
	}
	name, err := s.streamSource(r)
	if err != nil {
		return err
	}
	if err := s.mayGrantTo(r, who, name); err != nil {
		return err
	}
	if err := s.cfg.Signals.PutStream(r.Context(), who.actor, name, q); err != nil {
		return err
	}
	return s.replyStream(w, r, name)
}

func (s *Server) verifyStream(w http.ResponseWriter, r *http.Request, _ identity) error {
	name, err := s.streamSource(r)
	if err != nil {
		return err
	}
	back, err := s.cfg.Signals.VerifyStream(r.Context(), name)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.SignalsVerified{Back: back})
	return nil
}

func (s *Server) setStreamStatus(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.SignalsStatusRequest
	if err := read(r, &q); err != nil {
		return err
	}
	name, err := s.streamSource(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Signals.SetStreamStatus(r.Context(), who.actor, name, q); err != nil {
		return err
	}
	return s.replyStream(w, r, name)
}

func (s *Server) liftAccount(w http.ResponseWriter, r *http.Request, who identity) error {
	name, err := s.streamSource(r)
	if err != nil {
		return err
	}
	if err := s.mayGrantTo(r, who, name); err != nil {
		return err
	}
	if err := s.cfg.Signals.LiftAccount(r.Context(), who.actor, name, r.PathValue("account")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
