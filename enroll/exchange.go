package enroll

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/pki"
	"lazaret/quarantine"
)

// exchange is one message being answered.
type exchange struct {
	desk     *Desk
	ctx      context.Context
	from     netip.Addr
	compare  bool   // this listener compares TLS exporters
	exporter []byte // of this connection; nil if there is none
	now      time.Time

	message *cmp.Message
	by      quarantine.Actor

	// Of a message with a MAC, once it has been verified.
	otp    OTP
	secret []byte
	params cmp.MACParams
	// Of a signed message, once its signature has been verified.
	signer *x509.Certificate
}

// answer is what goes back: a CMP message, or an HTTP status alone.
type answer struct {
	status int
	body   []byte
	slow   bool // to be held back
}

// refusal is a specific error for whoever has shown a valid MAC or signature.
type refusal struct {
	fail  cmp.Failure
	text  string // for the device
	alarm bool   // somebody else may be at work here
}

func (r *refusal) Error() string { return r.text }

func refuse(fail cmp.Failure, format string, args ...any) error {
	return &refusal{fail: fail, text: fmt.Sprintf(format, args...)}
}

const alarmAction = "enroll.alarm" // in the audit log

// stranger is the reason of the uniform refusal, for the audit log alone.
type stranger struct{ why string }

func (s *stranger) Error() string { return s.why }

func (d *Desk) exchange(r *http.Request, l Listener, from netip.Addr) *exchange {
	return &exchange{
		desk: d, ctx: r.Context(), from: from, compare: l.Exporter, exporter: exporter(r, l), now: d.now(),
		by: quarantine.Actor{Kind: "stranger", Address: from.String()},
	}
}

func (e *exchange) answer(body []byte) answer {
	m, err := cmp.Parse(body)
	if err != nil {
		a := e.failed(nil, "not a CMP message: "+err.Error())
		a.status = http.StatusBadRequest
		return a
	}
	e.message = m
	if m.Signed() {
		return e.signed()
	}
	return e.keyed()
}

// keyed answers a message protected by a MAC. Until the MAC is verified, every path
// does the same work: one read, one secret opened, one MAC computed.
func (e *exchange) keyed() answer {
	reference := e.message.Header.SenderKID
	o, why, err := e.find(string(reference))
	if err != nil {
		e.desk.cfg.Log.Error("reading one-time password for enrollment", "error", err)
		return answer{status: http.StatusServiceUnavailable}
	}
	secret := e.open(o, &why)
	defer clear(secret)
	err = e.message.VerifyMAC(secret, cmp.Policy{AllowSHA1: e.desk.cfg.AllowSHA1})
	switch {
	case errors.Is(err, cmp.ErrAlgorithm):
		return e.plain(reference, cmp.BadAlg, "algorithm not allowed: "+err.Error())
	case why != "":
		return e.uniform(reference, why)
	case err != nil:
		return e.uniform(reference, "wrong MAC: "+err.Error())
	}
	e.otp, e.secret = o, secret
	e.by = quarantine.Actor{Kind: "otp", Name: o.Reference, Address: e.from.String()}
	if e.params, err = e.message.MACParams(); err != nil {
		return e.uniform(reference, err.Error())
	}
	return e.reply(e.admitted())
}

// find reads an OTP. why says what makes it unusable; then nothing of it counts.
func (e *exchange) find(reference string) (o OTP, why string, err error) {
	if !isReference(reference) {
		return OTP{}, "not a reference", nil
	}
	o, err = e.desk.cfg.Store.OTP(e.ctx, reference)
	switch {
	case errors.Is(err, ErrNoOTP):
		return OTP{}, "unknown reference", nil
	case err != nil:
		return OTP{}, "", err
	}
	return o, e.desk.unusable(o, e.now), nil
}

// unusable says why a MAC by this OTP counts for nothing, or nothing if it counts: while
// the OTP is pending, and for a while after it was used, whatever its expiry says then.
func (d *Desk) unusable(o OTP, now time.Time) string {
	switch o.State {
	case Pending:
		if now.Before(o.Expires) {
			return ""
		}
		return "expired"
	case Issued, Confirmed:
		if now.Before(o.Answer.Issued.Add(d.cfg.RepeatFor)) {
			return ""
		}
		return "used"
	case Cancelled, Expired:
		return string(o.State)
	}
	return fmt.Sprintf("in the unknown state %q", o.State)
}

// open opens the OTP's secret, or the dummy when the OTP is not to be used.
func (e *exchange) open(o OTP, why *string) []byte {
	if *why != "" {
		return e.desk.openDummy()
	}
	secret, err := e.desk.cfg.Sealer.Open(SecretContext(o), o.Secret)
	if err != nil {
		e.desk.cfg.Log.Error("opening the secret of a one-time password", "reference", o.Reference, "error", err)
		*why = "its secret cannot be opened: " + err.Error()
		return []byte(dummySecret)
	}
	return secret
}

// admitted answers a message whose MAC is valid.
func (e *exchange) admitted() (*cmp.Message, error) {
	if err := e.wellFormed(); err != nil {
		return nil, err
	}
	switch e.message.Body.Kind {
	case cmp.GenM:
		return e.welcome()
	case cmp.P10CR, cmp.IR, cmp.CR:
		return e.enroll()
	case cmp.CertConf:
		return e.confirm()
	case cmp.Error:
		e.note("enroll.note", "the device reports: "+shown(e.message.Body.Error.Status.Error()))
		return e.answerWith(cmp.Body{Kind: cmp.PKIConf}), nil
	case cmp.KUR, cmp.RR:
		return nil, refuse(cmp.WrongIntegrity, "this request must be signed by the device's current key")
	}
	return nil, refuse(cmp.BadRequest, "messages of this kind are not answered here")
}

