package enroll

import (
	"bytes"
	"crypto"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
)

// strangers are all who must not be told apart: what makes each of them one, and what
// only the audit log says.
var strangers = []struct {
	name, why string
	make      func(*testing.T, *gateway) *device
}{
	{"unknown reference", "unknown reference", func(t *testing.T, g *gateway) *device {
		return g.holder(t, code.Code{Reference: "ZZZZZZZZ", Secret: "0123456789ABCDEF"})
	}},
	{"no reference at all", "not a reference", func(t *testing.T, g *gateway) *device {
		return g.holder(t, code.Code{Reference: "hello, desk", Secret: "0123456789ABCDEF"})
	}},
	{"wrong MAC", "wrong MAC", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{})
		d.code.Secret = strings.ToLower(d.code.Secret)
		return d
	}},
	{"expired", "expired", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{Life: hour})
		g.later(hour)
		return d
	}},
	{"expired and tidied", "expired", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{Life: hour})
		g.later(hour)
		if err := g.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		return d
	}},
	{"cancelled", "cancelled", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{})
		if err := g.CancelOTP(t.Context(), administrator, d.code.Reference); err != nil {
			t.Fatal(err)
		}
		return d
	}},
	{"used", "used", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{})
		d.enroll()
		g.later(hour)
		return d
	}},
	{"issued, never confirmed", "used", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{})
		d.ask(d.p10cr())
		g.later(hour)
		return d
	}},
	{"secret gone", "cannot be opened", func(t *testing.T, g *gateway) *device {
		d := g.device(t, Request{})
		o := g.store.otps[d.code.Reference]
		o.User = "somebody else" // the seal is bound to the user
		g.store.otps[d.code.Reference] = o
		return d
	}},
}

// TestStrangersLearnNothing: one answer, and one amount of work, for every wrong code
// (M3; Pritunl CVE-2020-25200 told users apart).
func TestStrangersLearnNothing(t *testing.T) {
	transaction, nonce := bytes.Repeat([]byte{7}, 16), bytes.Repeat([]byte{8}, 16)
	want := cmp.Refusal(cmp.Header{TransactionID: transaction, SenderNonce: nonce, SenderKID: []byte("ZZZZZZZZ")})
	for _, kind := range []string{"genm", "p10cr", "ir", "certConf"} {
		for _, s := range strangers {
			t.Run(kind+" "+s.name, func(t *testing.T) {
				g := newGateway(t)
				d := s.make(t, g)
				d.edit = func(m *cmp.Message) {
					m.Header.TransactionID, m.Header.SenderNonce = transaction, nonce
					if kind == "certConf" {
						m.Body = cmp.Body{Kind: cmp.CertConf, Statuses: []cmp.CertStatus{{Hash: make([]byte, 32)}}}
					}
				}
				body := map[string]func() []byte{"genm": d.genm, "certConf": d.genm, "p10cr": d.p10cr, "ir": d.ir}[kind]()
				before := g.store.state()
				g.made.opened.Store(0)
				issued := g.made.issued.Load()
				w := d.post(body)
				if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), want) {
					t.Errorf("got HTTP %d % x\nwant 200 % x", w.Code, w.Body.Bytes(), want)
				}
				if h := fmt.Sprint(w.Header()); h != "map[Cache-Control:[no-store] Content-Type:[application/pkixcmp]]" {
					t.Errorf("headers %s", h)
				}
				if g.made.opened.Load() != 1 {
					t.Errorf("opened %d sealed secrets, want exactly one whoever asks", g.made.opened.Load())
				}
				if g.made.issued.Load() != issued || g.store.state() != before {
					t.Error("something changed")
				}
				if !g.log.has("enroll.refuse", s.why) {
					t.Errorf("the audit log does not say %q: %+v", s.why, g.log.all())
				}
				m, err := cmp.Parse(w.Body.Bytes())
				if err != nil || m.Protection != nil || m.Body.Error.Status.Fail != cmp.BadMessageCheck {
					t.Errorf("not an unprotected badMessageCheck: %v", err)
				}
			})
		}
	}
}

