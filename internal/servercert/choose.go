package servercert

import (
	"crypto/tls"
	"slices"
	"time"

	"golang.org/x/crypto/acme"
)

// TLS returns base with the Keeper's choice of certificate in it.
func (k *Keeper) TLS(base *tls.Config) *tls.Config {
	t := base.Clone()
	t.GetCertificate = k.GetCertificate
	return t
}

// Challenged returns base, which then also answers an ACME server's challenges (RFC 8737),
// while one is due. That server comes to port 443.
func (k *Keeper) Challenged(base *tls.Config) *tls.Config {
	t := base.Clone()
	t.GetConfigForClient = k.proofs.config
	return t
}

// GetCertificate is for tls.Config. Whom it shows the certificate that was brought or obtained
// is told by the hello. Devices that are enrolled cannot be changed: they are known by what
// they always sent, and are shown the gateway's own, whose keys or root they hold.
//
//   - The agent offers TLS 1.3 and nothing else, and HTTP/1.1 and nothing else.
//   - CMP and EST clients of others (OpenSSL's, strongSwan's) send no ALPN, and neither does
//     lazaretctl; browsers, curl and most HTTP libraries do. A name that the gateway's own does
//     not bear is nothing that one of them could verify.
//
// The gateway's own is shown, too, to whoever asks for an address, or for a name that the other
// does not bear.
func (k *Keeper) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	own, err := k.config.Own(h)
	s := k.shown.Load()
	if s == nil || !s.goodAt(k.config.Now()) || !s.shownFor(h.ServerName) || isAgent(h) || h.SupportsCertificate(s.certificate) != nil {
		return own, err
	}
	if len(h.SupportedProtos) == 0 && err == nil && own.Leaf != nil && own.Leaf.VerifyHostname(h.ServerName) == nil {
		return own, nil
	}
	return s.certificate, nil
}

// http11 is the ALPN name of HTTP/1.1 (RFC 7301).
const http11 = "http/1.1"

// isAgent says whether a hello is like those of our agent.
func isAgent(h *tls.ClientHelloInfo) bool {
	return slices.Equal(h.SupportedProtos, []string{http11}) && only13(h.SupportedVersions)
}

func only13(versions []uint16) bool {
	const ssl30 = 0x0300 // what stands below or above it are placeholders (RFC 8701)
	return !slices.ContainsFunc(versions, func(v uint16) bool { return v >= ssl30 && v < tls.VersionTLS13 })
}

// goodAt says whether the certificate and its issuers are valid at a time.
func (s *kept) goodAt(now time.Time) bool {
	return !now.Before(s.begin) && now.Before(s.end)
}

// shownFor says whether the certificate is shown to who asks for name.
func (s *kept) shownFor(name string) bool {
	if name == "" || s.leaf().VerifyHostname(name) != nil {
		return false
	}
	return len(s.saved.For) == 0 || slices.Contains(s.saved.For, lower([]string{name})[0])
}

// config is for tls.Config.GetConfigForClient: nil, unless an ACME server asks for a proof
// that is due.
func (p *proofs) config(h *tls.ClientHelloInfo) (*tls.Config, error) {
	if !slices.Equal(h.SupportedProtos, []string{acme.ALPNProto}) {
		return nil, nil
	}
	cert := p.of(h.ServerName)
	if cert == nil {
		return nil, nil
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{acme.ALPNProto}, Certificates: []tls.Certificate{*cert},
		SessionTicketsDisabled: true}, nil
}
