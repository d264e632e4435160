package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Connections keeps how sources of some kinds are asked. Errors wrap ErrInvalid or
// quarantine.ErrConflict.
type Connections interface {
	// Validity is what a source of a kind gets where nobody says, if it is one that is asked.
	Validity(kind quarantine.SourceKind) (time.Duration, bool)
	// Connection tells how a source is asked, without its secrets.
	Connection(ctx context.Context, source quarantine.Source) (api.Connection, error)
	// Connect changes how a source is asked.
	Connect(ctx context.Context, by quarantine.Actor, source quarantine.Source, q api.ConnectionRequest) error
	// Changed says that a source is another.
	Changed()
	// Forget drops how a source that is gone was asked.
	Forget(ctx context.Context, by quarantine.Actor, name string) error
}

// sourceRoutes are about who may report compliance. What says who a source is, and with what
// secret, is as good as a token.
func (s *Server) sourceRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/sources", ReadOrganization, (*Server).listSources, "Sources of compliance reports.", nil, []api.Source{}, ok},
		{"GET /api/v1/sources/{name}", ReadOrganization, (*Server).showSource, "One source.", nil, api.Source{}, ok},
		{"PUT /api/v1/sources/{name}", WriteOrganization, (*Server).putSource, "Create a source (revision 0) or change it.", api.Source{}, api.Source{}, ok},
		{"DELETE /api/v1/sources/{name}", WriteOrganization, (*Server).deleteSource, "Delete a source that no token speaks for.", nil, nil, none},
		{"GET /api/v1/sources/health", ReadOrganization, (*Server).listHealth, "How all sources do that were heard of since the gateway started.", nil, []api.SourceHealth{}, ok},
		{"GET /api/v1/sources/{name}/health", ReadOrganization, (*Server).showHealth, "How one source does.", nil, api.SourceHealth{}, ok},
		{"GET /api/v1/sources/{name}/settings", ReadOrganization, (*Server).showConnection, "How a source is asked, without its secrets.", nil, api.Connection{}, ok},
		{"PUT /api/v1/sources/{name}/settings", WriteTokens, (*Server).putConnection, "Change how a source is asked. Secrets are never shown again.", api.ConnectionRequest{}, api.Connection{}, ok},
	}
}

func (s *Server) listSources(w http.ResponseWriter, r *http.Request, _ identity) error {
	return listed(w, r, s.cfg.Organization.Sources, showSource)
}

func (s *Server) showSource(w http.ResponseWriter, r *http.Request, _ identity) error {
	it, err := s.sourceNamed(r)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, showSource(it))
	return nil
}

// sourceNamed is the source that a path names.
func (s *Server) sourceNamed(r *http.Request) (Item[quarantine.Source], error) {
	it, ok, err := s.findSource(r.Context(), r.PathValue("name"))
	if err == nil && !ok {
		err = fmt.Errorf("source %.64q: %w", r.PathValue("name"), ErrNotFound)
	}
	return it, err
}

func (s *Server) findSource(ctx context.Context, name string) (Item[quarantine.Source], bool, error) {
	all, err := s.cfg.Organization.Sources.List(ctx)
	for _, it := range all {
		if it.Name == name {
			return it, true, err
		}
	}
	return Item[quarantine.Source]{}, false, err
}

func (s *Server) putSource(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.Source
	if err := read(r, &q); err != nil {
		return err
	}
	name := r.PathValue("name")
	if err := checkName("source", name, q.Name); err != nil {
		return err
	}
	if name == quarantine.AgentSource || name == "health" {
		return bad("choose another name", "%q is taken: agent is every device's own agent, health is a page", name)
	}
	src, err := s.sourceFrom(name, q)
	if err != nil {
		return err
	}
	old, had, err := s.findSource(r.Context(), name)
	if err != nil {
		return err
	}
	if had && kindOf(old.Value) != kindOf(src) {
		return bad("delete it, and create another", "source %s is of kind %s", name, kindOf(old.Value))
	}
	if err := mayGrant(who, src); err != nil {
		return err
	}
	if err := saved(w, r, who, s.cfg.Organization.Sources, Item[quarantine.Source]{Name: name, Value: src, Revision: q.Revision}, showSource); err != nil {
		return err
	}
	if s.cfg.Connections != nil {
		s.cfg.Connections.Changed()
	}
	return nil
}

// mayGrant refuses to make a source, or to say who it is, that may release, to whoever lacks
// that right: nobody gives what they have not got (D4).
func mayGrant(who identity, src quarantine.Source) error {
	if src.MayRelease && !who.can(GrantRelease) {
		return fmt.Errorf("granting %s: %w", GrantRelease, errDenied)
	}
	return nil
}

