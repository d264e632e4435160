package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/console/api"
)

// everything is all that an administrator can list, as the API sends it. Of devices what
// the moment of asking changes is left out by the API itself.
func (o *operator) everything(t testing.TB) string {
	t.Helper()
	var all []string
	for _, what := range []string{"devices", "otps", "pools", "profiles", "sources", "tokens"} {
		text := string(o.want(t, http.StatusOK, "GET", "/api/v1/"+what, nil, nil).body)
		if what == "devices" {
			// The confirmation of an earlier enrollment reaches the gate, which is asked here, a
			// moment after it was answered, and shows in nothing but this number.
			text = regexp.MustCompile(`"revision":\d+`).ReplaceAllString(text, `"revision":0`)
		}
		all = append(all, what+": "+text)
	}
	return strings.Join(all, "")
}

// TestBadInput brings what cannot be taken to the API. Each answer says what to do, and
// nothing is changed by it.
func TestBadInput(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{})
	second := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{})
	now := time.Now()
	if a, err := g.report(soon(t), api.ReportRequest{Device: d.id, Verdict: "noncompliant", At: now.Add(-time.Minute), Sequence: 7}, nil); err != nil || a.status != http.StatusOK {
		t.Fatal(a, err)
	}
	var pools []api.Pool
	g.want(t, http.StatusOK, "GET", "/api/v1/pools", nil, &pools)
	pool := map[string]api.Pool{}
	for _, p := range pools {
		pool[p.Name] = p
	}
	changed := func(name string, change func(*api.Pool)) api.Pool {
		p := pool[name]
		change(&p)
		return p
	}
	small := netip.MustParsePrefix("10.99.0.0/30") // one seat, and two are taken
	report := func(r api.ReportRequest) func() (answered, error) {
		return func() (answered, error) { return g.report(soon(t), r, nil) }
	}
	admin := func(method, path string, in any) func() (answered, error) {
		return func() (answered, error) { return g.try(soon(t), method, path, in, nil) }
	}
	as := func(token, method, path string, in any) func() (answered, error) {
		return func() (answered, error) { return ask(soon(t), g.bare, g.base, token, method, path, in, nil) }
	}
	for name, c := range map[string]struct {
		send         func() (answered, error)
		status       int
		text, remedy string
	}{
		"report on an unknown device": {report(api.ReportRequest{Device: "nobody", Verdict: "compliant"}), 404, "nobody", "lazaretctl device list"},
		"report from the future":      {report(api.ReportRequest{Device: d.id, Verdict: "compliant", At: now.Add(time.Hour)}), 422, "after now", "set the clock"},
		"older report after a newer":  {report(api.ReportRequest{Device: d.id, Verdict: "compliant", At: now.Add(-2 * time.Minute)}), 409, "and the last one", "in the order"},
		"lower sequence, same time":   {report(api.ReportRequest{Device: d.id, Verdict: "compliant", At: now.Add(-time.Minute), Sequence: 6}), 409, "and the last one", "in the order"},
		"unknown verdict":             {report(api.ReportRequest{Device: d.id, Verdict: "fine"}), 400, "fine", `"compliant" or "noncompliant"`},
		"another source's report":     {report(api.ReportRequest{Device: d.id, Verdict: "compliant", Source: "agent"}), 403, "", "own token"},
		"source that is not there":    {admin("POST", "/api/v1/reports", api.ReportRequest{Device: d.id, Verdict: "compliant", Source: "nowhere"}), 403, "nowhere", "register the source"},
		"in the device's own name":    {admin("POST", "/api/v1/reports", api.ReportRequest{Device: d.id, Verdict: "compliant", Source: "agent"}), 403, "", "register the source"},

		"password for longer than 7 days": {admin("POST", "/api/v1/otps", api.OTPRequest{User: "x", Life: "168h1s"}), 422, "never lives longer than 7 days", ""},
		"password for no time":            {admin("POST", "/api/v1/otps", api.OTPRequest{User: "x", Life: "0s"}), 400, "life", "write a time like"},
		"password for nobody":             {admin("POST", "/api/v1/otps", api.OTPRequest{}), 422, "user", ""},
		"password of no profile":          {admin("POST", "/api/v1/otps", api.OTPRequest{User: "x", Profile: "none"}), 422, "none", "lazaretctl profile list"},
		"password for another's device":   {admin("POST", "/api/v1/otps", api.OTPRequest{User: "mallory", Device: d.id}), 422, "belongs to another user", ""},

		"quarantine pool below the highest seat": {admin("PUT", "/api/v1/pools/quarantine", changed("quarantine", func(p *api.Pool) { p.IPv4 = small })), 400, "seats up to 1, and 2 is needed: take a larger prefix", "correct the pool"},
		"full pool below the highest seat":       {admin("PUT", "/api/v1/pools/full", changed("full", func(p *api.Pool) { p.IPv4 = small })), 400, "seats up to 1, and 2 is needed: take a larger prefix", "correct the pool"},
		"new pool below the highest seat":        {admin("PUT", "/api/v1/pools/more", api.Pool{IPv4: small}), 400, "take a larger prefix", "correct the pool"},
		"second quarantine pool":                 {admin("PUT", "/api/v1/pools/more", api.Pool{IPv4: netip.MustParsePrefix("10.99.0.0/16"), Quarantine: true, Reach: []string{"192.0.2.10 tcp/443"}}), 400, "exactly one quarantine pool", "correct the pool"},
		"pool over another's addresses":          {admin("PUT", "/api/v1/pools/more", api.Pool{IPv4: pool["full"].IPv4}), 400, "share addresses", "correct the pool"},
		"quarantine that reaches everything":     {admin("PUT", "/api/v1/pools/quarantine", changed("quarantine", func(p *api.Pool) { p.Reach = []string{"0.0.0.0/0 tcp/443"} })), 400, "reaches management servers, not", "correct the pool"},
		"quarantine that reaches devices":        {admin("PUT", "/api/v1/pools/quarantine", changed("quarantine", func(p *api.Pool) { p.Reach = []string{g.full.String() + " tcp/443"} })), 400, "", "correct the pool"},
		"pool of an older revision":              {admin("PUT", "/api/v1/pools/full", changed("full", func(p *api.Pool) { p.Revision-- })), 409, "", "read it again"},
		"quarantine pool deleted":                {admin("DELETE", "/api/v1/pools/quarantine", nil), 409, "quarantine pool", "refers to it"},
		"pool of a profile deleted":              {admin("DELETE", "/api/v1/pools/full", nil), 409, "named by profile default", "refers to it"},
		"profile of a device deleted":            {admin("DELETE", "/api/v1/profiles/default", nil), 409, "", "refers to it"},
		"profile into no pool":                   {admin("PUT", "/api/v1/profiles/lost", api.Profile{Pool: "nowhere"}), 400, "nowhere", ""},

		"unknown device moved":      {admin("POST", "/api/v1/devices/nobody/block", nil), 404, "nobody", "lazaretctl device list"},
		"unknown action":            {admin("POST", "/api/v1/devices/"+d.id+"/promote", nil), 404, "promote", ""},
		"unknown field":             {admin("POST", "/api/v1/reports", map[string]any{"device": d.id, "verdict": "compliant", "stage": "routed"}), 400, "stage", "openapi.json"},
		"token beyond its scope":    {as(g.token, "POST", "/api/v1/otps", api.OTPRequest{User: "x"}), 403, "", "token of another scope"},
		"token that moves a device": {as(g.token, "POST", "/api/v1/devices/"+d.id+"/approve", nil), 403, "", "token of another scope"},
		"no credential":             {as("", "GET", "/api/v1/devices", nil), 401, "", ""},
		"made-up token":             {as("lzt_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "GET", "/api/v1/devices", nil), 401, "", ""},
	} {
		before := g.everything(t)
		a, err := c.send()
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case a.status != c.status || !strings.Contains(a.problem.Error, c.text) || !strings.Contains(a.problem.Remedy, c.remedy) || a.problem.Error == "":
			t.Errorf("%s: %s; want %d with %q and %q", name, a, c.status, c.text, c.remedy)
		}
		if after := g.everything(t); after != before {
			t.Errorf("%s changed something:\n%s\n%s", name, before, after)
		}
	}
	if s := g.show(t, second.id).Stage; s != "quarantined" {
		t.Errorf("the device that nothing was said of is %s", s)
	}
}

