package enroll

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/netip"
	"net/url"
	"slices"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

func TestEnrollment(t *testing.T) {
	for _, kind := range []string{"p10cr", "ir"} {
		t.Run(kind, func(t *testing.T) {
			g := newGateway(t)
			d := g.device(t, Request{User: "anna@example.com"})

			welcome := d.ask(d.genm())
			roots, _, err := cmp.ReadCACerts(welcome.Body.Infos)
			if err != nil || len(roots) != 2 || !slices.Equal(roots[0], g.hierarchy.Root.Certificate.Raw) {
				t.Fatalf("genp carries %d certificates (%v), want root and issuing one", len(roots), err)
			}
			w, there, err := cmp.ReadWelcome(welcome.Body.Infos)
			if err != nil || !there || w.ProofKeyID != "p1" || len(w.ListenerKeys) != 1 || w.Gateways[0].Name != "gw1" {
				t.Fatalf("welcome %+v (%v)", w, err)
			}

			ask := d.p10cr
			reply := cmp.CP
			if kind == "ir" {
				ask, reply = d.ir, cmp.IP
			}
			m := d.ask(ask())
			if m.Body.Kind != reply {
				t.Fatalf("answered with kind %d, want %d: %v", m.Body.Kind, reply, m.Body.Error.Status)
			}
			cert := d.certificate(m)
			pool := x509.NewCertPool()
			pool.AddCert(g.hierarchy.Root.Certificate)
			issuing := x509.NewCertPool()
			issuing.AppendCertsFromPEM(nil)
			for _, der := range m.ExtraCerts {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				issuing.AddCert(c)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, Intermediates: issuing, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Errorf("the certificate does not chain to the root: %v", err)
			}
			if len(m.Body.CAPubs) != 1 || !slices.Equal(m.Body.CAPubs[0], g.hierarchy.Root.Certificate.Raw) {
				t.Error("caPubs does not hold the root")
			}
			if len(cert.URIs) != 1 || cert.URIs[0].String() != cmp.WireGuardURI(d.public()) {
				t.Errorf("URIs %v, want the WireGuard key", cert.URIs)
			}
			if life := cert.NotAfter.Sub(*g.clock.Load()); life != 90*24*hour {
				t.Errorf("lasts %v from now, want 90 days", life)
			}

			r := d.record(cert)
			if r.Stage != quarantine.Quarantined || r.Pool != "quarantine" || r.Owner != "anna@example.com" || !r.Proven || r.Confirmed || r.Key != d.public() || r.Seat != 1 {
				t.Errorf("record %+v", r)
			}
			s, there, err := cmp.ReadSettings(m.Header.GeneralInfo)
			if err != nil || !there || s.Device != cert.Subject.CommonName || s.Name != r.Name || s.MTU != 1420 {
				t.Errorf("settings %+v (%v)", s, err)
			}
			if want := netip.MustParsePrefix("10.10.0.2/32"); !slices.Contains(s.Quarantine.Addresses, want) || len(s.Full.Addresses) != 0 {
				t.Errorf("settings give %v and %v, want %v and nothing of the full pool", s.Quarantine.Addresses, s.Full.Addresses, want)
			}

			if a := d.ask(d.certConf(m, cert)); a.Body.Kind != cmp.PKIConf {
				t.Fatalf("certConf got kind %d", a.Body.Kind)
			}
			if r := d.record(cert); !r.Confirmed {
				t.Error("confirmed, and the record does not say so")
			}
			if o, _ := g.store.OTP(t.Context(), d.code.Reference); o.State != Confirmed || o.Answer.Confirmed.IsZero() {
				t.Errorf("OTP is %s", o.State)
			}
			if got := g.made.issued.Load(); got != 1 {
				t.Errorf("%d certificates signed, want 1", got)
			}
		})
	}
}

