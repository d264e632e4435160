package enroll

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// kur asks for a renewal, signed by signer under cert, for the device's key.
func (d *device) kur(signer crypto.Signer, cert *x509.Certificate) []byte {
	d.t.Helper()
	old := d.old
	if old == nil {
		old = &cmp.CertID{Issuer: cmp.DirectoryName(cert.RawIssuer), Serial: serialContent(cert)}
	}
	r, err := cmp.NewCertRequest(0, cmp.Template{Extensions: []cmp.Extension{d.names()}}, old, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	m := &cmp.Message{Header: cmp.NewHeader(*d.g.clock.Load()), Body: cmp.Body{Kind: cmp.KUR, Requests: []cmp.CertRequest{r}}}
	if d.proof {
		m.Header.GeneralInfo = append(m.Header.GeneralInfo, d.proofInfo(m.Header.TransactionID, ""))
	}
	m.Header.GeneralInfo = append(m.Header.GeneralInfo, d.extra...)
	if d.edit != nil {
		d.edit(m)
	}
	return d.signed(m, signer, cert)
}

// asked sends a signed message and checks that the gateway's responder signed the answer.
func (d *device) asked(body []byte) *cmp.Message {
	d.t.Helper()
	m := d.parse(d.post(body))
	if len(m.ExtraCerts) == 0 {
		d.t.Fatalf("the answer is not signed: %v", m.Body.Error.Status)
	}
	responder, err := x509.ParseCertificate(m.ExtraCerts[0])
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.g.made.VerifyResponder(responder, *d.g.clock.Load()); err != nil {
		d.t.Fatal(err)
	}
	if err := m.VerifySignature(responder.PublicKey); err != nil {
		d.t.Fatal(err)
	}
	return m
}

// distrusted expects a refusal of a signed message.
func (d *device) distrusted(body []byte, fail cmp.Failure, text string) {
	d.t.Helper()
	before, issued := d.g.store.state(), d.g.made.issued.Load()
	m := d.parse(d.post(body))
	s := m.Body.Error.Status
	if m.Body.Kind != cmp.Error || s.Fail != fail || !contains(strings.Join(s.Text, " "), text) {
		d.t.Errorf("kind %d, %v; want %v: ...%s...", m.Body.Kind, s, fail, text)
	}
	if d.g.store.state() != before || d.g.made.issued.Load() != issued {
		d.t.Error("something changed, or was signed")
	}
}

// moveOn gives the device fresh keys.
func (d *device) moveOn(certificate, wireGuard bool) {
	d.t.Helper()
	var err error
	if certificate {
		if d.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			d.t.Fatal(err)
		}
	}
	if wireGuard {
		if d.tunnel, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			d.t.Fatal(err)
		}
	}
}

func TestRenewal(t *testing.T) {
	for _, c := range []struct {
		name                   string
		certificate, wireGuard bool
	}{{"same keys", false, false}, {"new certificate key", true, false}, {"new WireGuard key", false, true}, {"both new", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			d := g.device(t, Request{})
			cert, before := d.enroll()
			key, first := d.key, d.public()
			g.later(60 * 24 * hour)
			d.moveOn(c.certificate, c.wireGuard)

			m := d.asked(d.kur(key, cert))
			if m.Body.Kind != cmp.KUP {
				t.Fatalf("kind %d: %v", m.Body.Kind, m.Body.Error.Status)
			}
			next := d.certificate(m)
			if next.Subject.CommonName != string(before.ID) || next.URIs[0].String() != cmp.WireGuardURI(d.public()) ||
				!next.PublicKey.(*ecdsa.PublicKey).Equal(d.key.Public()) || next.NotAfter.Sub(*g.clock.Load()) != 90*24*hour {
				t.Errorf("renewed as %v, %v until %v", next.Subject, next.URIs, next.NotAfter)
			}
			r := d.record(next)
			wantNext := tunnel.Key{}
			if c.wireGuard {
				wantNext = d.public()
			}
			if r.Key != first || r.Next != wantNext || r.Seat != before.Seat || r.Certificate.SPKI != pki.CertificateSPKISum(next) {
				t.Errorf("recorded key %s next %s", r.Key, r.Next)
			}
			if s, _, err := cmp.ReadSettings(m.Header.GeneralInfo); err != nil || s.Device != string(r.ID) {
				t.Errorf("settings %+v (%v)", s, err)
			}
			hash, err := cmp.CertHash(next)
			if err != nil {
				t.Fatal(err)
			}
			conf := &cmp.Message{Header: cmp.NewHeader(*g.clock.Load()), Body: cmp.Body{Kind: cmp.CertConf, Statuses: []cmp.CertStatus{{Hash: hash}}}}
			if a := d.asked(d.signed(conf, key, cert)); a.Body.Kind != cmp.PKIConf { // stock clients sign it with the old key
				t.Errorf("certConf: %v", a.Body.Error.Status)
			}
			conf.Body.Statuses[0].Hash = make([]byte, 32)
			d.distrusted(d.signed(conf, d.key, next), cmp.IncorrectData, "hash")
		})
	}
}