// mayGrantTo is mayGrant for a source that is kept.
func (s *Server) mayGrantTo(r *http.Request, who identity, name string) error {
	it, _, err := s.findSource(r.Context(), name)
	if err != nil {
		return err
	}
	return mayGrant(who, it.Value)
}

// kindOf is a source's kind, where an empty one is named.
func kindOf(src quarantine.Source) quarantine.SourceKind {
	return cmp.Or(src.Kind, quarantine.SourceAPI)
}

// sourceFrom checks a source. One that is asked gets the validity of its kind where none is
// wanted, since its devices may be heard of no more often.
func (s *Server) sourceFrom(name string, q api.Source) (quarantine.Source, error) {
	longest, err := duration("max_validity", q.MaxValidity)
	if err != nil {
		return quarantine.Source{}, err
	}
	silent, err := duration("silent", q.Silent)
	if err != nil {
		return quarantine.Source{}, err
	}
	src := quarantine.Source{
		Name: name, MayRelease: q.MayRelease, MaxValidity: longest, Kind: quarantine.SourceKind(q.Kind),
		For: quarantine.Selection(q.For), Facts: q.Facts, Silent: silent,
	}
	if err := src.Check(); err != nil {
		return src, bad("correct it and save it again", "%v", err)
	}
	if longest == 0 && s.cfg.Connections != nil {
		if usual, ok := s.cfg.Connections.Validity(src.Kind); ok {
			src.MaxValidity = usual
		}
	}
	return src, nil
}

func (s *Server) deleteSource(w http.ResponseWriter, r *http.Request, who identity) error {
	tokens, err := s.cfg.Organization.Tokens.List(r.Context())
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	for _, t := range tokens {
		if t.Value.Source == name {
			return fmt.Errorf("source %s has token %s: %w", t.Value.Source, t.Name, ErrInUse)
		}
	}
	if s.cfg.Connections != nil {
		if _, there, err := s.findSource(r.Context(), name); err != nil {
			return err
		} else if there { // its secrets first: one that is left behind would be another's of its name
			if err := s.cfg.Connections.Forget(r.Context(), who.actor, name); err != nil {
				return err
			}
		}
	}
	return deleted(w, r, who, s.cfg.Organization.Sources)
}

func showSource(it Item[quarantine.Source]) api.Source {
	v := it.Value
	out := api.Source{
		Name: it.Name, Kind: string(kindOf(v)), MayRelease: v.MayRelease, For: api.Selection(v.For),
		Facts: append([]string{}, v.Facts...), Revision: it.Revision,
	}
	if v.MaxValidity > 0 {
		out.MaxValidity = v.MaxValidity.String()
	}
	if v.Silent > 0 {
		out.Silent = v.Silent.String()
	}
	return out
}

func (s *Server) health() []api.SourceHealth {
	if s.cfg.Health == nil {
		return []api.SourceHealth{}
	}
	return s.cfg.Health()
}

func (s *Server) listHealth(w http.ResponseWriter, _ *http.Request, _ identity) error {
	reply(w, http.StatusOK, s.health())
	return nil
}

func (s *Server) showHealth(w http.ResponseWriter, r *http.Request, _ identity) error {
	it, err := s.sourceNamed(r)
	if err != nil {
		return err
	}
	out := api.SourceHealth{Source: it.Name, Kind: string(kindOf(it.Value))} // nothing heard yet
	for _, h := range s.health() {
		if h.Source == it.Name {
			out = h
		}
	}
	reply(w, http.StatusOK, out)
	return nil
}

// asked is the source that a path names, if it is of a kind that is asked.
func (s *Server) asked(r *http.Request) (quarantine.Source, error) {
	it, err := s.sourceNamed(r)
	if err != nil {
		return it.Value, err
	}
	if s.cfg.Connections != nil {
		if _, ok := s.cfg.Connections.Validity(it.Value.Kind); ok {
			it.Value.Name = it.Name
			return it.Value, nil
		}
	}
	return it.Value, bad("fleet, intune and jamf have settings; see lazaretctl hook, ssf and token for the others", "source %s is of kind %s, which has none of these", it.Name, kindOf(it.Value))
}

func (s *Server) showConnection(w http.ResponseWriter, r *http.Request, _ identity) error {
	src, err := s.asked(r)
	if err != nil {
		return err
	}
	return s.replyConnection(w, r, src)
}

func (s *Server) replyConnection(w http.ResponseWriter, r *http.Request, src quarantine.Source) error {
	out, err := s.cfg.Connections.Connection(r.Context(), src)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) putConnection(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.ConnectionRequest
	if err := read(r, &q); err != nil {
		return err
	}
	src, err := s.asked(r)
	if err != nil {
		return err
	}
	if err := mayGrant(who, src); err != nil {
		return err
	}
	if err := s.cfg.Connections.Connect(r.Context(), who.actor, src, q); err != nil {
		return err
	}
	return s.replyConnection(w, r, src)
}