func TestProofDecides(t *testing.T) {
	t.Run("absent", func(t *testing.T) {
		d := newGateway(t).device(t, Request{})
		d.proof = false
		if _, r := d.enroll(); r.Proven || r.Stage != quarantine.Quarantined {
			t.Errorf("a stock client is proven %v, %s; want unproven in quarantine", r.Proven, r.Stage)
		}
	})
	for _, c := range []struct {
		name string
		mend func(*device)
	}{
		{"for another key", func(d *device) {
			d.proof = false
			d.extra = []cmp.Info{cmp.ProofInfo(cmp.Proof{KeyID: "p1", MAC: make([]byte, 32)})}
		}},
		{"for another transaction", func(d *device) {
			d.proof = false
			d.extra = []cmp.Info{d.proofInfo(make([]byte, 16), d.code.Reference)}
		}},
		{"for another reference", func(d *device) {
			d.edit = func(m *cmp.Message) {
				m.Header.GeneralInfo = []cmp.Info{d.proofInfo(m.Header.TransactionID, "00000000")}
			}
		}},
		{"by an unknown proof key", func(d *device) {
			d.edit = func(m *cmp.Message) {
				p, _, err := cmp.ReadProof(m.Header.GeneralInfo)
				if err != nil {
					t.Fatal(err)
				}
				p.KeyID = "p0"
				m.Header.GeneralInfo = []cmp.Info{cmp.ProofInfo(p)}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newGateway(t).device(t, Request{})
			c.mend(d)
			d.refused(d.p10cr(), cmp.BadPOP, "proof of the WireGuard key")
			if d.g.made.issued.Load() != 0 {
				t.Error("a certificate was signed")
			}
		})
	}
}

func TestPreviousProofKeyStillCounts(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	body := d.p10cr()
	next := newGateway(t).config.ProofKeys[0]
	next.ID = "p2"
	g.config.ProofKeys = []ProofKey{next, g.config.ProofKeys[0]}
	g.restart(t)
	if r := d.record(d.certificate(d.ask(body))); !r.Proven {
		t.Error("a proof by the previous key does not count")
	}
}

func TestCertificateHoldsOnlyWhatWasAdmitted(t *testing.T) {
	d := newGateway(t).device(t, Request{})
	constraints, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	d.change = func(r *x509.CertificateRequest) {
		r.Subject = pkix.Name{CommonName: "admin", Organization: []string{"Evil"}}
		r.DNSNames = []string{"gateway.example.com"}
		r.EmailAddresses = []string{"root@example.com"}
		r.URIs = append(r.URIs, &url.URL{Scheme: "spiffe", Host: "x", Path: "/admin"})
		r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints}}
	}
	cert, r := d.enroll()
	if cert.IsCA || len(cert.DNSNames)+len(cert.EmailAddresses) != 0 || len(cert.URIs) != 1 || cert.Subject.CommonName != string(r.ID) || len(cert.Subject.Organization) != 0 {
		t.Errorf("got more than was admitted: CA %v, %v, %v, %v, %v", cert.IsCA, cert.Subject, cert.DNSNames, cert.EmailAddresses, cert.URIs)
	}
	if !d.g.log.has("enroll.note", "asked for more than was admitted") {
		t.Error("the audit log does not say what was asked for")
	}
}

func TestKeyTypes(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for _, c := range []struct {
		name, profile string
		key           crypto.Signer
		admitted      bool
	}{
		{"P-384", "plain", p384, true},
		{"Ed25519", "plain", ed, true},
		{"P-224", "plain", p224, false},
		{"RSA 2048", "plain", strong, false},
		{"RSA 2048", "rsa", strong, true},
		{"RSA 1024", "rsa", weak, false},
	} {
		t.Run(c.name+" in profile "+c.profile, func(t *testing.T) {
			d := newGateway(t).device(t, Request{Profile: c.profile})
			d.key = c.key
			if !c.admitted {
				d.refused(d.p10cr(), cmp.BadCertTemplate, "certificate key")
				return
			}
			cert, _ := d.enroll()
			if !cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(c.key.Public()) {
				t.Error("certificate of another key")
			}
		})
	}
}

func TestSignatureOfTheRequest(t *testing.T) {
	d := newGateway(t).device(t, Request{})
	d.edit = func(m *cmp.Message) { m.Body.PKCS10[len(m.Body.PKCS10)-1] ^= 1 }
	d.refused(d.p10cr(), cmp.BadPOP, "possession")

	// In CRMF: the request of one key with the key of another in it.
	other := d.g.holder(t, d.code)
	d.edit, d.proof = nil, false
	m, err := cmp.Parse(bytes.ReplaceAll(d.ir(), d.spki()[2:], other.spki()[2:]))
	if err != nil {
		t.Fatal(err)
	}
	d.refused(d.keyed(m), cmp.BadPOP, "possession")
	if d.g.made.issued.Load() != 0 {
		t.Error("a certificate was signed")
	}
}