// TestPoolFull is the tenth device for nine places: it is told so, its code stays good,
// and it enrolls once there is room.
func TestPoolFull(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{quarantine: "10.90.0.0/30", full: "10.91.0.0/30"})
	host := theLab(t).Dev1
	enrolled(t, g, host, api.OTPRequest{})
	late, o := newDevice(t, g, host), g.otp(t, api.OTPRequest{User: "late@example.com"})
	refused(t, g, late, o, cmp.SystemFailure, "no address is left: an administrator must make the pools larger")

	var pools []api.Pool
	g.want(t, http.StatusOK, "GET", "/api/v1/pools", nil, &pools)
	for _, p := range pools {
		p.IPv4 = netip.PrefixFrom(p.IPv4.Addr(), 24)
		g.want(t, http.StatusOK, "PUT", "/api/v1/pools/"+p.Name, p, nil)
	}
	if err := late.enroll(soon(t), t, o.Code, nil); err != nil {
		t.Errorf("with room made: %v", err)
	}
	if d := g.show(t, late.id); d.Seat != 2 || len(d.Addresses) != 1 || d.Addresses[0] != netip.MustParseAddr("10.90.0.3") {
		t.Errorf("the second device has seat %d and %v; want 2 and 10.90.0.3", d.Seat, d.Addresses)
	}
}

