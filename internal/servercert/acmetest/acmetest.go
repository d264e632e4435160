// Package acmetest is an ACME server (RFC 8555) for tests, with one name at a time and no look
// at signatures of requests. It proves names at an address that it is told, as RFC 8737 says.
package acmetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Server is an ACME server.
type Server struct {
	*httptest.Server
	// Name is what it wants to be proven: what the order asks for, unless a test says other.
	Name string
	// Issue certifies a request; the answer is a chain, DER, the leaf first.
	Issue func(*x509.CertificateRequest) [][]byte
	// At is where names are proven; empty: everything is believed.
	At string
	// Proven is told the challenge's end, an error where it was not met; optional.
	Proven func(error)

	mu     sync.Mutex
	status string // of the authorization
	chain  []byte
	orders int
}

// New starts a server. Its certificate is Certificate(), self-signed.
func New(t testing.TB, name string, issue func(*x509.CertificateRequest) [][]byte) *Server {
	t.Helper()
	s := &Server{Name: name, Issue: issue}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

// Directory is its URL.
func (s *Server) Directory() string { return s.URL + "/directory" }

// Roots is its certificate, PEM.
func (s *Server) Roots() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// Orders is how many there were.
func (s *Server) Orders() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orders
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Replay-Nonce", "n")
	say := func(status int, location string, v any) {
		w.Header().Set("Location", s.URL+location)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	switch r.URL.Path {
	case "/directory":
		say(200, "/directory", map[string]string{"newNonce": s.URL + "/nonce", "newAccount": s.URL + "/account", "newOrder": s.URL + "/order"})
	case "/account":
		say(201, "/account/1", map[string]string{"status": "valid"})
	case "/order":
		s.orders++
		s.status, s.chain = "pending", nil
		say(201, "/order/1", s.order())
	case "/order/1":
		say(200, "/order/1", s.order())
	case "/authz":
		say(200, "/authz", map[string]any{"status": s.status, "identifier": map[string]string{"type": "dns", "value": s.Name}, "challenges": []any{s.challenge()}})
	case "/challenge":
		s.prove(r.Context())
		say(200, "/challenge", s.challenge())
	case "/final":
		if err := s.finish(r.Body); err != nil {
			say(400, "/final", map[string]string{"type": "urn:ietf:params:acme:error:badCSR", "detail": err.Error()})
			return
		}
		say(200, "/order/1", s.order())
	case "/certificate":
		_, _ = w.Write(s.chain)
	default:
		say(200, "/", struct{}{})
	}
}

func (s *Server) order() map[string]any {
	status := s.status
	if status == "valid" && s.chain == nil {
		status = "ready"
	}
	return map[string]any{"status": status, "authorizations": []string{s.URL + "/authz"}, "finalize": s.URL + "/final", "certificate": s.URL + "/certificate"}
}

func (s *Server) challenge() map[string]string {
	return map[string]string{"type": "tls-alpn-01", "url": s.URL + "/challenge", "token": "token", "status": s.status}
}

// oidProof marks a proof's certificate (RFC 8737, section 3).
var oidProof = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

// prove looks for the proof where names lead.
func (s *Server) prove(ctx context.Context) {
	s.status = "valid"
	if s.At == "" {
		return
	}
	err := proof(ctx, s.At, s.Name)
	if err != nil {
		s.status = "invalid"
	}
	if s.Proven != nil {
		s.Proven(err)
	}
}

func proof(ctx context.Context, at, name string) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	st := c.ConnectionState()
	leaf := st.PeerCertificates[0]
	if st.NegotiatedProtocol != "acme-tls/1" || !slices.Equal(leaf.DNSNames, []string{name}) ||
		!slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidProof) && e.Critical }) {
		return fmt.Errorf("%s by %q is no proof", leaf.DNSNames, st.NegotiatedProtocol)
	}
	return nil
}

// finish certifies what a JWS asks for.
func (s *Server) finish(body io.Reader) error {
	var jws struct{ Payload string }
	var asked struct{ CSR string }
	if err := json.NewDecoder(body).Decode(&jws); err != nil {
		return err
	}
	payload, err := base64.RawURLEncoding.DecodeString(jws.Payload)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, &asked); err != nil {
		return err
	}
	der, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(asked.CSR, "="))
	if err != nil {
		return err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, c := range s.Issue(request) {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c}); err != nil {
			return err
		}
	}
	s.chain = out.Bytes()
	return nil
}
