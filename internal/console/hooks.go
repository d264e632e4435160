package console

import (
	"context"
	"net/http"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Hooks keeps the keys of sources that send signed webhooks. Errors wrap ErrNotFound,
// ErrInvalid or quarantine.ErrConflict.
type Hooks interface {
	// Hook tells of a source's keys, without their secrets.
	Hook(ctx context.Context, source string) (api.Hook, error)
	// AddKey makes a key; its answer alone bears the secret.
	AddKey(ctx context.Context, by quarantine.Actor, source string) (api.HookKey, error)
	// RemoveKey takes a key away: it signs nothing any more.
	RemoveKey(ctx context.Context, by quarantine.Actor, source, key string) error
	// SetWindow bounds how far a message's time stamp may be from now.
	SetWindow(ctx context.Context, by quarantine.Actor, source string, window time.Duration) error
}

// hookRoutes are about signed webhooks that sources send. A key is as good as a token.
func (s *Server) hookRoutes() []route {
	const ok, created, none = http.StatusOK, http.StatusCreated, http.StatusNoContent
	return []route{
		{"GET /api/v1/hooks", ReadTokens, (*Server).listHooks, "Sources that send signed webhooks, and their keys without the secrets.", nil, []api.Hook{}, ok},
		{"GET /api/v1/hooks/{source}", ReadTokens, (*Server).showHook, "One source that sends signed webhooks.", nil, api.Hook{}, ok},
		{"PUT /api/v1/hooks/{source}", WriteTokens, (*Server).putHook, "Change how fresh a source's webhooks must be.", api.HookRequest{}, api.Hook{}, ok},
		{"POST /api/v1/hooks/{source}/keys", WriteTokens, (*Server).addHookKey, "Add a key, three at most; the only answer that bears its secret.", nil, api.HookKey{}, created},
		{"DELETE /api/v1/hooks/{source}/keys/{key}", WriteTokens, (*Server).removeHookKey, "Remove a key; it signs nothing from the next message on.", nil, nil, none},
	}
}

func (s *Server) listHooks(w http.ResponseWriter, r *http.Request, _ identity) error {
	sources, err := s.cfg.Organization.Sources.List(r.Context())
	if err != nil {
		return err
	}
	out := []api.Hook{}
	for _, it := range sources {
		if it.Value.Kind != quarantine.SourceWebhook || s.cfg.Hooks == nil {
			continue
		}
		h, err := s.cfg.Hooks.Hook(r.Context(), it.Name)
		if err != nil {
			return err
		}
		out = append(out, h)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// hookSource is the source that a path names, if it sends webhooks.
func (s *Server) hookSource(r *http.Request) (string, error) {
	name := r.PathValue("source")
	sources, err := s.cfg.Organization.Sources.List(r.Context())
	if err != nil {
		return "", err
	}
	src, known := values(sources)[name]
	if !known || s.cfg.Hooks == nil {
		return "", bad("create it first: lazaretctl source set NAME --kind webhook", "there is no source %.64q", name)
	}
	if src.Kind != quarantine.SourceWebhook {
		return "", bad("make another source: lazaretctl source set NAME --kind webhook", "source %q does not send webhooks", name)
	}
	return name, nil
}

func (s *Server) showHook(w http.ResponseWriter, r *http.Request, _ identity) error {
	name, err := s.hookSource(r)
	if err != nil {
		return err
	}
	return s.replyHook(w, r, name)
}

func (s *Server) replyHook(w http.ResponseWriter, r *http.Request, name string) error {
	h, err := s.cfg.Hooks.Hook(r.Context(), name)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, h)
	return nil
}

func (s *Server) putHook(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.HookRequest
	if err := read(r, &q); err != nil {
		return err
	}
	name, err := s.hookSource(r)
	if err != nil {
		return err
	}
	window, err := duration("window", q.Window)
	if err != nil {
		return err
	}
	if err := s.cfg.Hooks.SetWindow(r.Context(), who.actor, name, window); err != nil {
		return err
	}
	return s.replyHook(w, r, name)
}

func (s *Server) addHookKey(w http.ResponseWriter, r *http.Request, who identity) error {
	name, err := s.hookSource(r)
	if err != nil {
		return err
	}
	if err := s.mayGrantTo(r, who, name); err != nil {
		return err
	}
	key, err := s.cfg.Hooks.AddKey(r.Context(), who.actor, name)
	if err != nil {
		return err
	}
	reply(w, http.StatusCreated, key)
	return nil
}

func (s *Server) removeHookKey(w http.ResponseWriter, r *http.Request, who identity) error {
	name, err := s.hookSource(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Hooks.RemoveKey(r.Context(), who.actor, name, r.PathValue("key")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
