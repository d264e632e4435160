package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"net"
	"testing"
	"time"
)

// TestVerifyTellsKindsApart presents every certificate of the hierarchy as every kind.
func TestVerifyTellsKindsApart(t *testing.T) {
	h, a := hierarchy(t), authority(t)
	foreign, err := NewHierarchy(HierarchyConfig{Organization: "Examples & Söhne", Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(config(foreign))
	if err != nil {
		t.Fatal(err)
	}
	admin := func(a *Authority) *x509.Certificate {
		return issued(t, a, Request{Kind: Administrator, PublicKey: newKey(t).Public(), CommonName: "admin", NotAfter: start.Add(time.Hour)})
	}
	manager, err := a.NewManager(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certificates := map[string]struct {
		cert *x509.Certificate
		is   Kind
	}{
		"device":                  {issued(t, a, deviceRequest(t)), Device},
		"server":                  {issued(t, a, serverRequest(t)), Server},
		"administrator":           {admin(a), Administrator},
		"responder":               {h.Responder.Certificate, Responder},
		"manager":                 {manager.Certificate, Manager},
		"root":                    {h.Root.Certificate, ""},
		"devices' authority":      {h.Devices.Certificate, ""},
		"servers' authority":      {h.Servers.Certificate, ""},
		"admins' authority":       {h.Administrators.Certificate, ""},
		"nothing":                 {nil, ""},
		"empty":                   {&x509.Certificate{}, ""},
		"foreign device":          {issued(t, b, deviceRequest(t)), ""},
		"foreign server":          {issued(t, b, serverRequest(t)), ""},
		"foreign administrator":   {admin(b), ""},
		"foreign responder":       {foreign.Responder.Certificate, ""},
		"foreign root, same name": {foreign.Root.Certificate, ""},
	}
	verify := map[Kind]func(*x509.Certificate, time.Time) error{Device: a.VerifyDevice, Server: a.VerifyServer,
		Administrator: a.VerifyAdministrator, Responder: a.VerifyResponder, Manager: a.VerifyManager}
	for name, c := range certificates {
		for kind, as := range verify {
			if err := as(c.cert, start); (err == nil) != (c.is == kind) {
				t.Errorf("%s presented as %s: %v", name, kind, err)
			}
		}
	}
}

func TestVerifyHoldsToTheTimes(t *testing.T) {
	a := authority(t)
	r := deviceRequest(t)
	r.NotBefore = start.Add(time.Minute)
	leaf := issued(t, a, r)
	for _, c := range []struct {
		at time.Time
		ok bool
	}{
		{r.NotBefore.Add(-time.Second), false},
		{r.NotBefore, true},
		{r.NotAfter, true},
		{r.NotAfter.Add(time.Second), false},
		{time.Time{}, false},
		{start.AddDate(-1, 0, 0), false},
		{start.AddDate(11, 0, 0), false},
	} {
		if err := a.VerifyDevice(leaf, c.at); (err == nil) != c.ok {
			t.Errorf("at %s: %v", c.at, err)
		}
	}
}

// TestIssuerThatEndedVerifiesNothing uses a leaf that claims to outlive its authority.
func TestIssuerThatEndedVerifiesNothing(t *testing.T) {
	h := hierarchy(t)
	c := config(h)
	c.Devices = below(t, h, func(cert *x509.Certificate) { cert.NotAfter = start.Add(time.Minute) })
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	w, err := a.plan(deviceRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	w.notAfter = start.Add(time.Hour)
	leaf := signed(t, w, newKey(t).Public(), c.Devices)
	if err := a.VerifyDevice(leaf, start.Add(30*time.Second)); err != nil {
		t.Error(err)
	}
	if err := a.VerifyDevice(leaf, start.Add(2*time.Minute)); err == nil {
		t.Error("verified by an authority that has ended")
	}
}

// TestPoolsInTLS has clients of each kind knock at a listener that trusts AdministratorPool.
func TestPoolsInTLS(t *testing.T) {
	a := authority(t)
	serverKey := newKey(t)
	r := serverRequest(t)
	r.PublicKey = serverKey.Public()
	server := issued(t, a, r)
	serverConfig := &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.AdministratorPool(),
		Time:         func() time.Time { return start },
		Certificates: []tls.Certificate{{Certificate: [][]byte{server.Raw, a.Issuing(Server).Raw}, PrivateKey: serverKey}}}
	for kind, ok := range map[Kind]bool{Administrator: true, Device: false, Responder: false} {
		key := newKey(t)
		cert := issued(t, a, Request{Kind: kind, PublicKey: key.Public(), CommonName: "client", NotAfter: start.Add(time.Hour)})
		pair := tls.Certificate{Certificate: [][]byte{cert.Raw, a.Issuing(kind).Raw}, PrivateKey: key}
		clientConfig := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: a.RootPool(), ServerName: "gw.example.com",
			Time: func() time.Time { return start },
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &pair, nil // whether or not the server would accept it
			}}
		near, far := net.Pipe()
		client, server := tls.Client(near, clientConfig), tls.Server(far, serverConfig)
		result := make(chan error, 1)
		go func() {
			err := client.Handshake()
			if err == nil {
				_, err = client.Read(make([]byte, 1)) // a refusal of the certificate arrives here
			}
			near.Close()
			result <- err
		}()
		err := server.Handshake()
		far.Close()
		if (err == nil) != ok {
			t.Errorf("%s: %v", kind, err)
		}
		<-result
	}
}

func TestPoolsAreCopies(t *testing.T) {
	a := authority(t)
	foreign, err := NewHierarchy(HierarchyConfig{Organization: "Other", Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(config(foreign))
	if err != nil {
		t.Fatal(err)
	}
	for _, pool := range []*x509.CertPool{a.DevicePool(), a.ServerPool(), a.AdministratorPool(), a.RootPool()} {
		pool.AddCert(foreign.Devices.Certificate)
	}
	if a.VerifyDevice(issued(t, b, deviceRequest(t)), start) == nil {
		t.Error("whoever holds a pool can widen what is trusted")
	}
	if !a.DevicePool().Equal(authority(t).DevicePool()) || a.DevicePool().Equal(a.AdministratorPool()) {
		t.Error("pools are mixed up")
	}
}

// TestVerifyWantsTheProfileExactly has the right authority sign what Issue never would.
func TestVerifyWantsTheProfileExactly(t *testing.T) {
	h, a := hierarchy(t), authority(t)
	sign := func(edit func(*x509.Certificate)) *x509.Certificate {
		w, err := a.plan(deviceRequest(t))
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		template, err := w.template(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		edit(template)
		raw, err := x509.CreateCertificate(rand.Reader, template, h.Devices.Certificate, key.Public(), h.Devices.Key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	if err := a.VerifyDevice(sign(func(*x509.Certificate) {}), start); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*x509.Certificate){
		"an authority":         func(c *x509.Certificate) { c.IsCA = true },
		"no basic constraints": func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"other key usage":      func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement },
		"a usage more":         func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage[:1:1], x509.ExtKeyUsageServerAuth) },
		"no usage":             func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"a usage unknown":      func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidCMCRA} },
	} {
		if err := a.VerifyDevice(sign(edit), start); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}