func TestWireGuardKeys(t *testing.T) {
	low := map[string][32]byte{ // points of small order and other spellings, RFC 7748 and its errata
		"zero": {}, "one": {1}, "of order 8": {
			0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
		"2^255-19": func() (k [32]byte) {
			for i := range k {
				k[i] = 0xff
			}
			k[0], k[31] = 0xed, 0x7f
			return k
		}(),
		"with the top bit set": {31: 0x80 | 0x12},
	}
	for name, key := range low {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t).device(t, Request{})
			d.proof = false
			d.change = func(r *x509.CertificateRequest) { r.URIs[0], _ = url.Parse(cmp.WireGuardURI(key)) }
			d.refused(d.p10cr(), cmp.BadCertTemplate, "WireGuard key")
		})
	}
	for name, uris := range map[string][]string{
		"missing": {}, "short": {"wireguard:AAAA"}, "padded": {"wireguard:" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},
		"twice": {cmp.WireGuardURI([32]byte{9}), cmp.WireGuardURI([32]byte{10})},
	} {
		t.Run(name, func(t *testing.T) {
			d := newGateway(t).device(t, Request{})
			d.proof = false
			d.change = func(r *x509.CertificateRequest) {
				r.URIs = nil
				for _, u := range uris {
					parsed, err := url.Parse(u)
					if err != nil {
						t.Fatal(err)
					}
					r.URIs = append(r.URIs, parsed)
				}
			}
			d.refused(d.p10cr(), cmp.BadCertTemplate, "subjectAltName")
		})
	}
}

func TestSomebodyElsesKeys(t *testing.T) {
	g := newGateway(t)
	victim := g.device(t, Request{User: "victim@example.com"})
	_, before := victim.enroll()

	thief := g.device(t, Request{User: "thief@example.com"})
	thief.proof = false
	thief.change = func(r *x509.CertificateRequest) { r.URIs[0], _ = url.Parse(cmp.WireGuardURI(victim.public())) }
	thief.refused(thief.p10cr(), cmp.BadCertTemplate, "WireGuard key belongs to another device")

	copycat := g.device(t, Request{User: "thief@example.com"})
	copycat.key = victim.key
	copycat.refused(copycat.p10cr(), cmp.BadCertTemplate, "certificate key belongs to another device")

	after, err := g.store.Device(t.Context(), before.ID)
	if err != nil || after.Revision != before.Revision || g.store.live() != 1 {
		t.Errorf("the victim's record was touched: %v, %d devices", err, g.store.live())
	}
	if !g.log.has("enroll.alarm", "belongs to another device") {
		t.Error("no alarm was raised")
	}
}

// TestGatewaysOwnKey: a peer with the tunnel's own key could not be set, and would be in
// the way of every plan.
func TestGatewaysOwnKey(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{User: "thief@example.com"})
	d.proof = false
	key, err := tunnel.ParseKey(g.Desk.cfg.Gateways()[0].WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	d.change = func(r *x509.CertificateRequest) { r.URIs[0], _ = url.Parse(cmp.WireGuardURI(key)) }
	d.refused(d.p10cr(), cmp.BadCertTemplate, "belongs to a gateway")
	if g.store.live() != 0 {
		t.Error("a device was made")
	}
}

func TestUnprovenYieldsToProven(t *testing.T) {
	g := newGateway(t)
	owner := g.device(t, Request{User: "owner@example.com"})
	squatter := g.device(t, Request{User: "squatter@example.com"})
	squatter.proof = false
	squatter.change = func(r *x509.CertificateRequest) { r.URIs[0], _ = url.Parse(cmp.WireGuardURI(owner.public())) }
	cert := squatter.certificate(squatter.ask(squatter.p10cr()))

	rival := g.device(t, Request{User: "rival@example.com"})
	rival.proof, rival.change = false, squatter.change
	rival.refused(rival.p10cr(), cmp.BadCertTemplate, "belongs to another device")
	if r := squatter.record(cert); r.Stage != quarantine.Quarantined {
		t.Errorf("an unproven device yielded to an unproven one: %s", r.Stage)
	}

	if _, r := owner.enroll(); !r.Proven || r.Key != owner.public() {
		t.Errorf("the owner of the key got %+v", r)
	}
	if r := squatter.record(cert); r.Stage != quarantine.Revoked {
		t.Errorf("who never proved the key is %s, want revoked", r.Stage)
	}
	squatter.refused(squatter.p10cr(), cmp.CertRevoked, "revoked")
}

