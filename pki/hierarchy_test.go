package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// start is when the shared hierarchy of the tests was made.
var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

var shared = sync.OnceValues(func() (Hierarchy, error) {
	return NewHierarchy(HierarchyConfig{Organization: "Examples & Söhne", Now: func() time.Time { return start }})
})

func hierarchy(t testing.TB) Hierarchy {
	t.Helper()
	h, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func config(h Hierarchy) Config {
	return Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers,
		Administrators: h.Administrators, Now: func() time.Time { return start }}
}

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := New(config(hierarchy(t)))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestHierarchyIsShapedAsPromised(t *testing.T) {
	h := hierarchy(t)
	root := h.Root.Certificate
	if root.MaxPathLen != 1 || !root.IsCA || root.PublicKey.(*ecdsa.PublicKey).Curve != elliptic.P256() {
		t.Errorf("root: path length %d, CA %t", root.MaxPathLen, root.IsCA)
	}
	if got := root.NotAfter; !got.Equal(start.Add(20 * 365 * 24 * time.Hour)) {
		t.Errorf("root ends %s", got)
	}
	for name, c := range map[string]struct {
		pair    KeyPair
		usage   x509.ExtKeyUsage
		unknown string
	}{
		"devices":        {h.Devices, x509.ExtKeyUsageClientAuth, ""},
		"servers":        {h.Servers, x509.ExtKeyUsageServerAuth, "1.3.6.1.5.5.7.3.28 1.3.6.1.5.5.7.3.41 "},
		"administrators": {h.Administrators, x509.ExtKeyUsageClientAuth, ""},
	} {
		cert := c.pair.Certificate
		if !cert.IsCA || cert.MaxPathLen != 0 || !cert.MaxPathLenZero {
			t.Errorf("%s: not an authority of path length 0", name)
		}
		if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{c.usage}) {
			t.Errorf("%s: usages %v", name, cert.ExtKeyUsage)
		}
		var unknown string
		for _, id := range cert.UnknownExtKeyUsage {
			unknown += id.String() + " "
		}
		if unknown != c.unknown {
			t.Errorf("%s: further usages %s", name, unknown)
		}
		if cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("%s: key usage %b", name, cert.KeyUsage)
		}
		pool := x509.NewCertPool()
		pool.AddCert(root)
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{c.usage}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: start, NextUpdate: start.Add(time.Hour)}
		if _, err := x509.CreateRevocationList(rand.Reader, list, cert, c.pair.Key); err != nil {
			t.Errorf("%s cannot sign a revocation list: %v", name, err)
		}
	}
	if err := authority(t).VerifyResponder(h.Responder.Certificate, start); err != nil {
		t.Error(err)
	}
}