// TestMACIsComputedForEverybody: a stranger's message must cost its iterations too. The
// verifier's time for many iterations stands out against that of few by far.
func TestMACIsComputedForEverybody(t *testing.T) {
	cost := func(d *device, iterations int) time.Duration {
		d.mac = &cmp.MACParams{OWF: crypto.SHA512, MAC: crypto.SHA256, Iterations: iterations}
		body := d.genm()
		best := time.Hour
		for range 7 {
			start := time.Now()
			d.post(body)
			best = min(best, time.Since(start))
		}
		return best
	}
	for _, s := range strangers {
		t.Run(s.name, func(t *testing.T) {
			d := s.make(t, newGateway(t))
			few, many := cost(d, 100), cost(d, 10_000)
			if many < 5*few {
				t.Errorf("100 iterations took %v, 10,000 took %v: the MAC is not computed", few, many)
			}
		})
	}
}

func TestAlgorithms(t *testing.T) {
	for _, c := range []struct {
		name    string
		params  cmp.MACParams
		strict  bool
		refused bool
		edit    func([]byte) []byte
	}{
		{"HMAC-SHA-1", cmp.MACParams{OWF: crypto.SHA256, MAC: crypto.SHA1, Iterations: 500}, false, false, nil},
		{"HMAC-SHA-1, strict", cmp.MACParams{OWF: crypto.SHA256, MAC: crypto.SHA1, Iterations: 500}, true, true, nil},
		{"SHA-384", cmp.MACParams{OWF: crypto.SHA384, MAC: crypto.SHA384, Iterations: 100}, true, false, nil},
		{"SHA-512", cmp.MACParams{OWF: crypto.SHA512, MAC: crypto.SHA512, Iterations: 10_000}, true, false, nil},
		{"too few iterations", cmp.MACParams{OWF: crypto.SHA256, MAC: crypto.SHA256, Iterations: 100}, false, true,
			func(der []byte) []byte { return bytes.Replace(der, []byte{2, 1, 100, 0x30}, []byte{2, 1, 99, 0x30}, 1) }},
		{"too many iterations", cmp.MACParams{OWF: crypto.SHA256, MAC: crypto.SHA256, Iterations: 10_000}, false, true,
			func(der []byte) []byte {
				return bytes.Replace(der, []byte{2, 2, 0x27, 0x10, 0x30}, []byte{2, 2, 0x27, 0x11, 0x30}, 1)
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t, func(cfg *Config) { cfg.AllowSHA1 = !c.strict })
			d := g.device(t, Request{})
			d.mac = &c.params
			if !c.refused {
				if m := d.ask(d.genm()); m.Body.Kind != cmp.GenP {
					t.Fatalf("kind %d", m.Body.Kind)
				}
				return
			}
			edit := c.edit
			if edit == nil {
				edit = bytes.Clone
			}
			m := d.parse(d.post(edit(d.genm())))
			if m.Body.Error.Status.Fail != cmp.BadAlg || m.Protection != nil {
				t.Errorf("refused with %v, want an unprotected badAlg", m.Body.Error.Status)
			}
			unknown := g.holder(t, code.Code{Reference: "ZZZZZZZZ", Secret: "0123456789ABCDEF"})
			unknown.mac = d.mac
			if u := unknown.parse(unknown.post(edit(unknown.genm()))); u.Body.Error.Status.Fail != cmp.BadAlg {
				t.Errorf("an unknown reference is told %v instead", u.Body.Error.Status)
			}
		})
	}
}