func TestConstraints(t *testing.T) {
	corporate := cmp.Claim{Platform: "linux", Ownership: "corporate"}
	for _, c := range []struct {
		name    string
		request Request
		claim   cmp.Claim
		refused string // empty: admitted
	}{
		{"serial fits", Request{Serial: "C02X1"}, cmp.Claim{Serial: "c02x1 "}, ""},
		{"serial differs", Request{Serial: "C02X1"}, cmp.Claim{Serial: "C02X2"}, "another serial number"},
		{"serial not said", Request{Serial: "C02X1"}, cmp.Claim{}, "another serial number"},
		{"serial of no interest", Request{}, cmp.Claim{Serial: "ANY"}, ""},
		{"platform differs", Request{Platform: "macos"}, cmp.Claim{Platform: "linux"}, "another platform"},
		{"ownership differs", Request{Ownership: "corporate"}, cmp.Claim{Ownership: "personal"}, "another ownership"},
		{"ownership from the OTP", Request{Profile: "linux", Ownership: "corporate"}, cmp.Claim{Platform: "linux"}, ""},
		{"profile fits", Request{Profile: "linux", Ownership: "corporate"}, corporate, ""},
		{"profile does not admit platform", Request{Profile: "linux", Ownership: "corporate"}, cmp.Claim{Platform: "windows", Ownership: "corporate"}, "platform"},
		{"stock client in a strict profile", Request{Profile: "linux", Ownership: "corporate"}, cmp.Claim{}, "platform"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newGateway(t).device(t, c.request)
			d.claim = c.claim
			if c.refused == "" {
				if _, r := d.enroll(); r.Platform != c.claim.Platform {
					t.Errorf("platform recorded as %q", r.Platform)
				}
				return
			}
			d.refused(d.p10cr(), cmp.NotAuthorized, c.refused)
			if o, _ := d.g.store.OTP(t.Context(), d.code.Reference); o.State != Pending || d.g.made.issued.Load() != 0 {
				t.Errorf("OTP is %s, %d signed; want it pending and nothing signed", o.State, d.g.made.issued.Load())
			}
		})
	}
}

// TestClaimsAreNoCredentials: what a device says of itself beyond its OTP is noted, and
// never stands in the record, where a source could name the device by it. FleetDM took a
// serial number for a credential (CVE-2026-103264).
func TestClaimsAreNoCredentials(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.claim = cmp.Claim{Serial: "C02VICTIM", Platform: "linux", Ownership: "corporate"}
	if _, r := d.enroll(); r.Serial != "" || r.Ownership != "" || r.Platform != "linux" {
		t.Errorf("recorded serial %q, ownership %q, platform %q; want only the platform", r.Serial, r.Ownership, r.Platform)
	}
	if !g.log.has("enroll.note", `serial number "C02VICTIM", ownership "corporate"`) {
		t.Error("the audit log does not tell what the device said")
	}
	d = g.device(t, Request{Serial: "C02X1", Platform: "Linux", Ownership: "personal"})
	d.claim = cmp.Claim{Serial: "c02x1", Platform: "linux", Ownership: "PERSONAL"}
	if _, r := d.enroll(); r.Serial != "C02X1" || r.Platform != "Linux" || r.Ownership != "personal" {
		t.Errorf("recorded serial %q, ownership %q, platform %q; want the administrator's words", r.Serial, r.Ownership, r.Platform)
	}
}

// TestOwnershipIsTheAdministratorsWord: a device does not talk itself into a profile for
// corporate devices, also when the profile became one after the OTP was made.
func TestOwnershipIsTheAdministratorsWord(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.claim = cmp.Claim{Ownership: "corporate"}
	p := g.store.profiles["plain"]
	p.Ownerships = []string{"corporate"}
	g.store.profiles["plain"] = p
	d.refused(d.p10cr(), cmp.NotAuthorized, "names the ownership")
}

func TestWhereADeviceStarts(t *testing.T) {
	for profile, want := range map[string]quarantine.Stage{"plain": quarantine.Quarantined, "approve": quarantine.Pending, "skip": quarantine.Routed} {
		t.Run(profile, func(t *testing.T) {
			g := newGateway(t)
			d := g.device(t, Request{Profile: profile})
			m := d.ask(d.p10cr())
			r := d.record(d.certificate(m))
			if r.Stage != want {
				t.Fatalf("starts %q, want %q", r.Stage, want)
			}
			s, _, err := cmp.ReadSettings(m.Header.GeneralInfo)
			if err != nil || (len(s.Full.Addresses) > 0) != (want == quarantine.Routed) {
				t.Errorf("full network %v (%v)", s.Full, err)
			}
			if g.log.has("enroll.note", "skips quarantine") != (want == quarantine.Routed) {
				t.Error("the audit log must tell of a skipped quarantine, and only then")
			}
		})
	}
}

