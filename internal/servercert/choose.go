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

// GetCertificate is for tls.Config. What it shows depends on the hello:
//
//   - The gateway's own certificate to devices, which hold its keys or the organization's
//     root, and to whoever asks for an address, or for a name that the other does not bear.
//   - The certificate that was brought or obtained to all others, while it is valid.
func (k *Keeper) GetCertificate(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s := k.shown.Load()
	if s == nil || !s.goodAt(k.config.Now()) || !s.shownFor(h.ServerName) || deviceSays(h) || h.SupportsCertificate(s.certificate) != nil {
		return k.config.Own(h)
	}
	return s.certificate, nil
}

// http11 is the ALPN name of HTTP/1.1 (RFC 7301).
const http11 = "http/1.1"

// deviceSays tells a device's hello from those of browsers and of programs that send reports.
// Enrolled devices cannot be changed: they are known by what they always sent.
//
//   - The agent offers TLS 1.3 and nothing else, and HTTP/1.1 and nothing else.
//   - CMP and EST clients of others (OpenSSL's, strongSwan's) send no ALPN, and neither does
//     lazaretctl; browsers, curl and HTTP libraries do.
func deviceSays(h *tls.ClientHelloInfo) bool {
	if len(h.SupportedProtos) == 0 {
		return true
	}
	return slices.Equal(h.SupportedProtos, []string{http11}) && only13(h.SupportedVersions)
}

func only13(versions []uint16) bool {
	const ssl30 = 0x0300 // what stands below or above it are placeholders (RFC 8701)
	return !slices.ContainsFunc(versions, func(v uint16) bool { return v >= ssl30 && v < tls.VersionTLS13 })
}

// goodAt says whether the certificate is valid at a time.
func (s *kept) goodAt(now time.Time) bool {
	return !now.Before(s.leaf().NotBefore) && now.Before(s.leaf().NotAfter)
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
