package agentapi

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newKey() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

// authority is a root, an issuing authority below it, and what they sign.
type authority struct {
	root, issuer       *x509.Certificate
	rootKey, issuerKey *ecdsa.PrivateKey
}

func certificate(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	template.SerialNumber, template.NotBefore = big.NewInt(1), now.Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = now.Add(time.Hour)
	}
	template.BasicConstraintsValid = true
	if parent == nil {
		parent = template
	}
	return must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, template, parent, pub, key))))
}

func newAuthority() authority {
	a := authority{rootKey: newKey(), issuerKey: newKey()}
	a.root = certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "Root"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, nil, a.rootKey.Public(), a.rootKey)
	a.issuer = certificate(&x509.Certificate{Subject: pkix.Name{CommonName: "Servers"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign}, a.root, a.issuerKey.Public(), a.rootKey)
	return a
}

// signer makes a management signer's chain; edit changes its certificate.
func (a authority) signer(key crypto.Signer, edit func(*x509.Certificate)) [][]byte {
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "Signer"}, KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{OIDSigner}}
	if edit != nil {
		edit(leaf)
	}
	return [][]byte{certificate(leaf, a.issuer, key.Public(), a.issuerKey).Raw, a.issuer.Raw}
}

// TestSigner: nothing of the organization but a management signer is one, and no other
// organization's is.
func TestSigner(t *testing.T) {
	a, other, key := newAuthority(), newAuthority(), newKey()
	good := a.signer(key, nil)
	s, err := CheckSigner(good, a.root, now)
	if err != nil || !key.PublicKey.Equal(s.Key) || s.ID == [4]byte{} {
		t.Fatalf("the signer: %v", err)
	}
	edited := func(edit func(*x509.Certificate)) [][]byte { return a.signer(key, edit) }
	for name, chain := range map[string][][]byte{
		"none":               nil,
		"another root's":     other.signer(key, nil),
		"without its issuer": good[:1],
		"the issuer first":   {good[1], good[0]},
		"the root":           {a.root.Raw},
		"a long chain":       {good[0], good[1], good[1], good[1]},
		"no certificate":     {[]byte("x")},
		"a large one":        {bytes.Repeat([]byte{0x30}, maxCertificate+1)},
		"a device's": edited(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}),
		"a server's": edited(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}),
		"a server's too": edited(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"any usage":      edited(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }),
		"a CMP responder's": edited(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}
		}),
		"two usages": edited(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = append(c.UnknownExtKeyUsage, asn1.ObjectIdentifier{1, 2, 3})
		}),
		"an authority":         edited(func(c *x509.Certificate) { c.IsCA = true }),
		"for key encipherment": edited(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }),
		"expired":              edited(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }),
	} {
		if _, err := CheckSigner(chain, a.root, now); err == nil {
			t.Errorf("%s: believed", name)
		}
	}
}

func signerOf(key crypto.Signer) Signer { return Signer{Key: key.Public(), ID: [4]byte{1, 2, 3, 4}} }

func wakeup() Wakeup {
	return Wakeup{Device: "d-1", Signer: [4]byte{1, 2, 3, 4}, Time: now, Counter: 7}
}