// TestClockDecidesWhatIsSigned: behind the highest time ever stored nothing is signed, and
// what is signed is dated by the store: a clock set back does not renew what has run out.
func TestClockDecidesWhatIsSigned(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	cert, _ := d.enroll()
	fresh := g.device(t, Request{})
	signed := g.made.issued.Load()
	g.store.noClock = fmt.Errorf("%w (clock 1970, stored 2026)", ErrClock)
	fresh.refused(fresh.p10cr(), cmp.SystemUnavail, "clock is wrong")
	d.distrusted(d.kur(d.key, cert), cmp.SystemUnavail, "clock is wrong")
	if now := g.made.issued.Load(); now != signed {
		t.Errorf("%d certificates signed by a wrong clock", now-signed)
	}
	g.store.noClock = nil
	out := cert.NotAfter
	g.store.clock = func() time.Time { return out }
	d.distrusted(d.kur(d.key, cert), cmp.SignerNotTrusted, "run out")
	ahead := g.clock.Load().Add(time.Minute)
	g.store.clock = func() time.Time { return ahead }
	if next := d.certificate(d.asked(d.kur(d.key, cert))); !next.NotAfter.Equal(ahead.Add(90 * 24 * hour).UTC()) {
		t.Errorf("valid until %v, want 90 days from the store's time", next.NotAfter)
	}
}

// TestLostRenewal: the device holds the old certificate, the gateway knows only the new one.
func TestLostRenewal(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	cert, before := d.enroll()
	key := d.key
	d.moveOn(true, true)
	d.post(d.kur(key, cert)) // lost
	m := d.asked(d.kur(key, cert))
	if m.Body.Kind != cmp.KUP || !d.certificate(m).PublicKey.(*ecdsa.PublicKey).Equal(d.key.Public()) {
		t.Fatalf("kind %d: %v", m.Body.Kind, m.Body.Error.Status)
	}
	if r := d.record(cert); r.ID != before.ID || r.Next != d.public() || g.store.live() != 1 {
		t.Errorf("record %+v", r)
	}
	d.moveOn(true, false) // but the old certificate is good for nothing else
	d.distrusted(d.kur(key, cert), cmp.SignerNotTrusted, "replaced by a newer one")
}