// wellFormed checks what every message must have, and the channel it came through.
func (e *exchange) wellFormed() error {
	h := e.message.Header
	switch {
	case len(h.TransactionID) < 16 || len(h.TransactionID) > 64:
		return refuse(cmp.BadDataFormat, "the transaction ID must have 16 to 64 bytes")
	case len(h.SenderNonce) < 16 || len(h.SenderNonce) > 64:
		return refuse(cmp.BadSenderNonce, "the nonce must have 16 to 64 bytes")
	}
	if off := e.now.Sub(h.Time); !h.Time.IsZero() && (off > 24*time.Hour || off < -24*time.Hour) {
		e.desk.cfg.Log.Warn("a device's clock is more than a day off", "by", e.by.Name, "device_time", h.Time)
	}
	theirs, there, err := cmp.ReadExporter(h.GeneralInfo)
	if err != nil {
		return refuse(cmp.BadDataFormat, "the TLS exporter cannot be read")
	}
	if there && e.compare && (len(e.exporter) == 0 || subtle.ConstantTimeCompare(theirs, e.exporter) != 1) {
		return &refusal{cmp.BadMessageCheck, "this message was made for another TLS connection: someone is in between", true}
	}
	return nil
}

// answerWith starts the answer to the message.
func (e *exchange) answerWith(b cmp.Body) *cmp.Message {
	return &cmp.Message{Header: e.message.Header.Reply(e.now), Body: b}
}

// reply protects and encodes an answer, or the error that is one.
func (e *exchange) reply(m *cmp.Message, err error) answer {
	slow := false
	if err != nil {
		s, unknown := errors.AsType[*stranger](err)
		if unknown {
			return e.uniform(e.message.Header.SenderKID, s.why)
		}
		r, specific := errors.AsType[*refusal](err)
		switch {
		case !specific:
			e.desk.cfg.Log.Error("answering an enrollment message", "by", e.by.Name, "error", err)
			r = &refusal{fail: cmp.SystemUnavail, text: "the gateway cannot do this now: try again later"}
		case r.alarm:
			slow = e.count()
			e.desk.cfg.Log.Warn("enrollment alarm", "by", e.by.Name, "from", e.from, "why", r.text)
			e.note(alarmAction, r.text)
		default:
			e.note("enroll.refuse", r.text)
		}
		m = cmp.NewError(e.message.Header, e.now, r.fail, r.text)
	}
	if err := e.protect(m); err != nil {
		e.desk.cfg.Log.Error("protecting an enrollment answer", "error", err)
		return answer{status: http.StatusInternalServerError}
	}
	body, err := m.Marshal()
	if err != nil {
		e.desk.cfg.Log.Error("encoding an enrollment answer", "error", err)
		return answer{status: http.StatusInternalServerError}
	}
	return answer{status: http.StatusOK, body: body, slow: slow}
}

// protect answers in kind: a MAC with the algorithms of the request, or the responder's signature.
func (e *exchange) protect(m *cmp.Message) error {
	if e.signer == nil {
		return m.ProtectMAC(e.secret, e.params.Fresh())
	}
	r := e.desk.cfg.Responder()
	certs := append(append([]*x509.Certificate{}, r.Certs...), e.desk.cfg.Issuer.Issuing(pki.Device))
	return m.ProtectSignature(r.Key, certs...)
}

// uniform is the one answer to whoever has not shown a valid MAC.
func (e *exchange) uniform(reference []byte, why string) answer {
	a := e.failed(reference, why)
	a.body = cmp.Refusal(e.message.Header)
	return a
}

// plain is an unprotected error that depends on the message alone, and so tells nothing.
func (e *exchange) plain(reference []byte, fail cmp.Failure, why string) answer {
	a := e.failed(reference, why)
	body, err := cmp.NewError(e.message.Header, e.now, fail, "").Marshal()
	if err != nil {
		return answer{status: http.StatusInternalServerError, slow: a.slow}
	}
	a.body = body
	return a
}

// failed counts a failure and writes its reason to the audit log, and nowhere else.
func (e *exchange) failed(reference []byte, why string) answer {
	l := e.desk.limits
	slow, alert := l.fail(e.now, reference, limited(e.from))
	e.bounded(&l.strangers, Event{By: e.by, Action: "enroll.refuse", OTP: shown(string(reference)), Why: why})
	if alert {
		e.desk.cfg.Log.Warn("enrollment fails again and again", "from", e.from, "reference", shown(string(reference)), "failures", l.AlertAt)
		e.bounded(&l.alerts, Event{By: e.by, Action: alarmAction, OTP: shown(string(reference)),
			Why: fmt.Sprintf("%d failures within %s from this address or for this reference", l.AlertAt, l.Window)})
	}
	return answer{status: http.StatusOK, slow: slow}
}

// count counts a failure whose entry is written apart.
func (e *exchange) count() (slow bool) {
	slow, _ = e.desk.limits.fail(e.now, e.message.Header.SenderKID, limited(e.from))
	return slow
}

// note writes about a sender who has shown a valid MAC or signature.
func (e *exchange) note(action, why string) {
	b := &e.desk.limits.holders
	if action == alarmAction {
		b = &e.desk.limits.alarms
	}
	e.bounded(b, Event{By: e.by, Action: action, OTP: e.otp.Reference, Device: e.otp.Answer.Device, Why: why})
}

// shown makes text from outside fit for a log.
func shown(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '.'
		}
		return r
	}, text), ".")
}

// isReference reports whether text has the form of a reference.
func isReference(text string) bool {
	return len(text) == 8 && !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("0123456789ABCDEFGHJKMNPQRSTVWXYZ", r)
	})
}
