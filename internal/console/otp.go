package console

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"

	"lazaret/enroll"
	"lazaret/internal/console/api"
)

func (s *Server) listOTPs(w http.ResponseWriter, r *http.Request, _ identity) error {
	list, err := s.cfg.Desk.ListOTPs(r.Context())
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
		d, err := s.find(q.Device)
		if err != nil {
			return err
		}
		request.Device = d.ID
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

func (s *Server) cancelOTP(w http.ResponseWriter, r *http.Request, who identity) error {
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
