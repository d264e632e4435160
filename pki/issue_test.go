package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func deviceRequest(t testing.TB) Request {
	return Request{Kind: Device, PublicKey: newKey(t).Public(), CommonName: "d-1",
		URIs: []*url.URL{WireGuardURI([32]byte{1, 2, 3})}, NotAfter: start.Add(24 * time.Hour)}
}

func serverRequest(t testing.TB) Request {
	return Request{Kind: Server, PublicKey: newKey(t).Public(), CommonName: "gateway",
		DNSNames: []string{"gw.example.com", "localhost"},
		IPs:      []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:192.0.2.9")},
		NotAfter: start.Add(24 * time.Hour)}
}

func TestIssueByKind(t *testing.T) {
	a := authority(t)
	requests := map[Kind]Request{
		Device:        deviceRequest(t),
		Server:        serverRequest(t),
		Administrator: {Kind: Administrator, PublicKey: newKey(t).Public(), CommonName: "Zoë Ærø", NotAfter: start.Add(time.Hour)},
		Responder:     {Kind: Responder, PublicKey: newKey(t).Public(), CommonName: "CMP responder", NotAfter: start.Add(time.Hour)},
		Manager:       {Kind: Manager, PublicKey: newKey(t).Public(), CommonName: "Management signer", NotAfter: start.Add(time.Hour)},
	}
	usages := map[Kind][]x509.ExtKeyUsage{Device: {x509.ExtKeyUsageClientAuth}, Administrator: {x509.ExtKeyUsageClientAuth},
		Server: {x509.ExtKeyUsageServerAuth}, Responder: nil}
	for kind, r := range requests {
		leaf, err := a.Issue(t.Context(), r)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if leaf.Subject.String() != "CN="+r.CommonName || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
			t.Errorf("%s: subject %s, CA %t, key usage %b", kind, leaf.Subject, leaf.IsCA, leaf.KeyUsage)
		}
		if !slices.Equal(leaf.ExtKeyUsage, usages[kind]) || (len(leaf.UnknownExtKeyUsage) == 1) != (kind == Responder || kind == Manager) {
			t.Errorf("%s: usages %v %v", kind, leaf.ExtKeyUsage, leaf.UnknownExtKeyUsage)
		}
		if !leaf.PublicKey.(*ecdsa.PublicKey).Equal(r.PublicKey) || !leaf.NotAfter.Equal(r.NotAfter) ||
			!leaf.NotBefore.Equal(start.Add(-5*time.Minute)) {
			t.Errorf("%s: other key or times %s - %s", kind, leaf.NotBefore, leaf.NotAfter)
		}
		if leaf.SerialNumber.BitLen() <= 64 || leaf.SerialNumber.BitLen() > 128 {
			t.Errorf("%s: serial number of %d bits", kind, leaf.SerialNumber.BitLen())
		}
	}
	leaf, err := a.Issue(t.Context(), serverRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gw.example.com", "localhost", "192.0.2.1", "2001:db8::1", "192.0.2.9"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

func TestIssueTakesEveryAllowedKey(t *testing.T) {
	a := authority(t)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, pub := range map[string]crypto.PublicKey{"P-384": p384.Public(), "Ed25519": ed, "RSA": rsa2048.Public()} {
		r := deviceRequest(t)
		r.PublicKey, r.AllowRSA = pub, true
		if _, err := a.Issue(t.Context(), r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.AllowRSA = false
		if _, err := a.Issue(t.Context(), r); (name == "RSA") != errors.Is(err, ErrKey) {
			t.Errorf("%s without AllowRSA: %v", name, err)
		}
	}
}

func uri(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func TestIssueRefuses(t *testing.T) {
	a := authority(t)
	device := func(edit func(*Request)) Request { r := deviceRequest(t); edit(&r); return r }
	server := func(edit func(*Request)) Request { r := serverRequest(t); edit(&r); return r }
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		request Request
		want    error
	}{
		"nothing":                    {Request{}, ErrRequest},
		"unknown kind":               {device(func(r *Request) { r.Kind = "root" }), ErrRequest},
		"no key":                     {device(func(r *Request) { r.PublicKey = nil }), ErrKey},
		"nil key":                    {device(func(r *Request) { r.PublicKey = (*ecdsa.PublicKey)(nil) }), ErrKey},
		"P-521":                      {device(func(r *Request) { r.PublicKey = p521.Public() }), ErrKey},
		"no name":                    {device(func(r *Request) { r.CommonName = "" }), ErrRequest},
		"65 characters":              {device(func(r *Request) { r.CommonName = strings.Repeat("a", 65) }), ErrRequest},
		"NUL in the name":            {device(func(r *Request) { r.CommonName = "admin\x00.example" }), ErrRequest},
		"line break in the name":     {device(func(r *Request) { r.CommonName = "a\nb" }), ErrRequest},
		"device with a DNS name":     {device(func(r *Request) { r.DNSNames = []string{"gw.example.com"} }), ErrRequest},
		"device with an address":     {device(func(r *Request) { r.IPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }), ErrRequest},
		"nil URI":                    {device(func(r *Request) { r.URIs = []*url.URL{nil} }), ErrRequest},
		"URI without scheme":         {device(func(r *Request) { r.URIs = []*url.URL{uri("/path")} }), ErrRequest},
		"URI not ASCII":              {device(func(r *Request) { r.URIs = []*url.URL{{Scheme: "x", Opaque: "ö"}} }), ErrRequest},
		"URI read back differently":  {device(func(r *Request) { r.URIs = []*url.URL{{Scheme: "X", Opaque: "a"}} }), ErrRequest},
		"65 URIs":                    {device(func(r *Request) { r.URIs = slices.Repeat(r.URIs, 65) }), ErrRequest},
		"no end":                     {device(func(r *Request) { r.NotAfter = time.Time{} }), ErrRequest},
		"end now":                    {device(func(r *Request) { r.NotAfter = start }), ErrRequest},
		"end in this second":         {device(func(r *Request) { r.NotAfter = start.Add(time.Second - 1) }), ErrRequest},
		"begins ten minutes ago":     {device(func(r *Request) { r.NotBefore = start.Add(-10 * time.Minute) }), ErrRequest},
		"begins after its end":       {device(func(r *Request) { r.NotBefore = r.NotAfter.Add(time.Second) }), ErrRequest},
		"begins after its authority": {device(func(r *Request) { r.NotBefore, r.NotAfter = start.AddDate(40, 0, 0), start.AddDate(41, 0, 0) }), ErrRequest},
		"server without names":       {server(func(r *Request) { r.DNSNames, r.IPs = nil, nil }), ErrRequest},
		"server with a URI":          {server(func(r *Request) { r.URIs = []*url.URL{uri("x:y")} }), ErrRequest},
		"wildcard":                   {server(func(r *Request) { r.DNSNames = []string{"*.example.com"} }), ErrRequest},
		"upper case":                 {server(func(r *Request) { r.DNSNames = []string{"GW.example.com"} }), ErrRequest},
		"address as a DNS name":      {server(func(r *Request) { r.DNSNames = []string{"192.0.2.1"} }), ErrRequest},
		"trailing dot":               {server(func(r *Request) { r.DNSNames = []string{"example.com."} }), ErrRequest},
		"underscore":                 {server(func(r *Request) { r.DNSNames = []string{"a_b.example.com"} }), ErrRequest},
		"hyphen first":               {server(func(r *Request) { r.DNSNames = []string{"-a.example.com"} }), ErrRequest},
		"label of 64":                {server(func(r *Request) { r.DNSNames = []string{strings.Repeat("a", 64) + ".example"} }), ErrRequest},
		"name of 254":                {server(func(r *Request) { r.DNSNames = []string{strings.Repeat("a.", 126) + "aa"} }), ErrRequest},
		"no address":                 {server(func(r *Request) { r.IPs = []netip.Addr{{}} }), ErrRequest},
		"unspecified address":        {server(func(r *Request) { r.IPs = []netip.Addr{netip.IPv6Unspecified()} }), ErrRequest},
		"address with a zone":        {server(func(r *Request) { r.IPs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }), ErrRequest},
	} {
		leaf, err := a.Issue(t.Context(), c.request)
		if leaf != nil || !errors.Is(err, c.want) {
			t.Errorf("%s: certificate %t, error %v", name, leaf != nil, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Issue(ctx, deviceRequest(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context ended: %v", err)
	}
}

func TestLeafStaysWithinItsAuthority(t *testing.T) {
	h, a := hierarchy(t), authority(t)
	r := deviceRequest(t)
	r.NotAfter = start.AddDate(50, 0, 0)
	leaf, err := a.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if !leaf.NotAfter.Equal(h.Devices.Certificate.NotAfter) {
		t.Errorf("ends %s, its authority %s", leaf.NotAfter, h.Devices.Certificate.NotAfter)
	}
	c := config(h)
	c.Now = func() time.Time { return h.Devices.Certificate.NotAfter }
	if a, err = New(c); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Issue(t.Context(), r); !errors.Is(err, ErrRequest) {
		t.Errorf("an authority at its end: %v", err)
	}
	c.Now = func() time.Time { return start.Add(-time.Hour) } // a clock set back
	if a, err = New(c); err != nil {
		t.Fatal(err)
	}
	if leaf, err = a.Issue(t.Context(), deviceRequest(t)); err != nil || leaf.NotBefore.Before(h.Devices.Certificate.NotBefore) {
		t.Errorf("begins before its authority: %v", err)
	}
}

// broken signs something else than it was given, or not at all.
type broken struct {
	crypto.Signer
	err error
}

func (b broken) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	digest = slices.Clone(digest)
	digest[0] ^= 1
	return b.Signer.Sign(r, digest, opts)
}

func TestBrokenSignerIssuesNothing(t *testing.T) {
	for _, failure := range []error{nil, errors.New("token is gone")} {
		c := config(hierarchy(t))
		c.Devices.Key = broken{c.Devices.Key, failure}
		a, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		if leaf, err := a.Issue(t.Context(), deviceRequest(t)); err == nil || leaf != nil {
			t.Errorf("failure %v: a certificate came out", failure)
		}
	}
}

// TestNothingRequestedNothingIssued draws random requests. Whatever is issued holds the
// requested names, key and times and no others; what a kind may not have is refused. (Published
// faults of this sort: CVE-2025-44005, and signing without a template, which copies.)
func TestNothingRequestedNothingIssued(t *testing.T) {
	a := authority(t)
	keys := []crypto.PublicKey{newKey(t).Public(), newKey(t).Public()}
	allowedNames := map[Kind][2]bool{Device: {true, false}, Administrator: {true, false}, Server: {false, true}} // URIs, hosts
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]Kind{Device, Server, Administrator, Responder, Manager, "", "ca"}).Draw(t, "kind")
		r := Request{
			Kind:       kind,
			PublicKey:  rapid.SampledFrom(keys).Draw(t, "key"),
			CommonName: rapid.StringN(0, 70, -1).Draw(t, "common name"),
			DNSNames:   rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.*-]{0,12}`), 0, 3).Draw(t, "dns"),
			NotAfter:   start.Add(time.Duration(rapid.Int64Range(-1e15, 1e18).Draw(t, "life"))),
		}
		for _, b := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 4, 4), 0, 3).Draw(t, "ips") {
			ip, _ := netip.AddrFromSlice(b)
			r.IPs = append(r.IPs, ip)
		}
		for _, b := range rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 32, 32), 0, 3).Draw(t, "uris") {
			r.URIs = append(r.URIs, WireGuardURI([32]byte(b)))
		}
		leaf, err := a.Issue(context.Background(), r)
		if err != nil {
			if leaf != nil {
				t.Fatal("a certificate beside an error")
			}
			return
		}
		may, ok := allowedNames[kind]
		if (!ok && kind != Responder && kind != Manager) || (!may[0] && len(r.URIs) > 0) || (!may[1] && len(r.DNSNames)+len(r.IPs) > 0) {
			t.Fatalf("%q was issued with names it may not have", kind)
		}
		var uris, ips, wantURIs, wantIPs []string
		for _, u := range leaf.URIs {
			uris = append(uris, u.String())
		}
		for _, ip := range leaf.IPAddresses {
			ips = append(ips, ip.String())
		}
		for _, u := range r.URIs {
			wantURIs = append(wantURIs, u.String())
		}
		for _, ip := range r.IPs {
			wantIPs = append(wantIPs, ip.String())
		}
		if !slices.Equal(uris, wantURIs) || !slices.Equal(ips, wantIPs) || !slices.Equal(leaf.DNSNames, r.DNSNames) ||
			len(leaf.EmailAddresses) != 0 || leaf.Subject.CommonName != r.CommonName || len(leaf.Subject.Names) != 1 {
			t.Fatalf("issued %s %v %v %v for %+v", leaf.Subject, leaf.DNSNames, ips, uris, r)
		}
		if leaf.IsCA || len(leaf.Extensions) > 6 || !leaf.PublicKey.(*ecdsa.PublicKey).Equal(r.PublicKey) || leaf.NotAfter.After(r.NotAfter) {
			t.Fatalf("issued more than was asked for: %+v", leaf)
		}
	})
}

func TestSerialNumbersDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		n, err := newSerial()
		if err != nil {
			t.Fatal(err)
		}
		if seen[n.String()] || n.BitLen() <= 64 || n.Sign() <= 0 {
			t.Fatalf("serial number %s", n)
		}
		seen[n.String()] = true
	}
}

// lying is a signer that improves on what it was asked for.
type lying struct {
	signer
	edit func(*x509.Certificate)
}

func (l lying) sign(template *x509.Certificate) ([]byte, error) {
	l.edit(template)
	return l.signer.sign(template)
}

func TestLyingSignerIssuesNothing(t *testing.T) {
	for name, edit := range map[string]func(*x509.Certificate){
		"an authority": func(c *x509.Certificate) { c.IsCA = true },
		"a name":       func(c *x509.Certificate) { c.DNSNames = []string{"gw.example.com"} },
		"a year":       func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(1, 0, 0) },
		"a usage":      func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"a key":        func(c *x509.Certificate) { c.PublicKey = newKey(t).Public() },
		"a subject":    func(c *x509.Certificate) { c.Subject.CommonName = "admin" },
	} {
		a := authority(t)
		a.issuers[Device].signer = lying{a.issuers[Device].signer, edit}
		if leaf, err := a.Issue(t.Context(), deviceRequest(t)); err == nil || leaf != nil {
			t.Errorf("%s more than was asked for: issued", name)
		}
	}
}
