package console

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"

	"lazaret/internal/agentapi"
	"lazaret/internal/attest"
	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Attestation judges what devices' TPMs say. Errors wrap ErrNotFound, ErrInvalid or
// quarantine.ErrConflict.
type Attestation interface {
	// Challenge answers a device's hello; an error that is attest.ErrHello is its fault.
	Challenge(ctx context.Context, device string, hello json.RawMessage, channel []byte) (json.RawMessage, error)
	// Check judges the evidence that came with a report of facts: what the gateway adds to
	// them, and a sentence for people.
	Check(ctx context.Context, device string, evidence json.RawMessage, facts map[string]string) (map[string]string, string)
	Trust(ctx context.Context) (attest.Trust, error)
	SetTrust(ctx context.Context, by quarantine.Actor, t attest.Trust) error
	State(ctx context.Context, device string) (attest.State, error)
	// Accept makes the PCRs last seen the right ones; Forget lets the device have another TPM.
	Accept(ctx context.Context, by quarantine.Actor, device string) error
	Forget(ctx context.Context, by quarantine.Actor, device string) error
}

func (s *Server) attestRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/attestation", ReadOrganization, (*Server).showTrust, "Which TPMs are believed.", nil, api.AttestationTrust{}, ok},
		{"PUT /api/v1/attestation", WriteOrganization, (*Server).putTrust, "Say which TPMs are believed.", api.AttestationTrust{}, api.AttestationTrust{}, ok},
		{"GET /api/v1/devices/{device}/attestation", ReadDevices, (*Server).showAttestation, "What is known of a device's TPM.", nil, api.Attestation{}, ok},
		{"POST /api/v1/devices/{device}/attestation/accept", WriteDevices, (*Server).acceptPCRs, "Take the PCRs that were last seen for the right ones, as after an update of firmware.", nil, api.Attestation{}, ok},
		{"DELETE /api/v1/devices/{device}/attestation", WriteDevices, (*Server).forgetTPM, "Forget a device's TPM, so that it may have another.", nil, nil, none},
	}
}

// gatewayFacts are those that the gateway alone may say: a device's word on them is dropped.
var gatewayFacts = []string{"tpm.attested"}

// attested returns a report's facts with what the gateway says of the device's TPM, and a
// sentence for people.
func (s *Server) attested(ctx context.Context, d quarantine.Record, q agentapi.Report) (facts map[string]string, detail string) {
	facts = maps.Clone(q.Facts)
	for _, own := range gatewayFacts {
		delete(facts, own)
	}
	if len(q.Attestation) == 0 || s.cfg.Attestation == nil {
		return facts, ""
	}
	add, detail := s.cfg.Attestation.Check(ctx, string(d.ID), q.Attestation, q.Facts)
	if facts == nil {
		facts = map[string]string{}
	}
	maps.Copy(facts, add)
	return facts, clip(detail, 1024)
}

// clip shortens a text to a number of bytes.
func clip(s string, most int) string {
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// agentAttest answers a TPM's hello with a challenge, bound to the TLS connection.
func (s *Server) agentAttest(w http.ResponseWriter, r *http.Request, d quarantine.Record) error {
	if s.cfg.Attestation == nil {
		return fmt.Errorf("attestation: %w", ErrNotFound)
	}
	hello, err := io.ReadAll(r.Body)
	if err != nil {
		return bad("send a smaller message", "reading the hello: %v", err)
	}
	channel, err := exporter(r.TLS)
	if err != nil {
		return err
	}
	out, err := s.cfg.Attestation.Challenge(r.Context(), string(d.ID), hello, channel)
	if errors.Is(err, attest.ErrHello) {
		return bad("update the agent", "%v", err)
	}
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

// attestation is the gateway's, if it was built with one.
func (s *Server) attestation() (Attestation, error) {
	if s.cfg.Attestation == nil {
		return nil, fmt.Errorf("attestation: %w", ErrNotFound)
	}
	return s.cfg.Attestation, nil
}

func (s *Server) showTrust(w http.ResponseWriter, r *http.Request, _ identity) error {
	a, err := s.attestation()
	if err != nil {
		return err
	}
	t, err := a.Trust(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, api.AttestationTrust{FirstUse: t.FirstUse, Makers: append([]string{}, t.Makers...)})
	return nil
}

func (s *Server) putTrust(w http.ResponseWriter, r *http.Request, who identity) error {
	a, err := s.attestation()
	if err != nil {
		return err
	}
	var q api.AttestationTrust
	if err := read(r, &q); err != nil {
		return err
	}
	t := attest.Trust{FirstUse: q.FirstUse, Makers: q.Makers}
	if err := t.Check(); err != nil {
		return bad("send certificates of CAs, each in PEM", "%v", err)
	}
	if err := a.SetTrust(r.Context(), who.actor, t); err != nil {
		return err
	}
	return s.showTrust(w, r, who)
}

func (s *Server) showAttestation(w http.ResponseWriter, r *http.Request, _ identity) error {
	a, d, err := s.deviceTPM(r)
	if err != nil {
		return err
	}
	return replyAttestation(w, r, a, d)
}

func (s *Server) deviceTPM(r *http.Request) (Attestation, quarantine.Record, error) {
	a, err := s.attestation()
	if err != nil {
		return nil, quarantine.Record{}, err
	}
	d, err := s.find(r.PathValue("device"))
	return a, d, err
}

func replyAttestation(w http.ResponseWriter, r *http.Request, a Attestation, d quarantine.Record) error {
	st, err := a.State(r.Context(), string(d.ID))
	if errors.Is(err, attest.ErrNone) {
		return fmt.Errorf("attestation of device %s: %w", d.ID, ErrNotFound)
	}
	if err != nil {
		return err
	}
	out := api.Attestation{Since: st.Since, EK: digest(st.EK), AK: digest(st.AK), Baseline: st.Baseline.Hex(), SeenAt: st.SeenAt, Resets: st.Clock.Resets}
	if st.Seen != nil {
		out.Seen = st.Seen.Hex()
		maps.DeleteFunc(out.Seen, func(n, v string) bool { return out.Baseline[n] == v })
	}
	if cert, err := x509.ParseCertificate(st.Certificate); err == nil {
		out.Maker = cert.Issuer.String()
	}
	reply(w, http.StatusOK, out)
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (s *Server) acceptPCRs(w http.ResponseWriter, r *http.Request, who identity) error {
	a, d, err := s.deviceTPM(r)
	if err != nil {
		return err
	}
	if err := a.Accept(r.Context(), who.actor, string(d.ID)); err != nil {
		return fmt.Errorf("accepting the PCRs of device %s: %w", d.ID, err)
	}
	return replyAttestation(w, r, a, d)
}

func (s *Server) forgetTPM(w http.ResponseWriter, r *http.Request, who identity) error {
	a, d, err := s.deviceTPM(r)
	if err != nil {
		return err
	}
	if err := a.Forget(r.Context(), who.actor, string(d.ID)); err != nil {
		return fmt.Errorf("forgetting the TPM of device %s: %w", d.ID, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
