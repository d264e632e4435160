package console

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lazaret/enroll"
	"lazaret/internal/console/api"
)

func (s *Server) listOTPs(w http.ResponseWriter, r *http.Request, who identity) error {
	list, err := s.otpsFor(r.Context(), who)
	if err != nil {
		return err
	}
	out := make([]api.OTP, len(list))
	for i, o := range list {
		out[i] = showOTP(o)
	}
	reply(w, http.StatusOK, out)
	return nil
}

// otpsFor are the one-time passwords that one who asks may know of.
func (s *Server) otpsFor(ctx context.Context, who identity) ([]enroll.OTP, error) {
	list, err := s.cfg.Desk.ListOTPs(ctx)
	if err != nil {
		return nil, err
	}
	sees, err := s.sight(ctx, who)
	if err != nil || len(who.scope) == 0 {
		return list, err
	}
	return slices.DeleteFunc(slices.Clone(list), func(o enroll.OTP) bool { return !s.seesOTP(sees, o) }), nil
}

func (s *Server) createOTP(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.OTPRequest
	if err := read(r, &q); err != nil {
		return err
	}
	life, err := duration("life", q.Life)
	if err != nil {
		return err
	}
	request := enroll.Request{
		User: q.User, Name: q.Name, Serial: q.Serial, Platform: q.Platform, Ownership: q.Ownership,
		Profile: cmp.Or(q.Profile, "default"), Life: life,
	}
	if q.Device != "" {
		d, err := s.findFor(r.Context(), who, q.Device)
		if err != nil {
			return err
		}
		request.Device = d.ID
	}
	if err := s.mayAdmit(r.Context(), who, request); err != nil {
		return err
	}
	c, o, err := s.cfg.Desk.CreateOTP(r.Context(), who.actor, request)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(s.cfg.Root.Raw)
	reply(w, http.StatusCreated, api.OTPCreated{
		OTP: showOTP(o), Code: c.String(), Server: s.cfg.EnrollURL, Root: hex.EncodeToString(sum[:]),
	})
	return nil
}

// mayAdmit refuses a one-time password of which a device could come that does not exist for
// the one who asks.
func (s *Server) mayAdmit(ctx context.Context, who identity, q enroll.Request) error {
	sees, err := s.sight(ctx, who)
	if err != nil {
		return err
	}
	if len(who.scope) > 0 && !s.seesOTP(sees, enroll.OTP{Device: q.Device, Profile: q.Profile, Platform: q.Platform, Ownership: q.Ownership}) {
		return fmt.Errorf("the one-time password must name the profile, platform and ownership that this credential is for: %w", errDenied)
	}
	return nil
}

func (s *Server) cancelOTP(w http.ResponseWriter, r *http.Request, who identity) error {
	if len(who.scope) > 0 {
		list, err := s.otpsFor(r.Context(), who)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(o enroll.OTP) bool { return o.Reference == r.PathValue("reference") }) {
			return enroll.ErrNoOTP
		}
	}
	if err := s.cfg.Desk.CancelOTP(r.Context(), who.actor, r.PathValue("reference")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func showOTP(o enroll.OTP) api.OTP {
	return api.OTP{
		Reference: o.Reference, User: o.User, Profile: o.Profile, State: string(o.State), Created: o.Created,
		CreatedBy: o.By.Name, Expires: o.Expires, Device: cmp.Or(string(o.Answer.Device), string(o.Device)),
		Serial: o.Serial, Platform: o.Platform, Ownership: o.Ownership,
	}
}

// duration reads an optional time like "8h"; empty is zero.
func duration(field, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, bad(`write a time like "90s", "8h" or "168h"`, "%s is %q", field, text)
	}
	return d, nil
}
