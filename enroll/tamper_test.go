package enroll

import (
	"bytes"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"lazaret/enroll/cmp"
	"lazaret/quarantine"
)

// unmoved posts a spoiled message and wants it refused without a change of anything.
func unmoved(t *testing.T, d *device, what string, body []byte) {
	t.Helper()
	before, issued := d.g.store.state(), d.g.made.issued.Load()
	w := d.post(body)
	if d.g.store.state() != before || d.g.made.issued.Load() != issued {
		t.Fatalf("%s: something was issued or recorded", what)
	}
	if w.Code == http.StatusBadRequest {
		return
	}
	m, err := cmp.Parse(w.Body.Bytes())
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: HTTP %d: %v", what, w.Code, err)
	}
	if f := m.Body.Error.Status.Fail; m.Body.Kind != cmp.Error || m.Protection != nil || f != cmp.BadMessageCheck && f != cmp.BadAlg {
		t.Errorf("%s: kind %d, %v, protected %v; want badMessageCheck, badAlg or HTTP 400", what, m.Body.Kind, m.Body.Error.Status, m.Protection != nil)
	}
}

// spoil tries every truncation and every byte flipped.
func spoil(t *testing.T, d *device, message []byte) {
	for i := range message {
		for _, mask := range []byte{0x01, 0x80, 0x20} {
			body := bytes.Clone(message)
			body[i] ^= mask
			unmoved(t, d, fmt.Sprintf("byte %d ^ %#02x", i, mask), body)
		}
		unmoved(t, d, fmt.Sprintf("first %d bytes", i), message[:i])
	}
	unmoved(t, d, "with a byte behind", append(bytes.Clone(message), 0))
	unmoved(t, d, "twice", append(bytes.Clone(message), message...))
}

func TestEveryByteCounts(t *testing.T) {
	quiet := func(c *Config) { c.Limits.Keys = 100 }
	for kind, body := range map[string]func(*device) []byte{"genm": (*device).genm, "p10cr": (*device).p10cr, "ir": (*device).ir} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := newGateway(t, quiet).device(t, Request{})
			message := body(d)
			spoil(t, d, message)
			if m := d.ask(message); m.Body.Kind == cmp.Error {
				t.Errorf("the message itself is refused: %v", m.Body.Error.Status)
			}
		})
	}
	t.Run("certConf", func(t *testing.T) {
		t.Parallel()
		d := newGateway(t, quiet).device(t, Request{})
		m := d.ask(d.p10cr())
		message := d.certConf(m, d.certificate(m))
		spoil(t, d, message)
		if m := d.ask(message); m.Body.Kind != cmp.PKIConf {
			t.Errorf("the message itself is refused: %v", m.Body.Error.Status)
		}
	})
}

func TestHundredAtOnce(t *testing.T) {
	g := newGateway(t)
	first := g.device(t, Request{})
	var wg sync.WaitGroup
	answers := make([]*cmp.Message, 100)
	for i := range answers {
		d := g.holder(t, first.code)
		body := d.p10cr()
		wg.Go(func() { answers[i] = d.parse(d.post(body)) })
	}
	wg.Wait()
	granted, duplicate := 0, 0
	for _, m := range answers {
		switch {
		case m.Body.Kind == cmp.CP:
			granted++
		case m.Body.Error.Status.Fail == cmp.DuplicateCertReq && m.Protection != nil:
			duplicate++
		default:
			t.Errorf("kind %d: %v", m.Body.Kind, m.Body.Error.Status)
		}
	}
	if granted != 1 || duplicate != 99 || g.store.live() != 1 || g.made.issued.Load() != 1 {
		t.Errorf("%d granted, %d duplicate, %d devices, %d signed; want 1, 99, 1, 1", granted, duplicate, g.store.live(), g.made.issued.Load())
	}
	if !g.log.has("enroll.alarm", "used with other keys") {
		t.Error("no alarm was raised")
	}
}

// TestHundredGateways: the same without the turn that messages take at one desk.
func TestHundredGateways(t *testing.T) {
	g := newGateway(t)
	first := g.device(t, Request{})
	var wg sync.WaitGroup
	for range 100 {
		other := &gateway{store: g.store, made: g.made, log: g.log, config: g.config}
		other.clock.Store(g.clock.Load())
		other.restart(t)
		d := other.holder(t, first.code)
		body := d.p10cr()
		wg.Go(func() { d.post(body) })
	}
	wg.Wait()
	if g.store.live() != 1 {
		t.Errorf("%d devices, want 1", g.store.live())
	}
}