// refused says that an enrollment is refused for this reason, protected by the code, and
// that neither a device nor the code's state comes of it.
func refused(t *testing.T, g *gateway, d *device, o api.OTPCreated, want cmp.Failure, text string) {
	t.Helper()
	before := g.everything(t)
	err := d.enroll(soon(t), t, o.Code, nil)
	s, ok := errors.AsType[cmp.StatusInfo](err) // our client takes none that is not protected
	if !ok || s.Fail != want || !strings.Contains(s.Error(), text) {
		t.Errorf("got %v; want %s with %q", err, want, text)
	}
	if after := g.everything(t); after != before {
		t.Errorf("a refused enrollment changed something:\n%s\n%s", before, after)
	}
}

// TestForeignWireGuardKey: a WireGuard key is its first proven holder's. Who only names
// it gets nothing, and who named it first without proof yields to who proves it.
func TestForeignWireGuardKey(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	host := theLab(t).Dev2
	victim := enrolled(t, g, host, api.OTPRequest{User: "victim@example.com"})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}

	clone := deviceWith(t, g, host, key, victim.wg)
	refused(t, g, clone, g.otp(t, api.OTPRequest{User: "clone@example.com"}), cmp.BadCertTemplate, "belongs to another device")

	thief := newDevice(t, g, host)
	o := g.otp(t, api.OTPRequest{User: "thief@example.com"})
	before := g.everything(t)
	if s := thief.claims(t, o, victim.wg.Public()); s.Fail != cmp.BadPOP || !strings.Contains(s.Error(), "proof of the WireGuard key is wrong") {
		t.Errorf("another's key with a proof of one's own: %v", s)
	}
	if after := g.everything(t); after != before {
		t.Errorf("a forged proof changed something:\n%s\n%s", before, after)
	}

	t.Run("named without proof", func(t *testing.T) {
		s := newStock(t, g, host)
		s.makeKey("dev.key")
		s.want(victim.wg.Public())
		before := g.everything(t)
		s.cmp("badCertTemplate", s.p10cr("dev.key", "dev.crt", o.Code)...)
		if after := g.everything(t); after != before {
			t.Errorf("naming another's key changed something:\n%s\n%s", before, after)
		}

		owner := newDevice(t, g, host)
		s.want(owner.wg.Public())
		s.cmp("", s.p10cr("dev.key", "dev.crt", o.Code)...)
		squatter := s.certificate("dev.crt").Subject.CommonName
		if err := owner.enroll(soon(t), t, g.otp(t, api.OTPRequest{User: "owner@example.com"}).Code, nil); err != nil {
			t.Errorf("the owner of a key that somebody had named: %v", err)
		}
		if d := g.show(t, squatter); d.Stage != "revoked" || !strings.Contains(d.Reason, "proved") {
			t.Errorf("who had named it is %s: %s; want revoked", d.Stage, d.Reason)
		}
		if d := g.show(t, owner.id); d.Stage != "quarantined" || !d.Proven || d.Key != owner.wg.Public().String() {
			t.Errorf("the owner is %+v", d)
		}
	})
	if d := g.show(t, victim.id); d.Stage != "quarantined" || d.Certificate != victim.serial() {
		t.Errorf("the victim is %+v", d)
	}
}

// claims asks for a certificate that names another's WireGuard key, with a proof made of
// the device's own, and returns the gateway's protected refusal.
func (d *device) claims(t *testing.T, o api.OTPCreated, other [32]byte) cmp.StatusInfo {
	t.Helper()
	c, err := code.Parse(o.Code)
	if err != nil {
		t.Fatal(err)
	}
	e, err := d.client(t, client.Config{Attempts: 1}).Begin(soon(t), c)
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	uri, err := url.Parse(cmp.WireGuardURI(other))
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, d.keys.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(d.keys.Certificate.Public())
	if err != nil {
		t.Fatal(err)
	}
	shared, err := d.wg.Shared([32]byte(e.Welcome.ProofKey))
	if err != nil {
		t.Fatal(err)
	}
	h := cmp.NewHeader(time.Now())
	h.TransactionID, h.SenderNonce = bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 16)
	h.Sender, h.SenderKID = cmp.CommonName(c.Reference), []byte(c.Reference)
	mac, err := cmp.MakeProof(shared, cmp.ProofInput{TransactionID: h.TransactionID, SPKI: spki, WireGuard: other, Reference: c.Reference})
	if err != nil {
		t.Fatal(err)
	}
	h.GeneralInfo = []cmp.Info{cmp.ProofInfo(cmp.Proof{KeyID: e.Welcome.ProofKeyID, MAC: mac})}
	return d.send(t, c, &cmp.Message{Header: h, Body: cmp.Body{Kind: cmp.P10CR, PKCS10: csr}})
}