// TestWakeups: what is refused, and what is not; both kinds of keys.
func TestWakeups(t *testing.T) {
	ed := must2(ed25519.GenerateKey(rand.Reader))
	for _, key := range []crypto.Signer{newKey(), ed} {
		text := must(wakeup().Sign(key))
		if len(text) > MaxWake || strings.ContainsAny(text, "+/=") {
			t.Errorf("%d bytes: %s", len(text), text)
		}
		w, err := ParseWakeup(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name   string
			signer Signer
			device string
			last   uint64
			now    time.Time
			ok     bool
		}{
			{"as it is", signerOf(key), "d-1", 6, now, true},
			{"at the window's end", signerOf(key), "d-1", 0, now.Add(WakeWindow), true},
			{"at its beginning", signerOf(key), "d-1", 0, now.Add(-WakeWindow), true},
			{"late", signerOf(key), "d-1", 0, now.Add(WakeWindow + time.Second), false},
			{"from the future", signerOf(key), "d-1", 0, now.Add(-WakeWindow - time.Second), false},
			{"again", signerOf(key), "d-1", 7, now, false},
			{"after a later one", signerOf(key), "d-1", 8, now, false},
			{"another device's", signerOf(key), "d-2", 0, now, false},
			{"another signer's", signerOf(newKey()), "d-1", 0, now, false},
			{"another name", Signer{key.Public(), [4]byte{1}}, "d-1", 0, now, false},
			{"no signer", Signer{}, "d-1", 0, now, false},
		} {
			if err := w.Verify(c.signer, c.device, c.last, c.now); (err == nil) != c.ok {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
	long := wakeup()
	long.Device = strings.Repeat("d", maxDevice)
	if text, err := long.Sign(newKey()); err != nil || len(text) > MaxWake {
		t.Errorf("the longest name gives %d bytes, %v", len(text), err)
	}
	long.Device += "d"
	if _, err := long.Sign(newKey()); err == nil {
		t.Error("a longer one was taken")
	}
}

func must2(_ ed25519.PublicKey, k ed25519.PrivateKey, err error) ed25519.PrivateKey {
	return must(k, err)
}

// TestForgedWakeups: 10,000 wake-ups that differ from a good one somewhere, or are of
// another key, device, time or counter: none is accepted.
func TestForgedWakeups(t *testing.T) {
	key, foreign := newKey(), newKey()
	r := mathrand.New(mathrand.NewPCG(1, 2))
	good := must(base64.RawURLEncoding.DecodeString(must(wakeup().Sign(key))))
	accepted := func(text string) bool {
		w, err := ParseWakeup(text)
		return err == nil && w.Verify(signerOf(key), "d-1", 6, now) == nil
	}
	if !accepted(base64.RawURLEncoding.EncodeToString(good)) {
		t.Fatal("the good one is refused")
	}
	for i := range 10000 {
		w := wakeup()
		var text string
		switch i % 5 {
		case 0: // one bit
			b := bytes.Clone(good)
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			text = base64.RawURLEncoding.EncodeToString(b)
		case 1: // another length
			b := append(bytes.Clone(good), good[:r.IntN(20)+1]...)
			if r.IntN(2) == 0 {
				b = good[:r.IntN(len(good))]
			}
			text = base64.RawURLEncoding.EncodeToString(b)
		case 2: // another text
			c := []byte(base64.RawURLEncoding.EncodeToString(good))
			at, to := r.IntN(len(c)), byte(r.IntN(256))
			if c[at] == to {
				to ^= 1
			}
			c[at] = to
			text = string(c)
		case 3:
			w.Counter, w.Time = r.Uint64(), now.Add(time.Duration(r.Int64N(int64(WakeWindow))))
			text = must(w.Sign(foreign))
		case 4: // replayed: signed well, and old
			w.Counter = uint64(r.IntN(7))
			if r.IntN(2) == 0 {
				w.Counter, w.Time = 8, now.Add(-WakeWindow-time.Duration(1+r.IntN(1e6))*time.Second)
			}
			text = must(w.Sign(key))
		}
		if accepted(text) {
			t.Fatalf("number %d was accepted: %s", i, text)
		}
	}
}

var session = bytes.Repeat([]byte{5}, sessionLength)

func command() Command {
	return Command{Version: 1, ID: "c-1", Device: "d-1", Session: session, Sequence: 3, Kind: Notify, Issued: now, Expires: now.Add(time.Hour), Args: map[string]string{"text": "hello"}}
}

func result() Result {
	return Result{Version: 1, Command: "c-1", Device: "d-1", Session: session, Sequence: 3, Kind: Notify, State: Done, At: now}
}

// TestSignedMessages: a command is the gateway's for one device in one session, a result
// the device's, and neither passes as the other, whoever signed it.
func TestSignedMessages(t *testing.T) {
	gateway, device := newKey(), newKey()
	signer := signerOf(gateway)
	c, err := OpenCommand(must(command().Sign(gateway)), signer, "d-1", session)
	if err != nil || c.Args["text"] != "hello" || !c.Expires.Equal(now.Add(time.Hour)) {
		t.Errorf("%+v, %v", c, err)
	}
	if r, err := OpenResult(must(result().Sign(device)), device.Public(), "d-1", session); err != nil || r.State != Done {
		t.Errorf("%+v, %v", r, err)
	}
	for name, edit := range map[string]func(*Command){
		"another device": func(c *Command) { c.Device = "d-2" }, "another session": func(c *Command) { c.Session = bytes.Repeat([]byte{6}, sessionLength) },
		"no id": func(c *Command) { c.ID = "" }, "a long id": func(c *Command) { c.ID = strings.Repeat("c", 65) }, "no number": func(c *Command) { c.Sequence = 0 },
		"a number too high": func(c *Command) { c.Sequence = MaxSequence + 1 }, "another version": func(c *Command) { c.Version = 2 },
		"large": func(c *Command) { c.Args["text"] = strings.Repeat("x", MaxSigned) },
	} {
		c := command()
		edit(&c)
		if _, err := OpenCommand(must(c.Sign(gateway)), signer, "d-1", session); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := OpenCommand(must(command().Sign(device)), signer, "d-1", session); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by the device: %v", err)
	}
	if _, err := OpenResult(must(result().Sign(gateway)), device.Public(), "d-1", session); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by the gateway: %v", err)
	}
	if _, err := OpenResult(must(signJSON(device, domainCommand, result())), device.Public(), "d-1", session); !errors.Is(err, ErrSignature) {
		t.Errorf("signed as something else: %v", err)
	}
	for name, edit := range map[string]func(*Result){
		"another device": func(r *Result) { r.Device = "d-2" }, "another session": func(r *Result) { r.Session = nil },
		"no such state": func(r *Result) { r.State = "splendid" }, "no state": func(r *Result) { r.State = "" }, "of no command": func(r *Result) { r.Command = "" },
		"no number": func(r *Result) { r.Sequence = 0 }, "a number too high": func(r *Result) { r.Sequence = MaxSequence + 1 },
		"long": func(r *Result) { r.Detail = strings.Repeat("x", MaxText+1) },
	} {
		r := result()
		edit(&r)
		if _, err := OpenResult(must(r.Sign(device)), device.Public(), "d-1", session); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	for name, payload := range map[string]string{"twice": `{"v":1}{"v":1}`, "unknown field": `{"v":1,"command":"c-1","device":"d-1","sequel":1}`, "no JSON": "x", "nothing": ""} {
		s := Signed{[]byte(payload), must(sign(device, domainResult, []byte(payload)))}
		if _, err := OpenResult(s, device.Public(), "d-1", session); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestForgedCommands: 10,000 signed messages with something changed.
func TestForgedCommands(t *testing.T) {
	key := newKey()
	r := mathrand.New(mathrand.NewPCG(3, 4))
	good := must(command().Sign(key))
	for i := range 10000 {
		s := Signed{bytes.Clone(good.Payload), bytes.Clone(good.Signature)}
		b := &s.Payload
		if i%2 == 0 {
			b = &s.Signature
		}
		switch at := r.IntN(len(*b)); i % 3 {
		case 0:
			(*b)[at] ^= 1 << r.IntN(8)
		case 1:
			*b = (*b)[:at]
		default:
			*b = append(*b, byte(r.IntN(256)))
		}
		if _, err := OpenCommand(s, signerOf(key), "d-1", session); err == nil {
			t.Fatalf("number %d was taken: %s", i, s.Payload)
		}
	}
}

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		kind string
		args map[string]string
		ok   bool
	}{
		{Lock, nil, true}, {Lock, map[string]string{"text": "x"}, false}, {Notify, nil, false}, {Notify, map[string]string{"text": "Grüße\nund mehr"}, true},
		{Notify, map[string]string{"text": "\x1b[2J"}, false}, {Notify, map[string]string{"text": "a\rb"}, false}, {Notify, map[string]string{"text": "\xff"}, false},
		{Notify, map[string]string{"text": "a\u202eb"}, false}, {Notify, map[string]string{"text": strings.Repeat("x", MaxText+1)}, false}, {Notify, map[string]string{"text": "x", "y": "z"}, false},
	} {
		if err := CheckArgs(c.kind, c.args); (err == nil) != c.ok {
			t.Errorf("%s %q: %v", c.kind, c.args, err)
		}
	}
}

// handshake is both halves of a session's beginning.
func handshake() (h Hello, w Welcome, binding []byte) {
	h = Hello{Version: 1, Device: "d-1", Sequence: 9, Nonce: bytes.Repeat([]byte{1}, nonceLength)}
	w = Welcome{Version: 1, Session: session, Nonce: bytes.Repeat([]byte{2}, nonceLength), Sequence: 9, Executed: 4}
	return h, w, bytes.Repeat([]byte{3}, BindingLength)
}

// TestHandshake: each thing that both sign counts.
func TestHandshake(t *testing.T) {
	gateway, device := newKey(), newKey()
	h, w, binding := handshake()
	if err := w.Sign(gateway, binding, h); err != nil {
		t.Fatal(err)
	}
	proof := must(w.Prove(device, binding, h, 4))
	if err := errors.Join(h.Check(), w.Verify(signerOf(gateway), binding, h), w.CheckProof(device.Public(), proof, binding, h, 4)); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(h *Hello, w *Welcome, binding []byte){
		"another connection":      func(_ *Hello, _ *Welcome, b []byte) { b[0]++ },
		"another device":          func(h *Hello, _ *Welcome, _ []byte) { h.Device = "d-2" },
		"another number":          func(h *Hello, w *Welcome, _ []byte) { h.Sequence, w.Sequence = 10, 10 },
		"another nonce of theirs": func(h *Hello, _ *Welcome, _ []byte) { h.Nonce = bytes.Repeat([]byte{9}, nonceLength) },
		"another nonce of ours":   func(_ *Hello, w *Welcome, _ []byte) { w.Nonce = bytes.Repeat([]byte{9}, nonceLength) },
		"another session":         func(_ *Hello, w *Welcome, _ []byte) { w.Session = bytes.Repeat([]byte{9}, sessionLength) },
		"other commands":          func(_ *Hello, w *Welcome, _ []byte) { w.Executed = 5 },
		"a resync":                func(_ *Hello, w *Welcome, _ []byte) { w.Resync = true },
	} {
		h, w, binding := handshake()
		w.Signature = nil
		if err := w.Sign(gateway, binding, h); err != nil {
			t.Fatal(err)
		}
		edit(&h, &w, binding)
		if w.Verify(signerOf(gateway), binding, h) == nil {
			t.Errorf("%s: the device believes the gateway", name)
		}
		if name != "a resync" && w.CheckProof(device.Public(), proof, binding, h, 4) == nil {
			t.Errorf("%s: the gateway believes the device", name)
		}
	}
	if w.CheckProof(device.Public(), proof, binding, h, 5) == nil || w.CheckProof(gateway.Public(), proof, binding, h, 4) == nil ||
		w.CheckProof(device.Public(), w.Signature, binding, h, 4) == nil || w.CheckProof(device.Public(), proof, nil, h, 4) == nil {
		t.Error("a proof of something else is believed")
	}
}

func TestFormOfMessages(t *testing.T) {
	for name, edit := range map[string]func(*Hello){
		"no nonce": func(h *Hello) { h.Nonce = nil }, "a short nonce": func(h *Hello) { h.Nonce = h.Nonce[1:] }, "no number": func(h *Hello) { h.Sequence = 0 },
		"a high number": func(h *Hello) { h.Sequence = MaxSequence + 1 }, "no device": func(h *Hello) { h.Device = "" }, "another version": func(h *Hello) { h.Version = 2 },
	} {
		h, _, _ := handshake()
		edit(&h)
		if h.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	good := Exchange{Session: session, Number: 1}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*Exchange){
		"no session": func(x *Exchange) { x.Session = nil }, "no number": func(x *Exchange) { x.Number = 0 }, "many": func(x *Exchange) { x.Results = make([]Signed, MaxTogether+1) },
		"large": func(x *Exchange) { x.Results = []Signed{{Payload: make([]byte, MaxSigned+1)}} }, "a large proof": func(x *Exchange) { x.Proof = make([]byte, 257) },
	} {
		x := good
		edit(&x)
		if x.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if (Orders{Number: 2}).Check(1) == nil || (Orders{Number: 1}).Check(1) != nil {
		t.Error("orders are not held to their number")
	}
}