// TestSecondGatewayIsLate: it read the OTP as pending, and then another gateway issued to
// the same device. What is found under the device's own key is not another device's.
func TestSecondGatewayIsLate(t *testing.T) {
	for _, proof := range []bool{false, true} {
		g := newGateway(t)
		d := g.device(t, Request{})
		o, err := g.store.OTP(t.Context(), d.code.Reference)
		if err != nil {
			t.Fatal(err)
		}
		d.proof = false
		first := d.certificate(d.ask(d.p10cr()))
		d.proof = proof
		g.store.stale = &o
		if again := d.certificate(d.ask(d.p10cr())); !again.Equal(first) {
			t.Error("another certificate")
		}
		if r := d.record(first); r.Stage != quarantine.Quarantined {
			t.Errorf("the device was displaced by itself: %s", r.Stage)
		}
	}
}

func TestSameRequestAtOnce(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	bodies := make([][]byte, 50)
	for i := range bodies {
		bodies[i] = d.p10cr() // each a transaction of its own, for the same two keys
	}
	var wg sync.WaitGroup
	certs := make([][]byte, len(bodies))
	for i, body := range bodies {
		wg.Go(func() { certs[i] = d.parse(d.post(body)).Body.Responses[0].Certificate })
	}
	wg.Wait()
	for i := range certs {
		if !bytes.Equal(certs[i], certs[0]) {
			t.Fatalf("answer %d holds another certificate", i)
		}
	}
	if g.made.issued.Load() != 1 {
		t.Errorf("%d signed, want 1", g.made.issued.Load())
	}
}

// TestLostAnswers: whichever answer is lost, and whether or not the gateway was killed
// and the OTP ran out meanwhile, asking again ends with one device and one certificate.
func TestLostAnswers(t *testing.T) {
	for _, kind := range []string{"p10cr", "ir"} {
		for lost := range 4 {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, answer %d, late %v", kind, 2*lost, late), func(t *testing.T) {
					g := newGateway(t)
					d := g.device(t, Request{Life: 30 * 60 * 1e9})
					ask := map[string]func() []byte{"p10cr": d.p10cr, "ir": d.ir}[kind]
					var certs [][]byte
					g.later(29 * 60 * 1e9)
					if lost == 1 {
						d.post(d.genm())
					}
					d.ask(d.genm())
					m := d.ask(ask())
					certs = append(certs, d.certificate(m).Raw)
					if lost >= 2 {
						if late {
							g.later(59 * 60 * 1e9) // past the OTP's expiry, within the hour after issue
						}
						g.restart(t)
						d.ask(d.genm())
						m = d.ask(ask())
						certs = append(certs, d.certificate(m).Raw)
					}
					conf := d.certConf(m, d.certificate(m))
					if lost == 3 {
						d.post(conf)
						g.restart(t)
					}
					if a := d.ask(conf); a.Body.Kind != cmp.PKIConf {
						t.Errorf("confirmation: %v", a.Body.Error.Status)
					}
					for _, c := range certs {
						if !bytes.Equal(c, certs[0]) {
							t.Error("a repeat yielded another certificate")
						}
					}
					if g.store.live() != 1 || g.made.issued.Load() != 1 {
						t.Errorf("%d devices, %d signed; want 1 and 1", g.store.live(), g.made.issued.Load())
					}
					if o, _ := g.store.OTP(t.Context(), d.code.Reference); o.State != Confirmed {
						t.Errorf("OTP is %s", o.State)
					}
				})
			}
		}
	}
}

// TestKilledBeforeTheWrite: a signature that was not recorded leaves nothing behind.
func TestKilledBeforeTheWrite(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	before := g.store.state()
	g.store.onIssue = func(*Issuance) error { panic("killed") }
	if w := d.post(d.p10cr()); w.Code != http.StatusInternalServerError {
		t.Errorf("HTTP %d", w.Code)
	}
	g.store.onIssue = nil
	if g.store.state() != before {
		t.Error("half a device was left")
	}
	g.restart(t)
	d.enroll()
	if g.store.live() != 1 {
		t.Errorf("%d devices, want 1", g.store.live())
	}
}

