package console

import (
	"context"
	"fmt"
	"net/http"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Streams keeps who is told of device events. Errors wrap ErrNotFound, ErrInvalid,
// enroll.ErrExists or quarantine.ErrConflict.
type Streams interface {
	List(ctx context.Context) ([]api.Stream, error)
	Add(ctx context.Context, by quarantine.Actor, q api.StreamRequest) (api.Stream, error)
	Update(ctx context.Context, by quarantine.Actor, name string, q api.StreamChange) error
	Remove(ctx context.Context, by quarantine.Actor, name string) error
	AddKey(ctx context.Context, by quarantine.Actor, name string) (api.HookKey, error)
	RemoveKey(ctx context.Context, by quarantine.Actor, name, key string) error
	// Do does one of "resume", "test", "token" and "signer". It returns the new token, or what
	// was wrong with a test delivery; empty: it arrived.
	Do(ctx context.Context, by quarantine.Actor, name, what string) (string, error)
}

// streamRoutes are about those who are told what happens to devices.
func (s *Server) streamRoutes() []route {
	const ok, created, none = http.StatusOK, http.StatusCreated, http.StatusNoContent
	return []route{
		{"GET /api/v1/streams", ReadOrganization, (*Server).listStreams, "Receivers of device events, and how they do.", nil, []api.Stream{}, ok},
		{"POST /api/v1/streams", WriteOrganization, (*Server).addStream, "Add a receiver; the only answer that bears its secret.", api.StreamRequest{}, api.Stream{}, created},
		{"GET /api/v1/streams/{name}", ReadOrganization, (*Server).showReceiver, "One receiver.", nil, api.Stream{}, ok},
		{"PATCH /api/v1/streams/{name}", WriteOrganization, (*Server).changeStream, "Change a receiver; what is not named stays.", api.StreamChange{}, api.Stream{}, ok},
		{"DELETE /api/v1/streams/{name}", WriteOrganization, (*Server).removeStream, "Remove a receiver; it is told nothing any more.", nil, nil, none},
		{"POST /api/v1/streams/{name}/test", WriteOrganization, (*Server).testStream, "Send a ping at once, past the queue.", nil, api.StreamTest{}, ok},
		{"POST /api/v1/streams/{name}/resume", WriteOrganization, (*Server).resumeStream, "Go on sending to a receiver that was parked.", nil, api.Stream{}, ok},
		{"POST /api/v1/streams/{name}/keys", WriteOrganization, (*Server).addStreamKey, "Add a second key; messages bear both signatures.", nil, api.HookKey{}, created},
		{"DELETE /api/v1/streams/{name}/keys/{key}", WriteOrganization, (*Server).removeStreamKey, "Remove a key.", nil, nil, none},
		{"POST /api/v1/streams/{name}/token", WriteOrganization, (*Server).newStreamToken, "Give an ssf receiver another token.", nil, api.StreamToken{}, created},
		{"POST /api/v1/stream-signer", WriteOrganization, (*Server).rotateSigner, "Make a new key that signs events for ssf receivers; the last two stay published.", nil, nil, none},
	}
}

// streams refuses where the gateway has none.
func (s *Server) streams() (Streams, error) {
	if s.cfg.Streams == nil {
		return nil, fmt.Errorf("streams: %w", ErrNotFound)
	}
	return s.cfg.Streams, nil
}

func (s *Server) listStreams(w http.ResponseWriter, r *http.Request, _ identity) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	all, err := streams.List(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, all)
	return nil
}

func (s *Server) addStream(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.StreamRequest
	if err := read(r, &q); err != nil {
		return err
	}
	if err := checkName("stream", q.Name, ""); err != nil {
		return err
	}
	streams, err := s.streams()
	if err != nil {
		return err
	}
	made, err := streams.Add(r.Context(), who.actor, q)
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, made)
	return nil
}

func (s *Server) showReceiver(w http.ResponseWriter, r *http.Request, _ identity) error {
	return s.replyReceiver(w, r)
}

// replyReceiver answers with the receiver that the path names.
func (s *Server) replyReceiver(w http.ResponseWriter, r *http.Request) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	all, err := streams.List(r.Context())
	if err != nil {
		return err
	}
	for _, one := range all {
		if one.Name == r.PathValue("name") {
			reply(w, http.StatusOK, one)
			return nil
		}
	}
	return fmt.Errorf("stream %.64q: %w", r.PathValue("name"), ErrNotFound)
}

func (s *Server) changeStream(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.StreamChange
	if err := read(r, &q); err != nil {
		return err
	}
	streams, err := s.streams()
	if err != nil {
		return err
	}
	if err := streams.Update(r.Context(), who.actor, r.PathValue("name"), q); err != nil {
		return err
	}
	return s.replyReceiver(w, r)
}

func (s *Server) removeStream(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err == nil {
		err = streams.Remove(r.Context(), who.actor, r.PathValue("name"))
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// testStream answers how the delivery went: that it failed is no failure of the request.
func (s *Server) testStream(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	out := api.StreamTest{OK: true}
	out.Problem, err = streams.Do(r.Context(), who.actor, r.PathValue("name"), "test")
	if err != nil {
		return err
	}
	out.OK = out.Problem == ""
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) resumeStream(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	if _, err := streams.Do(r.Context(), who.actor, r.PathValue("name"), "resume"); err != nil {
		return err
	}
	return s.replyReceiver(w, r)
}

func (s *Server) addStreamKey(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	key, err := streams.AddKey(r.Context(), who.actor, r.PathValue("name"))
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, key)
	return nil
}

func (s *Server) removeStreamKey(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err == nil {
		err = streams.RemoveKey(r.Context(), who.actor, r.PathValue("name"), r.PathValue("key"))
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) newStreamToken(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err != nil {
		return err
	}
	token, err := streams.Do(r.Context(), who.actor, r.PathValue("name"), "token")
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, api.StreamToken{Secret: token})
	return nil
}

func (s *Server) rotateSigner(w http.ResponseWriter, r *http.Request, who identity) error {
	streams, err := s.streams()
	if err == nil {
		_, err = streams.Do(r.Context(), who.actor, "", "signer")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