func TestWhoMayNotRenew(t *testing.T) {
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		fail cmp.Failure
		text string
		body func(*testing.T, *device, *x509.Certificate, quarantine.Record) []byte
	}{
		{"blocked", cmp.SignerNotTrusted, "blocked or revoked", func(t *testing.T, d *device, c *x509.Certificate, r quarantine.Record) []byte {
			if _, err := d.g.store.change(r.ID, quarantine.Change{Kind: quarantine.Block, By: administrator}); err != nil {
				t.Fatal(err)
			}
			return d.kur(d.key, c)
		}},
		{"revoked", cmp.SignerNotTrusted, "blocked or revoked", func(t *testing.T, d *device, c *x509.Certificate, r quarantine.Record) []byte {
			if _, err := d.g.store.Revoke(t.Context(), administrator, r.ID, "lost"); err != nil {
				t.Fatal(err)
			}
			return d.kur(d.key, c)
		}},
		{"forgotten", cmp.SignerNotTrusted, "gone", func(_ *testing.T, d *device, c *x509.Certificate, r quarantine.Record) []byte {
			delete(d.g.store.devices, r.ID)
			return d.kur(d.key, c)
		}},
		{"certificate over", cmp.SignerNotTrusted, "", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			d.g.at(c.NotAfter.Add(1e9))
			return d.kur(d.key, c)
		}},
		{"enrolled again since", cmp.SignerNotTrusted, "newer one", func(t *testing.T, d *device, c *x509.Certificate, r quarantine.Record) []byte {
			d.g.device(t, Request{Device: r.ID}).enroll()
			return d.kur(d.key, c)
		}},
		{"a server's certificate", cmp.SignerNotTrusted, "", func(_ *testing.T, d *device, _ *x509.Certificate, _ quarantine.Record) []byte {
			return d.kur(d.g.hierarchy.Responder.Key, d.g.hierarchy.Responder.Certificate)
		}},
		{"a certificate of its own making", cmp.SignerNotTrusted, "", func(t *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			forged := *c
			forged.PublicKey = stranger.Public()
			der, err := x509.CreateCertificate(rand.Reader, &forged, &forged, stranger.Public(), stranger)
			if err != nil {
				t.Fatal(err)
			}
			own, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			return d.kur(stranger, own)
		}},
		{"a spoiled signature", cmp.BadMessageCheck, "", func(t *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			body := d.kur(d.key, c)
			m, err := cmp.Parse(body)
			if err != nil {
				t.Fatal(err)
			}
			spoiled := bytes.Clone(m.Protection)
			spoiled[len(spoiled)-1] ^= 1
			return bytes.Replace(body, m.Protection, spoiled, 1)
		}},
		{"another device's certificate to renew", cmp.BadCertID, "own", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			d.old = &cmp.CertID{Issuer: cmp.DirectoryName(c.RawIssuer), Serial: []byte{1, 2, 3}}
			return d.kur(d.key, c)
		}},
		{"new WireGuard key without a proof", cmp.BadPOP, "needs the proof", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			d.moveOn(false, true)
			d.proof = false
			return d.kur(d.key, c)
		}},
		{"new WireGuard key with a wrong proof", cmp.BadPOP, "wrong", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			d.moveOn(false, true)
			d.proof = false
			d.extra = []cmp.Info{d.proofInfo(make([]byte, 16), "")}
			return d.kur(d.key, c)
		}},
		{"another device's WireGuard key", cmp.BadCertTemplate, "belongs to another device", func(t *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			other := d.g.device(t, Request{})
			other.enroll()
			d.tunnel = other.tunnel // with its private key, even: a device has one key
			return d.kur(d.key, c)
		}},
		{"revocation", cmp.BadRequest, "administrator", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			m := &cmp.Message{Header: cmp.NewHeader(*d.g.clock.Load()), Body: cmp.Body{Kind: cmp.RR, Revocations: []cmp.Revocation{{Reason: -1}}}}
			return d.signed(m, d.key, c)
		}},
		{"enrollment", cmp.WrongIntegrity, "one-time password", func(_ *testing.T, d *device, c *x509.Certificate, _ quarantine.Record) []byte {
			m := &cmp.Message{Header: cmp.NewHeader(*d.g.clock.Load()), Body: cmp.Body{Kind: cmp.P10CR, PKCS10: d.csr()}}
			return d.signed(m, d.key, c)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t)
			d := g.device(t, Request{})
			cert, r := d.enroll()
			d.distrusted(c.body(t, d, cert, r), c.fail, c.text)
		})
	}
}

func TestEveryByteOfARenewalCounts(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Keys = 100 })
	d := g.device(t, Request{})
	cert, _ := d.enroll()
	key := d.key
	d.moveOn(true, true)
	message := d.kur(key, cert)
	m, err := cmp.Parse(message)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.Index(message, m.ExtraCerts[0])
	before, issued := g.store.state(), g.made.issued.Load()
	for i := range message {
		body := bytes.Clone(message)
		body[i] ^= 1
		if i >= first+len(m.ExtraCerts[0]) {
			continue // what follows the signer's certificate is not looked at
		}
		d.post(body)
		if g.store.state() != before || g.made.issued.Load() != issued {
			t.Fatalf("byte %d of %d changed, and something was issued", i, len(message))
		}
	}
}

func TestCaCertsForADeviceWithACertificate(t *testing.T) {
	d := newGateway(t).device(t, Request{})
	cert, _ := d.enroll()
	m := &cmp.Message{Header: cmp.NewHeader(*d.g.clock.Load()), Body: cmp.Body{Kind: cmp.GenM, Infos: []cmp.Info{cmp.CACertsInfo()}}}
	if a := d.asked(d.signed(m, d.key, cert)); a.Body.Kind != cmp.GenP {
		t.Errorf("kind %d: %v", a.Body.Kind, a.Body.Error.Status)
	}
}
