package console

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Alerts keeps alerts and where they are told. Errors wrap ErrNotFound, ErrInvalid or
// quarantine.ErrConflict.
type Alerts interface {
	// Alerts returns all, open ones first.
	Alerts(ctx context.Context) ([]api.Alert, error)
	// Act acknowledges or resolves one.
	Act(ctx context.Context, by quarantine.Actor, q api.AlertAction) (api.Alert, error)
	// Outlets returns where alerts are told.
	Outlets(ctx context.Context) ([]api.Outlet, error)
	// PutOutlet creates or changes one.
	PutOutlet(ctx context.Context, by quarantine.Actor, name string, q api.OutletRequest) (api.Outlet, error)
	// DeleteOutlet forgets one, and its password.
	DeleteOutlet(ctx context.Context, by quarantine.Actor, name string) error
	// TestOutlet sends a message that says that it is a test.
	TestOutlet(ctx context.Context, name string) error
}

// alertRoutes are about alerts.
func (s *Server) alertRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/alerts", ReadStatus, (*Server).listAlerts, "Alerts, open ones first; ?state= selects.", nil, []api.Alert{}, ok},
		{"POST /api/v1/alerts", WriteAlerts, (*Server).actOnAlert, "Acknowledge or resolve an alert.", api.AlertAction{}, api.Alert{}, ok},
		{"GET /api/v1/outlets", ReadOrganization, (*Server).listOutlets, "Where alerts are told, without passwords.", nil, []api.Outlet{}, ok},
		{"PUT /api/v1/outlets/{name}", WriteOrganization, (*Server).putOutlet, "Create an outlet for alerts (revision 0) or change it.", api.OutletRequest{}, api.Outlet{}, ok},
		{"POST /api/v1/outlets/{name}/test", WriteOrganization, (*Server).testOutlet, "Send a message that says that it is a test.", nil, nil, none},
		{"DELETE /api/v1/outlets/{name}", WriteOrganization, (*Server).deleteOutlet, "Delete an outlet and its password.", nil, nil, none},
	}
}

func (s *Server) alerts() (Alerts, error) {
	if s.cfg.Alerts == nil {
		return nil, ErrNotFound
	}
	return s.cfg.Alerts, nil
}

func (s *Server) listAlerts(w http.ResponseWriter, r *http.Request, who identity) error {
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	all, err := alerts.Alerts(r.Context())
	if err != nil {
		return err
	}
	if all, err = s.alertsFor(r.Context(), who, all); err != nil {
		return err
	}
	if state := r.URL.Query().Get("state"); state != "" {
		all = slices.DeleteFunc(all, func(a api.Alert) bool { return a.State != state && (state != "open" || a.State == "resolved") })
	}
	reply(w, http.StatusOK, slices.Concat([]api.Alert{}, all))
	return nil
}

// alertsFor are those of the alerts that one who asks may know of.
func (s *Server) alertsFor(ctx context.Context, who identity, all []api.Alert) ([]api.Alert, error) {
	sees, err := s.sight(ctx, who)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(a api.Alert) bool { return !s.seesAlert(who, sees, a) }), nil
}

func (s *Server) actOnAlert(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.AlertAction
	if err := read(r, &q); err != nil {
		return err
	}
	if q.Action != "acknowledge" && q.Action != "resolve" {
		return bad("send \"acknowledge\" or \"resolve\"", "action is %.40q", q.Action)
	}
	if len(q.Why) > 512 {
		return bad("say it in 512 bytes", "the reason is too long")
	}
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	if who.bounded() {
		all, err := alerts.Alerts(r.Context())
		if err == nil {
			all, err = s.alertsFor(r.Context(), who, all)
		}
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(all, func(a api.Alert) bool { return a.ID == q.ID }) {
			return fmt.Errorf("alert %.80q: %w", q.ID, ErrNotFound)
		}
	}
	a, err := alerts.Act(r.Context(), who.actor, q)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, a)
	return nil
}

func (s *Server) listOutlets(w http.ResponseWriter, r *http.Request, _ identity) error {
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	all, err := alerts.Outlets(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, slices.Concat([]api.Outlet{}, all))
	return nil
}

func (s *Server) putOutlet(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.OutletRequest
	if err := read(r, &q); err != nil {
		return err
	}
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	o, err := alerts.PutOutlet(r.Context(), who.actor, r.PathValue("name"), q)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, o)
	return nil
}

func (s *Server) testOutlet(w http.ResponseWriter, r *http.Request, _ identity) error {
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	if err := alerts.TestOutlet(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) deleteOutlet(w http.ResponseWriter, r *http.Request, who identity) error {
	alerts, err := s.alerts()
	if err != nil {
		return err
	}
	if err := alerts.DeleteOutlet(r.Context(), who.actor, r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
