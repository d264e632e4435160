package console

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
)

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request, _ identity) error {
	return listed(w, r, s.cfg.Organization.Tokens, showToken)
}

// createToken makes a token whose scope lacks nothing the creator lacks (D4).
func (s *Server) createToken(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.TokenRequest
	if err := read(r, &q); err != nil {
		return err
	}
	if err := checkName("token", q.Name, ""); err != nil {
		return err
	}
	grants, ok := scopes[q.Scope]
	if !ok {
		return bad(`write "report", "read" or "admin"`, "scope is %q", q.Scope)
	}
	for _, p := range grants {
		if !who.can(p) {
			return fmt.Errorf("granting %s: %w", p, errDenied)
		}
	}
	if err := s.checkTokenSource(r, q); err != nil {
		return err
	}
	secret := NewToken()
	t := Token{Name: q.Name, Sum: sha256.Sum256([]byte(secret)), Scope: q.Scope, Source: q.Source, Created: s.cfg.Now().UTC(), By: who.actor.Name}
	it, err := s.cfg.Organization.Tokens.Put(r.Context(), who.actor, Item[Token]{Name: q.Name, Value: t})
	if err != nil {
		return fmt.Errorf("saving token %s: %w", q.Name, err)
	}
	shown := showToken(it)
	shown.Secret = secret
	reply(w, http.StatusCreated, shown)
	return nil
}

// checkTokenSource ties scope and source: a reporting token speaks for exactly one
// source that exists, others for none.
func (s *Server) checkTokenSource(r *http.Request, q api.TokenRequest) error {
	if q.Scope != "report" {
		if q.Source != "" {
			return bad("leave the source out", "a token of scope %s reports as nobody", q.Scope)
		}
		return nil
	}
	sources, err := s.cfg.Organization.Sources.List(r.Context())
	if err != nil {
		return err
	}
	if _, ok := values(sources)[q.Source]; !ok {
		return bad("create it first: lazaretctl source set NAME", "there is no source %q", q.Source)
	}
	return nil
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request, who identity) error {
	return deleted(w, r, who, s.cfg.Organization.Tokens)
}

func showToken(it Item[Token]) api.Token {
	t := it.Value
	return api.Token{Name: it.Name, Scope: t.Scope, Source: t.Source, Created: t.Created, By: t.By}
}

func (s *Server) status(w http.ResponseWriter, r *http.Request, _ identity) error {
	st := api.Status{Gateway: s.cfg.Gateway, Version: s.cfg.Version, Devices: map[string]int{}}
	select {
	case <-s.cfg.Gate.Ready():
		st.Ready = true
	default:
	}
	for stage, n := range s.cfg.Gate.Counts() {
		st.Devices[string(stage)] = n
	}
	reply(w, http.StatusOK, st)
	return nil
}

func (s *Server) listAudit(w http.ResponseWriter, r *http.Request, _ identity) error {
	q := r.URL.Query()
	limit, since := 100, time.Time{}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 10000 {
			return bad("write a number from 1 to 10000", "limit is %q", text)
		}
		limit = n
	}
	if text := q.Get("since"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return bad("write a time like 2026-01-31T08:00:00Z", "since is %q", text)
		}
		since = t
	}
	device := q.Get("device")
	if device != "" {
		if d, err := s.find(device); err == nil {
			device = string(d.ID)
		}
	}
	list, err := s.cfg.Audit.List(r.Context(), device, since, limit)
	if err != nil {
		return err
	}
	out := make([]api.AuditEntry, len(list))
	for i, e := range list {
		out[i] = showEntry(e)
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) auditHead(w http.ResponseWriter, r *http.Request, _ identity) error {
	head, err := s.cfg.Audit.Head(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, head)
	return nil
}

func (s *Server) exportAudit(w http.ResponseWriter, r *http.Request, _ identity) error {
	w.Header().Set("Content-Type", "application/x-tar")
	return s.cfg.Audit.Export(r.Context(), w)
}

func showEntry(e audit.Entry) api.AuditEntry {
	return api.AuditEntry{
		Revision: e.Revision, At: e.Time, By: e.Actor.Kind + " " + e.Actor.Name, Address: e.Actor.Address,
		Action: e.Action, Device: e.Device, Subject: e.Subject, Detail: e.Detail,
	}
}