// careless is a gate that routes everybody.
type careless struct{ *memory }

func (c careless) Admit(r quarantine.Record) (quarantine.Record, error) {
	r.Stage, r.Pool = quarantine.Routed, "full"
	return r, nil
}

func TestNothingStartsRoutedByMistake(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Gate = careless{c.Store.(*memory)} })
	d := g.device(t, Request{})
	d.refused(d.p10cr(), cmp.SystemUnavail, "later")
	if g.store.live() != 0 {
		t.Error("a routed device was recorded under a profile with quarantine")
	}
}

func TestNames(t *testing.T) {
	g := newGateway(t)
	var names []string
	for range 3 {
		_, r := g.device(t, Request{Name: "laptop"}).enroll()
		names = append(names, r.Name)
	}
	if !slices.Equal(names, []string{"laptop", "laptop-2", "laptop-3"}) {
		t.Errorf("names %v", names)
	}
	d := g.device(t, Request{User: "Žofie Nová@example.com"})
	d.claim = cmp.Claim{Platform: "linux"}
	_, r := d.enroll()
	if want := "ofie-nov-linux-" + lower(d.code.Reference[:4]); r.Name != want || !nameable(r.Name) {
		t.Errorf("derived name %q, want %q", r.Name, want)
	}
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func TestNoSeatLeft(t *testing.T) {
	g := newGateway(t)
	small := g.store.pools["full"]
	small.IPv4 = netip.MustParsePrefix("10.20.0.0/29") // network, gateway, five seats, broadcast
	g.store.pools["full"] = small
	for range 5 {
		g.device(t, Request{}).enroll()
	}
	d := g.device(t, Request{})
	d.refused(d.p10cr(), cmp.SystemFailure, "no address is left")
}

func TestEnrollAgain(t *testing.T) {
	g := newGateway(t)
	g.device(t, Request{}).enroll() // so that the seat is not the first
	first := g.device(t, Request{Name: "laptop"})
	oldCert, old := first.enroll()
	at := time.Now().Add(-time.Minute).UTC()
	good := quarantine.Report{Device: old.ID, Source: "mdm", Verdict: quarantine.Compliant, At: at, Sequence: 7, Validity: hour}
	bad := quarantine.Report{Device: old.ID, Source: "scan", Verdict: quarantine.NonCompliant, At: at, Validity: hour}
	old.Reports = map[string]quarantine.Report{"mdm": good, "scan": bad}
	g.store.devices[old.ID] = old

	again := g.device(t, Request{Device: old.ID})
	cert, r := again.enroll()
	if r.ID != old.ID || r.Seat != old.Seat || r.Name != "laptop" {
		t.Errorf("became %s seat %d %q, want %s seat %d %q", r.ID, r.Seat, r.Name, old.ID, old.Seat, "laptop")
	}
	if r.Key != again.public() || r.Certificate.SPKI == old.Certificate.SPKI || cert.Equal(oldCert) {
		t.Error("old keys were not retired")
	}
	if _, err := g.store.ByWireGuard(t.Context(), first.public()); err == nil {
		t.Error("the old WireGuard key still finds a device")
	}
	if m := r.Reports["mdm"]; m.Verdict != "" || !m.At.Equal(at) || m.Sequence != 7 {
		t.Errorf("the last compliant report stays as %+v, want its place in the order and no verdict", m)
	}
	if m := r.Reports["scan"]; m.Verdict != quarantine.NonCompliant || !m.At.Equal(at) || m.Validity != hour {
		t.Errorf("the last bad report stays as %+v", m)
	}
	first.refused(first.p10cr(), cmp.CertRevoked, "newer certificate")

	if _, err := g.store.Revoke(t.Context(), administrator, r.ID, "stolen"); err != nil {
		t.Fatal(err)
	}
	again.refused(again.p10cr(), cmp.CertRevoked, "revoked")
}

func TestBlockedDeviceDoesNotEnrollAgain(t *testing.T) {
	g := newGateway(t)
	_, old := g.device(t, Request{}).enroll()
	again := g.device(t, Request{Device: old.ID})
	if _, err := g.store.change(old.ID, quarantine.Change{Kind: quarantine.Block, By: administrator}); err != nil {
		t.Fatal(err)
	}
	again.refused(again.p10cr(), cmp.NotAuthorized, "blocked")
}