func TestReplay(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	one, three := d.genm(), d.p10cr()
	d.ask(one)
	first := d.certificate(d.ask(three))
	before := g.store.state()
	if m := d.ask(one); m.Body.Kind != cmp.GenP {
		t.Errorf("replayed genm: kind %d", m.Body.Kind)
	}
	if again := d.certificate(d.ask(three)); !again.Equal(first) {
		t.Error("a replay yielded another certificate")
	}
	if g.store.state() != before || g.made.issued.Load() != 1 {
		t.Error("a replay changed something")
	}
	g.later(hour)
	refused := d.post(three)
	if m := d.parse(refused); m.Protection != nil || m.Body.Error.Status.Fail != cmp.BadMessageCheck {
		t.Errorf("after an hour: %v", m.Body.Error.Status)
	}
}

func TestOtherKeysGetADuplicate(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.enroll()
	other := g.holder(t, d.code)
	other.refused(other.p10cr(), cmp.DuplicateCertReq, "used with other keys")
	half := g.holder(t, d.code)
	half.tunnel = d.tunnel
	half.refused(half.ir(), cmp.DuplicateCertReq, "used with other keys")
	half = g.holder(t, d.code)
	half.key = d.key
	half.refused(half.p10cr(), cmp.DuplicateCertReq, "used with other keys")
	if !g.log.has("enroll.alarm", "used with other keys") || g.made.issued.Load() != 1 {
		t.Error("no alarm, or something was signed")
	}
}

func TestNoRepeatForWhoMayNotHaveIt(t *testing.T) {
	for kind, fail := range map[quarantine.Kind]cmp.Failure{quarantine.Block: cmp.NotAuthorized, quarantine.Revoke: cmp.CertRevoked} {
		g := newGateway(t)
		d := g.device(t, Request{})
		_, r := d.enroll()
		if _, err := g.store.change(r.ID, quarantine.Change{Kind: kind, By: administrator}); err != nil {
			t.Fatal(err)
		}
		d.refused(d.p10cr(), fail, "the device is")
	}
}

func TestConfirmation(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	m := d.ask(d.p10cr())
	cert := d.certificate(m)
	conf := func(edit func(*cmp.Message)) []byte {
		defer func() { d.edit = nil }()
		d.edit = edit
		return d.certConf(m, cert)
	}
	d.refused(conf(func(m *cmp.Message) { m.Body.Statuses[0].Hash[0] ^= 1 }), cmp.IncorrectData, "hash")
	d.refused(conf(func(m *cmp.Message) { m.Header.TransactionID = make([]byte, 16) }), cmp.BadRequest, "transaction")
	d.refused(conf(func(m *cmp.Message) { m.Body.Statuses = append(m.Body.Statuses, m.Body.Statuses[0]) }), cmp.BadRequest, "one certificate")
	for _, edit := range []func(*cmp.Message){
		func(m *cmp.Message) { m.Body.Statuses = nil },
		func(m *cmp.Message) { m.Body.Statuses[0].Status = &cmp.StatusInfo{Status: cmp.Rejection} },
	} {
		if a := d.ask(conf(edit)); a.Body.Kind != cmp.PKIConf {
			t.Errorf("a refused certificate: kind %d", a.Body.Kind)
		}
	}
	if o, _ := g.store.OTP(t.Context(), d.code.Reference); o.State != Issued || d.record(cert).Confirmed {
		t.Errorf("OTP is %s, want it issued and the device unconfirmed", o.State)
	}
	if !g.log.has("enroll.note", "refuses its certificate") {
		t.Error("the audit log does not tell of the refused certificate")
	}
}

func TestRequestsByOTPThatNeedASignature(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.edit = func(m *cmp.Message) { m.Body.Kind = cmp.KUR }
	d.refused(d.ir(), cmp.WrongIntegrity, "signed")
	if g.made.issued.Load() != 0 {
		t.Error("a certificate was signed")
	}
}

func TestDeviceReportsAnError(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{})
	d.edit = func(m *cmp.Message) {
		m.Body = cmp.Body{Kind: cmp.Error, Error: cmp.ErrorContent{Status: cmp.StatusInfo{Status: cmp.Rejection, Text: []string{"disk\x07 full"}}}}
	}
	if m := d.ask(d.genm()); m.Body.Kind != cmp.PKIConf {
		t.Errorf("kind %d", m.Body.Kind)
	}
	if !g.log.has("enroll.note", "full") || g.log.has("enroll.note", "\x07") {
		t.Errorf("noted as %+v", g.log.all())
	}
}