// send protects and sends one message, and reads the refusal, which must be protected too.
func (d *device) send(t *testing.T, c code.Code, m *cmp.Message) cmp.StatusInfo {
	t.Helper()
	if err := m.ProtectMAC([]byte(c.Secret), cmp.NewMACParams()); err != nil {
		t.Fatal(err)
	}
	der, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: through(t, d.host, netip.Addr{}, ""), DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: d.g.root(t)}}
	address := "https://" + netip.AddrPortFrom(d.g.outer, 443).String() + "/.well-known/cmp"
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Post(address, "application/pkixcmp", bytes.NewReader(der))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := cmp.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.VerifyMAC([]byte(c.Secret), cmp.Policy{}); err != nil || answer.Body.Kind != cmp.Error {
		t.Fatalf("answered with kind %d, protected: %v", answer.Body.Kind, err)
	}
	return answer.Body.Error.Status
}

// TestRequestForMore: whatever a request asks for, only what was admitted is in the
// certificate, as openssl reads it.
func TestRequestForMore(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	s := newStock(t, g, theLab(t).Dev1)
	s.makeKey("dev.key")
	s.want(s.wg.Public(), "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
		"extendedKeyUsage=serverAuth,codeSigning", "nsComment=mallory", "subjectAltName=@names", "[names]",
		"URI.1="+cmp.WireGuardURI(s.wg.Public()), "URI.2=https://mallory.example/", "DNS.1=mallory.example", "DNS.2=*.example.com",
		"IP.1=192.0.2.1", "email.1=root@example.com")
	o := g.otp(t, api.OTPRequest{})
	s.cmp("", s.p10cr("dev.key", "dev.crt", o.Code)...)
	asked := s.must("req", "-in", "dev.key.csr", "-noout", "-text")
	got := s.must("x509", "-in", "dev.crt", "-noout", "-text")
	for _, text := range []string{"CA:TRUE", "Certificate Sign", "CRL Sign", "Server Authentication", "Code Signing", "mallory", "example.com", "192.0.2.1"} {
		if !strings.Contains(strings.ReplaceAll(asked, "TLS Web Server", "Server"), text) {
			t.Errorf("the request does not ask for %q", text)
		}
		if strings.Contains(got, text) || strings.Contains(got, "TLS Web Server") {
			t.Errorf("the certificate holds %q:\n%s", text, got)
		}
	}
	id := g.one(t, o.User).ID
	for _, text := range []string{"CA:FALSE", "TLS Web Client Authentication", "Subject: CN = " + id + "\n", "URI:" + cmp.WireGuardURI(s.wg.Public()) + "\n"} {
		if !strings.Contains(got, text) {
			t.Errorf("the certificate lacks %q:\n%s", text, got)
		}
	}
	told := false
	for _, e := range g.audit(t, id) {
		b, err := json.Marshal(e)
		told = told || err == nil && e.Action == "enroll.note" && strings.Contains(string(b), "asked for more than was admitted")
	}
	if !told {
		t.Error("the audit log does not tell that more was asked for")
	}
}

// TestCertificateKeys: a key that the profile does not admit is refused, and the code
// stays good for one that it does.
func TestCertificateKeys(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	host := theLab(t).Dev1
	g.want(t, http.StatusOK, "PUT", "/api/v1/profiles/rsa", api.Profile{Pool: "full", AllowRSA: true}, nil)
	made := func(key crypto.Signer, err error) crypto.Signer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	ec := func(c elliptic.Curve) crypto.Signer { k, err := ecdsa.GenerateKey(c, rand.Reader); return made(k, err) }
	bits := func(n int) crypto.Signer { k, err := rsa.GenerateKey(rand.Reader, n); return made(k, err) }
	usual, withRSA := g.otp(t, api.OTPRequest{User: "ec@example.com"}), g.otp(t, api.OTPRequest{User: "rsa@example.com", Profile: "rsa"})
	sound := bits(2048)
	for name, c := range map[string]struct {
		key crypto.Signer
		otp api.OTPCreated
	}{
		"RSA with 1024 bits": {bits(1024), withRSA}, "RSA where the profile has none": {sound, usual},
		"P-224": {ec(elliptic.P224()), usual}, "P-521": {ec(elliptic.P521()), usual},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, g, deviceWith(t, g, host, c.key, newWireGuardKey(t)), c.otp, cmp.BadCertTemplate, "not one the profile admits")
		})
	}
	for key, o := range map[crypto.Signer]api.OTPCreated{sound: withRSA, ec(elliptic.P384()): usual} {
		if err := deviceWith(t, g, host, key, newWireGuardKey(t)).enroll(soon(t), t, o.Code, nil); err != nil {
			t.Errorf("%T: %v", key, err)
		}
	}
}
