package console

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// deviceRoutes are about what people tell of one device, and where it stood.
func (s *Server) deviceRoutes() []route {
	const ok = http.StatusOK
	return []route{
		{"GET /api/v1/devices/{device}/history", ReadDevices, (*Server).deviceHistory, "Where the device stood, newest first; ?since= and ?limit= select.", nil, []api.Move{}, ok},
		{"POST /api/v1/devices/{device}/waivers", WriteDevices, (*Server).waiveRule, "Let a rule of a policy set not count for a while.", api.WaiverRequest{}, api.Placed{}, ok},
		{"PUT /api/v1/devices/{device}/groups", WriteDevices, (*Server).regroupDevice, "Replace the device's own groups.", api.GroupsRequest{}, api.Placed{}, ok},
		{"POST /api/v1/devices/{device}/session", WriteSessions, (*Server).signIn, "Say that the device's user has authenticated.", api.SessionRequest{}, api.Placed{}, ok},
		{"DELETE /api/v1/devices/{device}/session", WriteSessions, (*Server).signOut, "End the session of the device's user.", nil, api.Placed{}, ok},
	}
}

// told reads a request about the device in the path, and what it says.
func told[T any](s *Server, r *http.Request, who identity, kind quarantine.Kind) (q T, c quarantine.Change, err error) {
	if r.Method != http.MethodDelete {
		if err := read(r, &q); err != nil {
			return q, c, err
		}
	}
	d, err := s.find(r.PathValue("device"))
	return q, quarantine.Change{Kind: kind, Device: d.ID, By: who.actor, At: s.cfg.Now()}, err
}

func (s *Server) waiveRule(w http.ResponseWriter, r *http.Request, who identity) error {
	q, c, err := told[api.WaiverRequest](s, r, who, quarantine.Clear)
	if err != nil {
		return err
	}
	life, err := duration("for", q.For)
	if err != nil {
		return err
	}
	c.Rule, c.Until, c.Why = q.Rule, c.At.Add(life), q.Why
	return s.change(w, r, who, c)
}

func (s *Server) regroupDevice(w http.ResponseWriter, r *http.Request, who identity) error {
	q, c, err := told[api.GroupsRequest](s, r, who, quarantine.Regroup)
	if err != nil {
		return err
	}
	c.Groups = q.Groups
	return s.change(w, r, who, c)
}

func (s *Server) signIn(w http.ResponseWriter, r *http.Request, who identity) error {
	q, c, err := told[api.SessionRequest](s, r, who, quarantine.SignIn)
	if err != nil {
		return err
	}
	life, err := duration("life", q.Life)
	if err != nil {
		return err
	}
	if len(q.How) > 200 {
		return bad("say it in at most 200 bytes", "how is %d bytes", len(q.How))
	}
	session := quarantine.UserSession{User: q.User, At: q.At, How: q.How}
	if life > 0 {
		session.Until = cmp.Or(q.At, c.At).Add(life)
	}
	c.Session = &session
	return s.change(w, r, who, c)
}

func (s *Server) signOut(w http.ResponseWriter, r *http.Request, who identity) error {
	_, c, err := told[struct{}](s, r, who, quarantine.SignOut)
	if err != nil {
		return err
	}
	return s.change(w, r, who, c)
}

// maxHistory is how many audit entries of a device are looked through for its moves.
const maxHistory = 20000

// deviceHistory tells where a device stood, from the audit log.
func (s *Server) deviceHistory(w http.ResponseWriter, r *http.Request, _ identity) error {
	q := r.URL.Query()
	limit, since := 100, time.Time{}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return bad("write a number from 1 to 1000", "limit is %.40q", text)
		}
		limit = n
	}
	if text := q.Get("since"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return bad("write a time like 2026-01-31T08:00:00Z", "since is %.40q", text)
		}
		since = t
	}
	d, err := s.find(r.PathValue("device"))
	if err != nil {
		return err
	}
	entries, err := s.cfg.Audit.List(r.Context(), string(d.ID), since, maxHistory)
	if err != nil {
		return err
	}
	moves := []api.Move{}
	for _, e := range entries {
		if m, ok := moveOf(e); ok && len(moves) < limit {
			moves = append(moves, m)
		}
	}
	reply(w, http.StatusOK, moves)
	return nil
}

// moveOf is the move that an audit entry tells of, if it tells of one.
func moveOf(e audit.Entry) (api.Move, bool) {
	d := e.Detail
	m := api.Move{
		At: e.Time, By: e.Actor.Kind + " " + e.Actor.Name, Action: e.Action, From: d["from"], FromPool: d["from pool"], To: d["to"], Pool: d["pool"],
		Until: d["until"], Rule: d["rule"], Reason: d["reason"], Why: d["why"], Source: d["source"],
	}
	return m, m.To != "" && (m.From != m.To || m.FromPool != "")
}

// showFailing lists the rules that fail, and since when.
func showFailing(e quarantine.Explanation) []api.Failing {
	out := []api.Failing{}
	for _, ref := range e.Decided.Failing {
		out = append(out, api.Failing{Rule: ref, Since: e.Record.Failing[ref]})
	}
	return out
}

func showWaivers(e quarantine.Explanation) []api.Waiver {
	out := []api.Waiver{}
	for _, ref := range slices.Sorted(maps.Keys(e.Record.Waivers)) {
		v := e.Record.Waivers[ref]
		out = append(out, api.Waiver{Rule: ref, By: v.By.Kind + " " + v.By.Name, At: v.At, Why: v.Why, Until: v.Until})
	}
	return out
}

func showSession(u quarantine.UserSession) *api.Session {
	if u.User == "" {
		return nil
	}
	return &api.Session{User: u.User, At: u.At, Until: u.Until, How: u.How, By: u.By.Kind + " " + u.By.Name}
}

// remedies is what would change where the device stands, each told once, in the order of the
// reasons; nothing for a device that is routed and of which no rule fails.
func remedies(e quarantine.Explanation) []string {
	var out []string
	for _, r := range e.InForce.Reasons {
		routed := e.InForce.Stage == quarantine.Routed && r.Set == "" // what a profile or another source makes idle
		if !r.Holds && r.Remedy != "" && !routed && !slices.Contains(out, r.Remedy) {
			out = append(out, r.Remedy)
		}
	}
	return out
}
