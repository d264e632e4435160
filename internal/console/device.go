package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// find looks a device up by id, name or, where only one has it, the serial number that
// its one-time password named. None of them is a credential: they only say which device
// is meant.
func (s *Server) find(ref string) (quarantine.Record, error) {
	e, err := s.cfg.Gate.Explain(ref)
	if err == nil {
		return e.Record, nil
	}
	if !errors.Is(err, quarantine.ErrUnknownDevice) {
		return quarantine.Record{}, err
	}
	return oneBySerial(ref, s.cfg.Gate.BySerial(ref))
}

// oneBySerial is the one device of those with a serial number that is not revoked.
func oneBySerial(ref string, all []quarantine.Record) (quarantine.Record, error) {
	live := slices.DeleteFunc(slices.Clone(all), func(d quarantine.Record) bool { return d.Stage == quarantine.Revoked })
	switch len(live) {
	case 1:
		return live[0], nil
	case 0:
		return quarantine.Record{}, fmt.Errorf("looking up %q: %w", ref, quarantine.ErrUnknownDevice)
	default:
		return quarantine.Record{}, bad("name the device by its id", "%d devices have the serial number %q", len(live), ref)
	}
}

func (s *Server) listDevices(w http.ResponseWriter, r *http.Request, who identity) error {
	pools, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	devices, err := s.seenBy(r.Context(), who)
	if err != nil {
		return err
	}
	stage := r.URL.Query().Get("stage")
	list := []api.Device{}
	for _, d := range devices {
		if stage == "" || string(d.Stage) == stage {
			list = append(list, showDevice(d, pools))
		}
	}
	reply(w, http.StatusOK, list)
	return nil
}

func (s *Server) showDevice(w http.ResponseWriter, r *http.Request, _ identity) error {
	d, err := s.find(r.PathValue("device"))
	if err != nil {
		return err
	}
	pools, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, showDevice(d, pools))
	return nil
}

func (s *Server) explainDevice(w http.ResponseWriter, r *http.Request, _ identity) error {
	d, err := s.find(r.PathValue("device"))
	if err != nil {
		return err
	}
	e, err := s.cfg.Gate.Explain(string(d.ID))
	if err != nil {
		return err
	}
	pools, err := s.pools(r.Context())
	if err != nil {
		return err
	}
	sources, err := s.cfg.Organization.Sources.List(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, showExplanation(e, pools, values(sources)))
	return nil
}

// pools returns all pools by name.
func (s *Server) pools(ctx context.Context) (map[string]quarantine.Pool, error) {
	list, err := s.cfg.Organization.Pools.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading pools: %w", err)
	}
	return values(list), nil
}

// values returns a table's values by name.
func values[T any](list []Item[T]) map[string]T {
	out := make(map[string]T, len(list))
	for _, it := range list {
		out[it.Name] = it.Value
	}
	return out
}

// actions are the decisions a person can take on a device.
var actions = map[string]quarantine.Kind{
	"approve": quarantine.Approve, "quarantine": quarantine.Hold, "block": quarantine.Block,
	"unblock": quarantine.Unblock, "revoke": quarantine.Revoke,
}

// wipes are those that a permission of its own is for.
var wipes = map[string]quarantine.Kind{"wipe": quarantine.Wipe, "unwipe": quarantine.Unwipe}

func (s *Server) wipeDevice(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.act(w, r, who, wipes[path.Base(r.URL.Path)])
}

func (s *Server) moveDevice(w http.ResponseWriter, r *http.Request, who identity) error {
	kind, ok := actions[r.PathValue("action")]
	if !ok {
		return fmt.Errorf("action %q: %w", r.PathValue("action"), ErrNotFound)
	}
	return s.act(w, r, who, kind)
}

func (s *Server) act(w http.ResponseWriter, r *http.Request, who identity, kind quarantine.Kind) error {
	q := api.ActionRequest{}
	if r.ContentLength != 0 {
		if err := read(r, &q); err != nil {
			return err
		}
	}
	d, err := s.find(r.PathValue("device"))
	if err != nil {
		return err
	}
	return s.change(w, r, who, quarantine.Change{Kind: kind, Device: d.ID, By: who.actor, At: s.cfg.Now(), Why: q.Why})
}