func TestNoProtection(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	h := d.header()
	der, err := (&cmp.Message{Header: h, Body: cmp.Body{Kind: cmp.P10CR, PKCS10: d.csr()}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if w := d.post(der); !bytes.Equal(w.Body.Bytes(), cmp.Refusal(h)) {
		t.Errorf("an unprotected request got % x", w.Body.Bytes())
	}
}

func TestAfterTheMACErrorsAreSpecific(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	edited := func(edit func(*cmp.Message)) []byte {
		defer func() { d.edit = nil }()
		d.edit = edit
		return d.p10cr()
	}
	d.refused(edited(func(m *cmp.Message) { m.Header.TransactionID = []byte("short") }), cmp.BadDataFormat, "transaction ID")
	d.refused(edited(func(m *cmp.Message) { m.Header.SenderNonce = []byte("short") }), cmp.BadSenderNonce, "nonce")
	d.refused(edited(func(m *cmp.Message) { m.Body.PKCS10 = []byte{0x30, 0} }), cmp.BadDataFormat, "cannot be read")
	d.refused(edited(func(m *cmp.Message) { m.Body = cmp.Body{Kind: cmp.GenM} }), cmp.BadRequest, "caCerts")
	d.refused(edited(func(m *cmp.Message) { m.Body = cmp.Body{Kind: cmp.PKIConf} }), cmp.BadRequest, "not answered")
	d.refused(edited(func(m *cmp.Message) { m.Body = cmp.Body{Kind: cmp.CertConf} }), cmp.BadRequest, "no certificate")
	delete(g.store.profiles, "plain")
	d.refused(d.p10cr(), cmp.NotAuthorized, "profile")
	if g.made.issued.Load() != 0 {
		t.Error("a certificate was signed")
	}
}

func TestStoreDown(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	g.store.fail = errDown
	if w := d.post(d.p10cr()); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("HTTP %d, want 503 with Retry-After", w.Code)
	}
	g.store.fail = nil
	g.store.onIssue = func(*Issuance) error { return errDown }
	d.refused(d.p10cr(), cmp.SystemUnavail, "try again later")
	g.store.onIssue = nil
	d.enroll()
}

func TestExporter(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.extra = []cmp.Info{cmp.ExporterInfo(make([]byte, 32))}
	m := d.ask(d.p10cr()) // this listener does not compare
	if m.Body.Kind != cmp.CP {
		t.Fatalf("kind %d: %v", m.Body.Kind, m.Body.Error.Status)
	}
	strict := newGateway(t, func(c *Config) { c.Exporter = true })
	d = strict.device(t, Request{})
	d.extra = []cmp.Info{cmp.ExporterInfo(make([]byte, 32))}
	d.refused(d.p10cr(), cmp.BadMessageCheck, "in between")
	if !strict.log.has("enroll.alarm", "in between") || strict.made.issued.Load() != 0 {
		t.Error("no alarm, or something was signed")
	}
	d.extra = nil
	d.enroll() // a stock client sends none
}

// TestNothingSecretIsWritten looks for the secret in all that was audited and answered.
func TestNothingSecretIsWritten(t *testing.T) {
	for _, s := range strangers {
		g := newGateway(t)
		d := s.make(t, g)
		w := d.post(d.p10cr())
		for _, text := range []string{fmt.Sprint(g.log.all()), w.Body.String(), g.store.state()} {
			if contains(text, d.code.Secret) {
				t.Errorf("%s: the secret is in %q", s.name, text)
			}
		}
	}
}

func TestFailuresSlowDownAndNothingLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t, func(c *Config) { c.Limits = Limits{Delay: 2 * time.Second} })
		d := g.device(t, Request{})
		secret := d.code.Secret
		d.code.Secret = "0000000000000000"
		timed := func() time.Duration {
			start := time.Now()
			d.post(d.genm())
			return time.Since(start)
		}
		for i := range 4 {
			if held := timed(); held != 0 {
				t.Errorf("failure %d was held back for %v", i+1, held)
			}
		}
		if held := timed(); held != 2*time.Second {
			t.Errorf("the fifth failure was held back for %v, want 2s", held)
		}
		d.code.Secret = secret
		start := time.Now()
		if m := d.ask(d.genm()); m.Body.Kind != cmp.GenP || time.Since(start) != 0 {
			t.Errorf("with the right secret: kind %d after %v; want the welcome at once", m.Body.Kind, time.Since(start))
		}
	})
}

// TestOfficeBehindOneAddress: a hundred devices at once, and none of them is slowed,
// since only failures count.
func TestOfficeBehindOneAddress(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits = Limits{Delay: time.Hour} })
	var devices []*device
	for range 100 {
		devices = append(devices, g.device(t, Request{}))
	}
	var wg sync.WaitGroup
	for _, d := range devices {
		body := d.p10cr()
		wg.Go(func() { d.post(body) })
	}
	wg.Wait()
	if g.store.live() != 100 {
		t.Errorf("%d of 100 devices enrolled", g.store.live())
	}
}

func TestFiftyFailuresAlert(t *testing.T) {
	g := newGateway(t)
	d := g.holder(t, code.Code{Reference: "ZZZZZZZZ", Secret: "0123456789ABCDEF"})
	for i := range 60 {
		d.from = fmt.Sprintf("192.0.2.%d:1000", i)
		d.post(d.genm())
	}
	alarms := 0
	for _, e := range g.log.all() {
		if e.Action == "enroll.alarm" {
			alarms++
		}
	}
	if alarms != 1 {
		t.Errorf("%d alarms for sixty failures, want one", alarms)
	}
}
