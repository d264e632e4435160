package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/config"
	"lazaret/internal/console/api"
	"lazaret/internal/servercert/acmetest"
	"lazaret/quarantine/source"
)

// browser is what one that calls a host says hello with.
func browser(host string) *tls.Config {
	return &tls.Config{ServerName: host, NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true}
}

// TestServerCertificateByACME: once it is set, the gateway gets a certificate by itself, over
// the listener that devices enroll at, shows it, and has its coming end told (G8).
func TestServerCertificateByACME(t *testing.T) {
	l := newCertificateLab(t)
	s := acmetest.New(t, "localhost", func(q *x509.CertificateRequest) [][]byte {
		return [][]byte{sign(t, &x509.Certificate{SerialNumber: big.NewInt(3), DNSNames: q.DNSNames, NotBefore: time.Now().AddDate(0, 0, -80),
			NotAfter: time.Now().AddDate(0, 0, 10), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, l.root, q.PublicKey, l.key)}
	})
	s.At = l.config.Enroll.Listen[0].String()
	proven := make(chan error, 1)
	s.Proven = func(err error) { proven <- err }
	l.must("PUT", "/api/v1/certificate/acme", api.CertificateACMESet{Directory: s.Directory(), Roots: s.Roots(), Agreed: true}, nil)
	select {
	case err := <-proven:
		if err != nil {
			t.Fatalf("the server's proof at the enrollment listener: %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("not within a minute: the server is asked")
	}
	eventually(t, "the certificate that was obtained", func() bool {
		var c api.Certificate
		l.must("GET", "/api/v1/certificate", nil, &c)
		if c.ACME == nil {
			t.Fatal("ACME is not set")
		}
		if c.ACME.Problem != "" {
			t.Fatalf("%+v", c.ACME)
		}
		return c.Shown.Source == "acme" && c.Shown.DaysLeft == 9
	})
	for _, at := range []netip.AddrPort{l.config.Enroll.Listen[0], l.config.API.Listen[0]} {
		c, err := (&tls.Dialer{Config: browser("localhost")}).DialContext(t.Context(), "tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		if got := c.(*tls.Conn).ConnectionState().PeerCertificates[0]; got.Issuer.CommonName != l.root.Subject.CommonName {
			t.Errorf("at %s a browser is shown one of %s", at, got.Issuer)
		}
		c.Close()
	}
	eventually(t, "an alert of its end", func() bool {
		var all []api.Alert
		l.must("GET", "/api/v1/alerts", nil, &all)
		return slices.ContainsFunc(all, func(a api.Alert) bool { return a.Kind == "server-certificate" && a.Subject == "ends" })
	})
	var problem api.Problem
	if got := l.ask("POST", "/api/v1/certificate/renew", nil, &problem); got != 429 || s.Orders() != 1 {
		t.Errorf("renewing at once: %d %+v, %d orders", got, problem, s.Orders())
	}
	l.stop()
}

// TestListenersShowTheRightCertificate: the portal the one that was brought, the agents' own
// listener inside the tunnel never any but ours; and no proof is given at either, or at the
// API's.
func TestListenersShowTheRightCertificate(t *testing.T) {
	l := newCertificateLab(t)
	l.must("PUT", "/api/v1/certificate", api.CertificateSet{Chain: string(l.serverCert), Key: string(pemOf("PRIVATE KEY", pkcs8(t, l.serverKey)))}, nil)
	l.stop()
	ctx, cancel := context.WithCancel(t.Context())
	k := l.built(ctx)
	t.Cleanup(cancel)
	theirs := map[string]bool{"enroll": true, "api": true, "agent": false, "portal": true}
	proves := map[string]bool{"enroll": true}
	for _, s := range append(k.sites(), k.portalSites()...) {
		if s.TLS == nil {
			continue
		}
		want, known := theirs[s.Name]
		if !known {
			t.Errorf("%s is not looked at", s.Name)
		}
		for _, host := range []string{"localhost", ""} {
			if got := shownBy(t, s.TLS, host); got != (want && host != "") {
				t.Errorf("%s shows theirs for %q: %v", s.Name, host, got)
			}
		}
		if (s.TLS.GetConfigForClient != nil) != proves[s.Name] {
			t.Errorf("%s answers challenges: %v", s.Name, !proves[s.Name])
		}
		delete(theirs, s.Name)
	}
	if len(theirs) != 0 {
		t.Errorf("there is no %v", theirs)
	}
}

// shownBy says whether a browser is shown the certificate that was brought.
func shownBy(t *testing.T, c *tls.Config, host string) bool {
	t.Helper()
	hello := &tls.ClientHelloInfo{ServerName: host, SupportedProtos: []string{"h2", "http/1.1"}, SupportedVersions: []uint16{tls.VersionTLS13, tls.VersionTLS12},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.Ed25519}, SupportedCurves: []tls.CurveID{tls.X25519, tls.CurveP256}}
	got, err := c.GetCertificate(hello)
	if err != nil {
		t.Fatal(err)
	}
	return got.Leaf.Issuer.CommonName == "Somebody Else's Root"
}

// built is the control plane of the lab as it stands before it serves.
func (l *certificateLab) built(ctx context.Context) *control {
	l.t.Helper()
	k := &control{config: l.config, log: silent, ledger: &source.Ledger{}}
	k.config.Portal = config.Portal{Serve: true, Name: "localhost", HTTPPort: 80, HTTPSPort: 443}
	var err error
	if k.store, k.ring, err = openStore(ctx, k.config, silent); err != nil {
		l.t.Fatal(err)
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return k.store.Run(running) })
	l.t.Cleanup(func() {
		if err := errors.Join(group.Wait(), k.store.Close()); err != nil && !errors.Is(err, context.Canceled) {
			l.t.Error(err)
		}
	})
	if err := k.build(running, "test"); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		k.client.Close()
		k.journal.Close()
	})
	return k
}

func sign(t *testing.T, template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Error(err)
	}
	return der
}

func pkcs8(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
