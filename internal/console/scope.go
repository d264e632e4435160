package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"lazaret/enroll"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// openToBounded are the routes without a device in their path that serve an identity that
// is bounded to some devices or to one source. Each looks at what it may see by itself, or
// shows nothing of devices. All others are refused: they are about all devices at once.
var openToBounded = []string{
	"GET /api/v1/status", // counts what it sees
	"GET /api/v1/otps", "POST /api/v1/otps", "DELETE /api/v1/otps/{reference}",
	"GET /api/v1/devices",
	"POST /api/v1/reports", "POST /api/v1/reports/batch",
	"GET /api/v1/profiles", "GET /api/v1/policies", "GET /api/v1/policies/{name}", "POST /api/v1/policies/check", "GET /api/v1/facts",
	"GET /api/v1/alerts", "POST /api/v1/alerts",
	"GET /api/v1/tokens", "POST /api/v1/tokens", "GET /api/v1/tokens/{name}", "DELETE /api/v1/tokens/{name}", // its own, and what came of it
	"GET /api/v1/audit", // of one device that it sees
}

const deviceInPath = "{device}"

// admit finds out who asks and whether this route is for them. To an identity that is bounded
// to some devices all others do not exist.
func (s *Server) admit(r *http.Request, rt route) (identity, error) {
	if rt.need == anyone {
		return identity{}, nil
	}
	who, err := s.authenticate(r)
	if err != nil {
		return identity{}, err
	}
	needs := []Permission{rt.need}
	for _, b := range more[rt.pattern] {
		if b.when == "" {
			needs = append(needs, b.need)
		}
	}
	for _, p := range needs {
		if !who.can(p) {
			return identity{}, s.deny(r, who)
		}
	}
	switch {
	case strings.Contains(rt.pattern, deviceInPath):
		if len(who.scope) == 0 {
			break
		}
		d, err := s.findFor(r.Context(), who, r.PathValue("device"))
		if err != nil {
			return identity{}, err
		}
		r.SetPathValue("device", string(d.ID)) // whatever has the name by the time it is looked up again
	case who.bounded() && !slices.Contains(openToBounded, rt.pattern):
		return identity{}, s.deny(r, who)
	}
	return who, nil
}

func (s *Server) deny(r *http.Request, who identity) error {
	s.cfg.Log.Warn("refused", "actor", who.actor.Name, "method", r.Method, "path", r.URL.Path)
	return errDenied
}

// sight says which devices exist for an identity.
type sight func(quarantine.Record) bool

func (s *Server) sight(ctx context.Context, who identity) (sight, error) {
	if len(who.scope) == 0 {
		return func(quarantine.Record) bool { return true }, nil
	}
	list, err := s.cfg.Organization.Profiles.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading profiles: %w", err)
	}
	profiles := values(list)
	return func(d quarantine.Record) bool {
		p := profiles[d.Profile]
		p.Name = d.Profile
		return !slices.ContainsFunc(who.scope, func(f quarantine.Selection) bool { return !f.Selects(d, p) })
	}, nil
}

// findFor is find for one who asks: a device that they do not see is one that is unknown.
func (s *Server) findFor(ctx context.Context, who identity, ref string) (quarantine.Record, error) {
	if len(who.scope) == 0 {
		return s.find(ref)
	}
	sees, err := s.sight(ctx, who)
	if err != nil {
		return quarantine.Record{}, err
	}
	e, err := s.cfg.Gate.Explain(ref)
	if err == nil && sees(e.Record) {
		return e.Record, nil
	}
	if err != nil && !errors.Is(err, quarantine.ErrUnknownDevice) {
		return quarantine.Record{}, err
	}
	return oneBySerial(ref, slices.DeleteFunc(s.cfg.Gate.BySerial(ref), func(d quarantine.Record) bool { return !sees(d) }))
}

// seenBy are those of the devices that exist for an identity.
func (s *Server) seenBy(ctx context.Context, who identity) ([]quarantine.Record, error) {
	sees, err := s.sight(ctx, who)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(s.cfg.Gate.Devices()), func(d quarantine.Record) bool { return !sees(d) }), nil
}

// seesOTP reports whether whatever device comes of a one-time password exists for one who
// sees that much: what it does not say, the device may say as it likes.
func (s *Server) seesOTP(sees sight, o enroll.OTP) bool {
	if id := cmp.Or(o.Answer.Device, o.Device); id != "" {
		e, err := s.cfg.Gate.Explain(string(id))
		if err != nil || !sees(e.Record) {
			return false
		}
		if o.Answer.Device != "" {
			return true // it is made
		}
		d := e.Record
		d.Profile, d.Platform, d.Ownership = o.Profile, cmp.Or(o.Platform, d.Platform), cmp.Or(o.Ownership, d.Ownership)
		return sees(d)
	}
	return sees(quarantine.Record{Device: quarantine.Device{}, Profile: o.Profile, Platform: o.Platform, Ownership: o.Ownership})
}

// deviceAlerts are the kinds of alerts whose subject is a device.
var deviceAlerts = []string{"inactive-device"}

// seesAlert reports whether an alert is about a device that exists for one who sees that much.
func (s *Server) seesAlert(who identity, sees sight, a api.Alert) bool {
	if !who.bounded() {
		return true
	}
	if len(who.scope) == 0 || a.Subject == "" || !slices.Contains(deviceAlerts, a.Kind) {
		return false
	}
	e, err := s.cfg.Gate.Explain(a.Subject)
	return err == nil && string(e.Record.ID) == a.Subject && sees(e.Record)
}
