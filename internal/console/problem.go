package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/enroll"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// What bounds a request: 1 MiB, 8 MiB for reports on many devices, and more for an update.
const (
	maxBody  = 1 << 20
	maxBatch = 8 << 20
)

const batchPath = "/api/v1/reports/batch"

func bodyLimit(r *http.Request) int64 {
	switch r.URL.Path {
	case batchPath:
		return maxBatch
	case updatePath:
		return machine.MaxBundle
	}
	return maxBody
}

// badRequest is an error whose text is for the one who asked.
type badRequest struct{ what, remedy string }

func (b badRequest) Error() string { return b.what }

func bad(remedy, format string, args ...any) error {
	return badRequest{fmt.Sprintf(format, args...), remedy}
}

// UpstreamFault is what somebody else's server did, told to whoever had it asked.
type UpstreamFault struct{ What, Remedy string }

// Error implements error.
func (f *UpstreamFault) Error() string { return f.What }

// public maps errors that callers may see to a status and a remedy. What is not listed
// is answered as an internal error, and its text stays in the log.
var public = []struct {
	err    error
	status int
	remedy string
}{
	{errUnauthenticated, http.StatusUnauthorized, ""},
	{errDenied, http.StatusForbidden, "ask an administrator for a token of another scope"},
	{errCrossSite, http.StatusForbidden, "use the API from a program, or from its own site"},
	{errTooManyWrong, http.StatusTooManyRequests, "wait a minute, and send the right one"},
	{errTooMany, http.StatusTooManyRequests, "wait a moment"},
	{errForbiddenNetwork, http.StatusForbidden, "ask from a network listed in api.from"},
	{ErrNotFound, http.StatusNotFound, "see /api/v1/openapi.json for what there is"},
	{ErrNotSet, http.StatusNotFound, ""},
	{ErrInvalid, http.StatusUnprocessableEntity, "correct it and save it again"},
	{ErrPace, http.StatusTooManyRequests, "wait a minute"},
	{ErrInUse, http.StatusConflict, "change what refers to it first"},
	{machine.ErrUnknown, http.StatusConflict, "update and restart it by the means of its operating system"},
	{appliance.ErrRefused, http.StatusUnprocessableEntity, ""},
	{appliance.ErrBusy, http.StatusConflict, "wait until it is done"},
	{ErrUpstream, http.StatusBadGateway, "see its settings, and whether the firewall lets the gateway ask it"},
	{quarantine.ErrUnknownDevice, http.StatusNotFound, "list the devices with: lazaretctl device list"},
	{quarantine.ErrForbidden, http.StatusForbidden, "register the source, widen its scope, or use its own token"},
	{quarantine.ErrNotOwner, http.StatusUnprocessableEntity, "name the owner: lazaretctl device show"},
	{quarantine.ErrStale, http.StatusConflict, "send reports in the order they were made"},
	{quarantine.ErrFuture, http.StatusUnprocessableEntity, "set the clock of the reporting server"},
	{quarantine.ErrFinal, http.StatusConflict, "enroll it anew with a one-time password"},
	{quarantine.ErrMalformed, http.StatusUnprocessableEntity, "see /api/v1/openapi.json for the form"},
	{quarantine.ErrBlocked, http.StatusConflict, "unblock it first: lazaretctl device unblock"},
	{quarantine.ErrNotReady, http.StatusServiceUnavailable, "the gateway is starting: try again in a few seconds"},
	{quarantine.ErrNoRoom, http.StatusInsufficientStorage, "make room on the gateway's disk, or give it a larger one; see lazaretctl alert list"},
	{quarantine.ErrConflict, http.StatusConflict, "read it again, then repeat the change"},
	{enroll.ErrNoOTP, http.StatusNotFound, "list them with: lazaretctl otp list"},
	{enroll.ErrUsed, http.StatusConflict, "it is used, cancelled or expired: create a new one"},
	{enroll.ErrExists, http.StatusConflict, "choose another name"},
	{enroll.ErrNoProfile, http.StatusUnprocessableEntity, "list the profiles with: lazaretctl profile list"},
}

// fail answers an error: the public sentence to the caller, the cause to the log.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody waits for the answer any more
	}
	status, problem := s.judge(r, err)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if rest, ok := unread(r); ok && rest.refuse(w, status, problem) {
		return
	}
	reply(w, status, problem)
}

// problem is what the caller may see of an error.
func (s *Server) problem(r *http.Request, err error) *api.Problem {
	_, p := s.judge(r, err)
	return &p
}

// judge parts an error: the public sentence is for the caller, the cause for the log.
func (s *Server) judge(r *http.Request, err error) (status int, p api.Problem) {
	if b, ok := errors.AsType[badRequest](err); ok {
		return http.StatusBadRequest, api.Problem{Error: b.what, Remedy: b.remedy}
	}
	if f, ok := errors.AsType[*UpstreamFault](err); ok {
		return http.StatusBadGateway, api.Problem{Error: clip(f.What, 500), Remedy: f.Remedy}
	}
	if e, ok := errors.AsType[*enroll.RequestError](err); ok {
		return http.StatusUnprocessableEntity, api.Problem{Error: e.Error()}
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge, api.Problem{Error: fmt.Sprintf("the request is larger than %d KiB", e.Limit>>10), Remedy: "send less at a time"}
	}
	for _, p := range public {
		if errors.Is(err, p.err) {
			return p.status, api.Problem{Error: err.Error(), Remedy: p.remedy}
		}
	}
	s.cfg.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	return http.StatusInternalServerError, api.Problem{Error: "internal error", Remedy: "see the gateway's log"}
}

// reply is the one way JSON leaves.
func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status is on its way; an error here means that the caller is gone.
	_ = json.NewEncoder(w).Encode(v)
}

// read decodes a request body into v: one JSON value, no unknown names.
func read(r *http.Request, v any) error {
	d, err := decoder(r)
	if err != nil {
		return err
	}
	if err := d.Decode(v); err != nil {
		return unreadable(err)
	}
	return atEnd(d)
}

// readEach decodes a request body that is one JSON list, and hands over its elements one
// after the other. It keeps none, and ends at the first error of take.
func readEach[T any](r *http.Request, take func(T) error) error {
	d, err := decoder(r)
	if err != nil {
		return err
	}
	open, err := d.Token()
	if err != nil {
		return unreadable(err)
	}
	if open != json.Delim('[') {
		return bad("see /api/v1/openapi.json for the form", "the body is no JSON list")
	}
	for d.More() {
		var v T
		if err := d.Decode(&v); err != nil {
			return unreadable(err)
		}
		if err := take(v); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return unreadable(err)
	}
	return atEnd(d)
}

func decoder(r *http.Request) (*json.Decoder, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, bad("send the header Content-Type: application/json", "the body is %q", r.Header.Get("Content-Type"))
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	return d, nil
}

// unreadable says what is wrong with a body.
func unreadable(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if errors.Is(err, io.EOF) {
		return bad("send a JSON object", "the request has no body")
	}
	return bad("see /api/v1/openapi.json for the form", "reading the request: %v", err)
}

func atEnd(d *json.Decoder) error {
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("send one JSON object", "something follows the JSON object")
	}
	return nil
}