// change takes a fact to the gate and answers with the placement. Recorded but not yet
// enforced is a success that says so.
func (s *Server) change(w http.ResponseWriter, r *http.Request, who identity, c quarantine.Change) error {
	p, err := s.cfg.Gate.Change(r.Context(), c.By, c)
	if err != nil && !errors.Is(err, quarantine.ErrNotEnforced) {
		return err
	}
	status := http.StatusOK
	if err != nil {
		status = http.StatusAccepted
	}
	if !who.can(ReadDevices) {
		p.Reasons = nil // what other sources and people said is not for this one
	}
	reply(w, status, api.Placed{Device: string(c.Device), Decision: showPlacement(p), Enforced: err == nil})
	return nil
}

func showDevice(d quarantine.Record, pools map[string]quarantine.Pool) api.Device {
	return api.Device{
		ID: string(d.ID), Name: d.Name, Owner: d.Owner, Stage: string(d.Stage), Pool: d.Pool, Since: d.Since, Until: d.Until,
		Reason: d.Reason, Profile: d.Profile, Platform: d.Platform, Ownership: d.Ownership, Serial: d.Serial,
		Seat: uint32(d.Seat), Key: d.Key.String(), Addresses: addresses(d, pools),
		Certificate: d.Certificate.Serial, NotAfter: d.Certificate.NotAfter, Proven: d.Proven, Revision: d.Revision,
		Groups: d.Groups, Seen: d.Seen, Wipe: d.Wipe.Set(),
	}
}

// addresses returns what the device's seat means in the quarantine pool and, while it is
// routed, in its pool.
func addresses(d quarantine.Record, pools map[string]quarantine.Pool) []netip.Addr {
	out := []netip.Addr{}
	for _, p := range pools {
		if !p.Quarantine && (d.Stage != quarantine.Routed || p.Name != d.Pool) {
			continue
		}
		v4, v6, err := p.Address(d.Seat)
		if err != nil {
			continue
		}
		for _, a := range []netip.Addr{v4, v6} {
			if a.IsValid() {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func showPlacement(p quarantine.Placement) api.Decision {
	return api.Decision{Stage: string(p.Stage), Pool: p.Pool, Until: p.Until, Reasons: showReasons(p.Reasons)}
}

func showReasons(list []quarantine.Reason) []api.Reason {
	out := make([]api.Reason, len(list))
	for i, r := range list {
		out[i] = api.Reason{Rule: r.Rule, Holds: r.Holds, Text: r.Text, Source: r.Source, At: r.At,
			Set: r.Set, Version: r.Version, Fact: r.Fact, Remedy: r.Remedy, Fault: r.Fault}
	}
	return out
}

// validity is how long a report counts: what it asks for, or the default, within what its
// source may ask for.
func validity(r quarantine.Report, s quarantine.Source) time.Duration {
	return min(cmp.Or(r.Validity, quarantine.DefaultValidity), cmp.Or(s.MaxValidity, quarantine.DefaultValidity))
}

func showExplanation(e quarantine.Explanation, pools map[string]quarantine.Pool, sources map[string]quarantine.Source) api.Explanation {
	out := api.Explanation{
		Device: showDevice(e.Record, pools), Decided: showPlacement(e.InForce),
		Reports: []api.Report{}, Pending: []string{}, Enforced: e.Enforced, Problem: e.Problem,
	}
	for _, r := range e.Record.Reports {
		out.Reports = append(out.Reports, api.Report{
			Source: r.Source, Verdict: string(r.Verdict), At: r.At, Sequence: r.Sequence, Validity: validity(r, sources[r.Source]).String(),
			Received: r.Received, Releases: sources[r.Source].MayRelease, Facts: r.Facts, Detail: r.Detail,
		})
	}
	slices.SortFunc(out.Reports, func(a, b api.Report) int { return cmp.Compare(a.Source, b.Source) })
	out.Failing, out.Waivers, out.Session, out.Remedies = showFailing(e), showWaivers(e), showSession(e.Record.Session), remedies(e)
	for _, c := range e.Pending {
		out.Pending = append(out.Pending, fmt.Sprintf("%s by %s at %s", c.Kind, c.By.Name, c.At.UTC().Format("2006-01-02 15:04:05Z")))
	}
	return out
}