func TestHierarchyRefusesBadConfig(t *testing.T) {
	for name, c := range map[string]HierarchyConfig{
		"no organization":     {},
		"65 characters":       {Organization: strings.Repeat("ö", 65)},
		"line break":          {Organization: "a\nb"},
		"not UTF-8":           {Organization: "a\xff"},
		"negative life":       {Organization: "a", IssuerLife: -time.Hour},
		"authority in past":   {Organization: "a", RootLife: time.Nanosecond},
		"responder in past":   {Organization: "a", ResponderLife: time.Nanosecond},
		"only space":          {Organization: " "},
		"right-to-left order": {Organization: "a\u202eb"},
	} {
		if _, err := NewHierarchy(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIssuersEndWithTheRoot(t *testing.T) {
	h, err := NewHierarchy(HierarchyConfig{Organization: "a", RootLife: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []KeyPair{h.Devices, h.Servers, h.Administrators, h.Responder} {
		if !p.Certificate.NotAfter.Equal(h.Root.Certificate.NotAfter) {
			t.Errorf("%s ends %s, the root %s", p.Certificate.Subject, p.Certificate.NotAfter, h.Root.Certificate.NotAfter)
		}
	}
}

// TestRootKeyIsNotNeeded shows that daily use works from certificates and keys that went
// through their stored form, without the root's key.
func TestRootKeyIsNotNeeded(t *testing.T) {
	h := hierarchy(t)
	stored := func(p KeyPair) KeyPair {
		der, err := MarshalKey(p.Key)
		if err != nil {
			t.Fatal(err)
		}
		key, err := ParseKey(der)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(p.Certificate.Raw)
		if err != nil {
			t.Fatal(err)
		}
		return KeyPair{Certificate: cert, Key: key}
	}
	if root := stored(h.Root); root.check() != nil {
		t.Error("the root's key does not survive its export")
	}
	a, err := New(Config{Root: h.Root.Certificate, Devices: stored(h.Devices), Servers: stored(h.Servers),
		Administrators: stored(h.Administrators), Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), deviceRequest(t)); err != nil {
		t.Error(err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	ecdh, err := newKey(t).ECDH()
	if err != nil {
		t.Fatal(err)
	}
	x25519, err := x509.MarshalPKCS8PrivateKey(ecdh)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{"empty": nil, "garbage": []byte("key"), "cut": x25519[:20]} {
		if _, err := ParseKey(der); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := MarshalKey(token{newKey(t)}); err == nil {
		t.Error("a key that cannot leave its token was marshalled")
	}
}

// token is a signer whose private key is out of reach.
type token struct{ crypto.Signer }

func TestNewTakesAnySigner(t *testing.T) {
	c := config(hierarchy(t))
	c.Devices.Key = token{c.Devices.Key}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), deviceRequest(t)); err != nil {
		t.Error(err)
	}
}

// below signs an authority's certificate with the root, changed by edit.
func below(t *testing.T, h Hierarchy, edit func(*x509.Certificate)) KeyPair {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Devices CA"},
		NotBefore: start, NotAfter: start.Add(time.Hour), BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	edit(template)
	raw, err := x509.CreateCertificate(rand.Reader, template, h.Root.Certificate, key.Public(), h.Root.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return KeyPair{Certificate: cert, Key: key}
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	h := hierarchy(t)
	other, err := NewHierarchy(HierarchyConfig{Organization: "Examples & Söhne", Now: func() time.Time { return start }})
	if err != nil {
		t.Fatal(err)
	}
	devices := func(edit func(*x509.Certificate)) func(*Config) {
		return func(c *Config) { c.Devices = below(t, h, edit) }
	}
	good := config(h)
	good.Devices = below(t, h, func(*x509.Certificate) {})
	if _, err := New(good); err != nil {
		t.Fatalf("the unchanged authority is refused: %v", err)
	}
	for name, edit := range map[string]func(*Config){
		"no root":                  func(c *Config) { c.Root = nil },
		"root is a leaf":           func(c *Config) { c.Root = h.Responder.Certificate },
		"root is below another":    func(c *Config) { c.Root = h.Devices.Certificate },
		"root of the same name":    func(c *Config) { c.Root = other.Root.Certificate },
		"no devices' authority":    func(c *Config) { c.Devices = KeyPair{} },
		"no key":                   func(c *Config) { c.Devices.Key = nil },
		"no certificate":           func(c *Config) { c.Devices.Certificate = nil },
		"another's key":            func(c *Config) { c.Devices.Key = h.Servers.Key },
		"root as an authority":     func(c *Config) { c.Devices = h.Root },
		"leaf as an authority":     func(c *Config) { c.Servers = h.Responder },
		"servers' for devices":     func(c *Config) { c.Devices = h.Servers },
		"devices' for admins":      func(c *Config) { c.Administrators = h.Devices },
		"devices' for servers":     func(c *Config) { c.Servers = h.Devices },
		"another root's authority": func(c *Config) { c.Devices = other.Devices },
		"no usages":                devices(func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		"any usage":                devices(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }),
		"a usage too many":         devices(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }),
		"an unknown usage":         devices(func(c *x509.Certificate) { c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, oidCMCRA) }),
		"path length 1":            devices(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 1, false }),
		"no path length":           devices(func(c *x509.Certificate) { c.MaxPathLenZero = false }),
		"not an authority":         devices(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }),
		"cannot sign lists":        devices(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign }),
		"outlives the root":        devices(func(c *x509.Certificate) { c.NotAfter = h.Root.Certificate.NotAfter.Add(time.Second) }),
	} {
		c := config(h)
		edit(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIssuingIsByKind(t *testing.T) {
	h, a := hierarchy(t), authority(t)
	for kind, want := range map[Kind]*x509.Certificate{Device: h.Devices.Certificate, Server: h.Servers.Certificate,
		Administrator: h.Administrators.Certificate, Responder: h.Servers.Certificate, Manager: h.Servers.Certificate, "": nil, "root": nil} {
		if a.Issuing(kind) != want {
			t.Errorf("%q: wrong authority", kind)
		}
	}
	if a.Root() != h.Root.Certificate {
		t.Error("other root")
	}
}

func TestEd25519AuthoritySigns(t *testing.T) {
	h := hierarchy(t)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := below(t, h, func(*x509.Certificate) {})
	template := *p.Certificate
	raw, err := x509.CreateCertificate(rand.Reader, &template, h.Root.Certificate, private.Public(), h.Root.Key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	c := config(h)
	c.Devices = KeyPair{Certificate: cert, Key: private}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Issue(t.Context(), deviceRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	if leaf.SignatureAlgorithm != x509.PureEd25519 {
		t.Errorf("signed with %s", leaf.SignatureAlgorithm)
	}
}
