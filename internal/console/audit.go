package console

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

func (s *Server) status(w http.ResponseWriter, r *http.Request, who identity) error {
	st := api.Status{Gateway: s.cfg.Gateway, Version: s.cfg.Version, Devices: map[string]int{}}
	select {
	case <-s.cfg.Gate.Ready():
		st.Ready = true
	default:
	}
	counts, err := s.countsFor(r.Context(), who)
	if err != nil {
		return err
	}
	for stage, n := range counts {
		st.Devices[string(stage)] = n
	}
	reply(w, http.StatusOK, st)
	return nil
}

// countsFor counts the devices that exist for one who asks, by stage.
func (s *Server) countsFor(ctx context.Context, who identity) (map[quarantine.Stage]int, error) {
	if len(who.scope) == 0 {
		return s.cfg.Gate.Counts(), nil
	}
	devices, err := s.seenBy(ctx, who)
	if err != nil {
		return nil, err
	}
	counts := map[quarantine.Stage]int{}
	for _, d := range devices {
		counts[d.Stage]++
	}
	return counts, nil
}

func (s *Server) listAudit(w http.ResponseWriter, r *http.Request, who identity) error {
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
	if len(who.scope) > 0 {
		if device == "" {
			return bad("name one: ?device=", "this credential sees the audit log of single devices")
		}
		d, err := s.findFor(r.Context(), who, device)
		if err != nil {
			return err
		}
		device = string(d.ID)
	} else if device != "" {
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
