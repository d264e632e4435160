package console

import (
	"context"
	"net/http"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Certificates keeps the server certificate that the gateway shows to those who do not know
// its own root. Errors wrap ErrNotFound, ErrInvalid, ErrInUse or ErrPace.
type Certificates interface {
	// Certificate tells what there is.
	Certificate(ctx context.Context) (api.Certificate, error)
	// Request makes a key and a request for it.
	Request(ctx context.Context, by quarantine.Actor, q api.CertificateRequest) (api.CertificateRequested, error)
	// Set shows a certificate that was brought.
	Set(ctx context.Context, by quarantine.Actor, q api.CertificateSet) error
	// Unset goes back to the gateway's own.
	Unset(ctx context.Context, by quarantine.Actor) error
	// SetACME has the gateway get its certificate by itself.
	SetACME(ctx context.Context, by quarantine.Actor, q api.CertificateACMESet) error
	// UnsetACME ends that; what was obtained stays.
	UnsetACME(ctx context.Context, by quarantine.Actor) error
	// Renew asks by ACME now.
	Renew(ctx context.Context, by quarantine.Actor) error
}

// certificateRoutes are about the server certificate.
func (s *Server) certificateRoutes() []route {
	const ok, none = http.StatusOK, http.StatusNoContent
	return []route{
		{"GET /api/v1/certificate", ReadCertificate, (*Server).showCertificate, "The server certificate that is shown to those who do not know the organization's root, and how the gateway comes by it.", nil, api.Certificate{}, ok},
		{"POST /api/v1/certificate/request", WriteCertificate, (*Server).requestCertificate, "Make a key, which stays in the gateway, and a certificate request for it.", api.CertificateRequest{}, api.CertificateRequested{}, ok},
		{"PUT /api/v1/certificate", WriteCertificate, (*Server).setCertificate, "Show a certificate that you bring. All that is wrong with it is told at once.", api.CertificateSet{}, api.Certificate{}, ok},
		{"DELETE /api/v1/certificate", WriteCertificate, (*Server).unsetCertificate, "Forget the certificate and show the gateway's own.", nil, nil, none},
		{"PUT /api/v1/certificate/acme", WriteCertificate, (*Server).setACME, "Have the gateway get its certificate by ACME. A key of the external account that is not given stays, as long as it goes to the same server.", api.CertificateACMESet{}, api.Certificate{}, ok},
		{"DELETE /api/v1/certificate/acme", WriteCertificate, (*Server).unsetACME, "Get no certificate by ACME any more; the one that is there stays until it ends.", nil, nil, none},
		{"POST /api/v1/certificate/renew", WriteCertificate, (*Server).renewCertificate, "Ask for a certificate by ACME now.", nil, nil, none},
	}
}

func (s *Server) certificates() (Certificates, error) {
	if s.cfg.Certificates == nil {
		return nil, ErrNotFound
	}
	return s.cfg.Certificates, nil
}

func (s *Server) showCertificate(w http.ResponseWriter, r *http.Request, _ identity) error {
	c, err := s.certificates()
	if err != nil {
		return err
	}
	out, err := c.Certificate(r.Context())
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) requestCertificate(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.CertificateRequest
	if err := read(r, &q); err != nil {
		return err
	}
	c, err := s.certificates()
	if err != nil {
		return err
	}
	out, err := c.Request(r.Context(), who.actor, q)
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) setCertificate(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.CertificateSet
	return s.changeCertificate(w, r, &q, func(ctx context.Context, c Certificates) error { return c.Set(ctx, who.actor, q) })
}

func (s *Server) setACME(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.CertificateACMESet
	return s.changeCertificate(w, r, &q, func(ctx context.Context, c Certificates) error { return c.SetACME(ctx, who.actor, q) })
}

// changeCertificate reads q, makes the change, and answers what there is then.
func (s *Server) changeCertificate(w http.ResponseWriter, r *http.Request, q any, change func(context.Context, Certificates) error) error {
	if err := read(r, q); err != nil {
		return err
	}
	c, err := s.certificates()
	if err != nil {
		return err
	}
	if err := change(r.Context(), c); err != nil {
		return err
	}
	return s.showCertificate(w, r, identity{})
}

func (s *Server) unsetCertificate(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.certificateDone(w, r, func(ctx context.Context, c Certificates) error { return c.Unset(ctx, who.actor) })
}

func (s *Server) unsetACME(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.certificateDone(w, r, func(ctx context.Context, c Certificates) error { return c.UnsetACME(ctx, who.actor) })
}

func (s *Server) renewCertificate(w http.ResponseWriter, r *http.Request, who identity) error {
	return s.certificateDone(w, r, func(ctx context.Context, c Certificates) error { return c.Renew(ctx, who.actor) })
}

func (s *Server) certificateDone(w http.ResponseWriter, r *http.Request, change func(context.Context, Certificates) error) error {
	c, err := s.certificates()
	if err != nil {
		return err
	}
	if err := change(r.Context(), c); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
