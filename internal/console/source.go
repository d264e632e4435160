package console

import (
	"fmt"
	"net/http"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// sourceRoutes are about who may report compliance.
func (s *Server) sourceRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/sources", ReadOrganization, (*Server).listSources, "Sources of compliance reports.", nil, []api.Source{}, ok},
		{"PUT /api/v1/sources/{name}", WriteOrganization, (*Server).putSource, "Create a source (revision 0) or change it.", api.Source{}, api.Source{}, ok},
		{"DELETE /api/v1/sources/{name}", WriteOrganization, (*Server).deleteSource, "Delete a source that no token speaks for.", nil, nil, none},
	}
}

func (s *Server) listSources(w http.ResponseWriter, r *http.Request, _ identity) error {
	return listed(w, r, s.cfg.Organization.Sources, showSource)
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
	if name == quarantine.AgentSource {
		return bad("choose another name", "%q is every device's own agent", name)
	}
	longest, err := duration("max_validity", q.MaxValidity)
	if err != nil {
		return err
	}
	src := quarantine.Source{Name: name, MayRelease: q.MayRelease, MaxValidity: longest, Facts: []string{"*"}}
	return saved(w, r, who, s.cfg.Organization.Sources, Item[quarantine.Source]{Name: name, Value: src, Revision: q.Revision}, showSource)
}

func (s *Server) deleteSource(w http.ResponseWriter, r *http.Request, who identity) error {
	tokens, err := s.cfg.Organization.Tokens.List(r.Context())
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Value.Source == r.PathValue("name") {
			return fmt.Errorf("source %s has token %s: %w", t.Value.Source, t.Name, ErrInUse)
		}
	}
	return deleted(w, r, who, s.cfg.Organization.Sources)
}

func showSource(it Item[quarantine.Source]) api.Source {
	out := api.Source{Name: it.Name, MayRelease: it.Value.MayRelease, Revision: it.Revision}
	if it.Value.MaxValidity > 0 {
		out.MaxValidity = it.Value.MaxValidity.String()
	}
	return out
}
