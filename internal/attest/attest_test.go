package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// refused fails t unless the gateway refused and said why.
func refused(t *testing.T, ok bool, note, why string) {
	t.Helper()
	if ok || !strings.Contains(note, why) {
		t.Errorf("taken: %t, %q; want a refusal that says %q", ok, note, why)
	}
}

// TestAttest: a TPM is bound at its first quote, and known again afterwards, over power
// cycles; another device's id gets another AK on the same TPM.
func TestAttest(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok || !strings.Contains(note, "was bound") || !strings.Contains(note, "nobody vouches") {
		t.Fatal(note)
	}
	for range 3 {
		if ok, note := attested(t, g, tpm.Device, "d1"); !ok || !strings.Contains(note, "vouches for this report") {
			t.Fatal(note)
		}
	}
	if g.saves != 1 {
		t.Errorf("four reports cost %d writes, want 1", g.saves)
	}
	tpm = tpm.powerCycle(t)
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal("after a power cycle: ", note)
	}
	if s := g.states["d1"]; s.Clock.Resets == 0 || g.saves != 2 {
		t.Errorf("the power cycle was not written down: %+v, %d writes", s.Clock, g.saves)
	}
	if ok, note := attested(t, g, tpm.Device, "d2"); !ok || !strings.Contains(note, "was bound") {
		t.Fatal(note)
	}
	if bytes.Equal(g.states["d1"].AK, g.states["d2"].AK) || !bytes.Equal(g.states["d1"].EK, g.states["d2"].EK) {
		t.Error("two devices' ids on one TPM: want one EK and two AKs")
	}
}

// TestOff: without trust nothing is asked of the TPM, and nothing is believed.
func TestOff(t *testing.T) {
	g, tpm := newGateway(Trust{}), powerOn(t, t.TempDir())
	if _, err := ask(t, g, tpm.Device, "d1"); !errors.Is(err, ErrOff) {
		t.Errorf("got %v", err)
	}
	knock := func() error {
		text, err := g.Challenge(t.Context(), "d1", Knock, channel)
		must(t, err)
		_, err = ParseChallenge(text)
		return err
	}
	if err := knock(); !errors.Is(err, ErrOff) {
		t.Errorf("a knock: %v", err)
	}
	g.trust.FirstUse = true
	if err := knock(); !errors.Is(err, ErrEndorse) || len(g.pending) != 0 {
		t.Errorf("a knock: %v, %d pending", err, len(g.pending))
	}
	e := answer(t, g, tpm.Device, "d1", nil)
	g.trust.FirstUse = false
	ok, note := judged(g.Check(t.Context(), "d1", e, nil))
	refused(t, ok, note, "no TPM is trusted")
	if len(g.states) != 0 {
		t.Error("something was bound")
	}
}

// TestReplay: a nonce is good once, for two minutes, for one device, one channel and one
// report.
func TestReplay(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	facts := map[string]string{"disk.encrypted": "false", "os.name": "debian"}
	e := answer(t, g, tpm.Device, "d1", facts)
	if ok, note := judged(g.Check(t.Context(), "d1", e, facts)); !ok {
		t.Fatal(note)
	}
	ok, note := judged(g.Check(t.Context(), "d1", e, facts))
	refused(t, ok, note, "no challenge is open")

	_, err := ask(t, g, tpm.Device, "d1") // an old quote for a new nonce
	must(t, err)
	ok, note = judged(g.Check(t.Context(), "d1", e, facts))
	refused(t, ok, note, "not for this nonce")

	for name, other := range map[string]map[string]string{
		"better facts": {"disk.encrypted": "true", "os.name": "debian"}, "fewer": {"os.name": "debian"}, "more": {"disk.encrypted": "false", "os.name": "debian", "x": ""},
		"moved border": {"disk.encrypte": "dfalse", "os.name": "debian"},
	} {
		ok, note = judged(g.Check(t.Context(), "d1", answer(t, g, tpm.Device, "d1", facts), other))
		if refused(t, ok, note, "not for this nonce"); t.Failed() {
			t.Fatal(name)
		}
	}
	q, err := ask(t, g, tpm.Device, "d1") // through somebody between device and gateway
	must(t, err)
	e, err = tpm.Answer(t.Context(), "d1", q, bytes.Repeat([]byte{8}, 32), facts)
	must(t, err)
	ok, note = judged(g.Check(t.Context(), "d1", e, facts))
	refused(t, ok, note, "not for this nonce, channel")

	e = answer(t, g, tpm.Device, "d1", facts)
	ok, note = judged(g.Check(t.Context(), "d2", e, facts))
	refused(t, ok, note, "no challenge is open")
	g.now = g.now.Add(challengeLife + time.Second)
	ok, note = judged(g.Check(t.Context(), "d1", e, facts))
	refused(t, ok, note, "too late")
}

// TestOtherTPM: a device keeps its TPM. Another one's quotes, keys and credentials help
// nobody.
func TestOtherTPM(t *testing.T) {
	g, mine, other := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir()), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, mine.Device, "d1"); !ok {
		t.Fatal(note)
	}
	if _, err := ask(t, g, other.Device, "d1"); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "another TPM") {
		t.Errorf("another TPM was offered: %v", err)
	}
	// The other TPM quotes for the nonce that mine asked for.
	q, err := ask(t, g, mine.Device, "d1")
	must(t, err)
	e, err := other.Answer(t.Context(), "d1", q, channel, nil)
	must(t, err)
	ok, note := judged(g.Check(t.Context(), "d1", e, nil))
	refused(t, ok, note, "not signed by the device's attestation key")

	// Mine's EK with the other's AK: no TPM has both, and neither opens the credential.
	for name, asked := range map[string]*chipset{"EK's TPM": mine, "AK's TPM": other} {
		var h, k Hello
		text, err := mine.Hello(t.Context(), "d3", true)
		must(t, err)
		must(t, json.Unmarshal(text, &h))
		text, err = other.Hello(t.Context(), "d3", true)
		must(t, err)
		must(t, json.Unmarshal(text, &k))
		h.AK = k.AK
		text, err = json.Marshal(h)
		must(t, err)
		text, err = g.Challenge(t.Context(), "d3", text, channel)
		must(t, err)
		q, err := ParseChallenge(text)
		must(t, err)
		if _, err := asked.Answer(t.Context(), "d3", q, channel, nil); err == nil {
			t.Errorf("%s opened the credential", name)
		}
		// A quote without the credential's secret, or with a guess, binds nothing.
		for _, guess := range [][]byte{nil, make([]byte, secretSize)} {
			_, err = g.Challenge(t.Context(), "d3", must2(json.Marshal(h))(t), channel)
			must(t, err)
			v := g.pending["d3"]
			e, err := other.Answer(t.Context(), "d3", Question{Challenge{Version: 1, Nonce: v.nonce}}, channel, nil)
			must(t, err)
			var x Evidence
			must(t, json.Unmarshal(e, &x))
			x.Opened = guess
			ok, note := judged(g.Check(t.Context(), "d3", must2(json.Marshal(x))(t), nil))
			refused(t, ok, note, "not in the TPM that the endorsement key is in")
		}
	}
	if len(g.states) != 1 {
		t.Errorf("%d devices are bound, want 1", len(g.states))
	}
}

func must2[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// TestPCR: a changed PCR ends attestation until an administrator accepts exactly it.
func TestPCR(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	tpm.extend(t, 10) // is not looked at
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	tpm.extend(t, 4)
	for range 2 {
		ok, note := attested(t, g, tpm.Device, "d1")
		refused(t, ok, note, "PCR 4 is not as it was")
	}
	if g.saves != 2 {
		t.Errorf("%d writes, want one for the binding and one for the change", g.saves)
	}
	s := g.states["d1"]
	must(t, s.Accept())
	if s.Accept() == nil {
		t.Error("accepted twice")
	}
	g.states["d1"] = s
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal("after it was accepted: ", note)
	}
	tpm.extend(t, 7)
	ok, note := attested(t, g, tpm.Device, "d1")
	refused(t, ok, note, "PCR 7 is not as it was")
	tpm = tpm.powerCycle(t) // all as at the first boot, which is not what was accepted
	ok, note = attested(t, g, tpm.Device, "d1")
	refused(t, ok, note, "PCR 4 is not as it was")
}

// TestClockBack: a cleared TPM counts from the beginning again.
func TestClockBack(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	tpm = tpm.powerCycle(t)
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	must(t, tpm.talk(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(c)
		return err
	}))
	ok, note := attested(t, g, tpm.Device, "d1")
	refused(t, ok, note, "clock went back")
	for _, c := range []struct {
		last, now Clock
		want      bool
	}{
		{Clock{100, 2, 0}, Clock{100, 2, 0}, true}, {Clock{100, 2, 0}, Clock{99, 2, 0}, false}, {Clock{100, 2, 0}, Clock{5, 3, 0}, true},
		{Clock{100, 2, 0}, Clock{500, 1, 9}, false}, {Clock{100, 2, 1}, Clock{500, 2, 0}, false}, {Clock{100, 2, 1}, Clock{90, 2, 2}, true},
	} {
		if got := c.now.follows(c.last); got != c.want {
			t.Errorf("%v after %v: %t", c.now, c.last, got)
		}
	}
}

// TestForged: whatever a TPM did not say is refused, byte by byte.
func TestForged(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	q, err := ask(t, g, tpm.Device, "d1")
	must(t, err)
	text, err := tpm.Answer(t.Context(), "d1", q, channel, nil)
	must(t, err)
	var e Evidence
	must(t, json.Unmarshal(text, &e))
	key, err := parseAK(g.states["d1"].AK)
	must(t, err)
	extra := qualifying(q.challenge.Nonce, channel, "d1", nil)
	if _, err := key.verify(e, extra); err != nil {
		t.Fatal(err)
	}
	for i := range e.Quote {
		e.Quote[i] ^= 1
		if _, err := key.verify(e, extra); err == nil {
			t.Errorf("byte %d of the quote may change", i)
		}
		e.Quote[i] ^= 1
	}
	for i := range e.Signature {
		e.Signature[i] ^= 1
		if _, err := key.verify(e, extra); err == nil {
			t.Errorf("byte %d of the signature may change", i)
		}
		e.Signature[i] ^= 1
	}
	for i := range e.PCRs {
		e.PCRs[i][31] ^= 1
		if _, err := key.verify(e, extra); err == nil {
			t.Errorf("PCR %d may change", pcrs[i])
		}
		e.PCRs[i][31] ^= 1
	}
	// A signature of the right key over what no TPM wrote cannot be had; with a key of our
	// own, the rest of the checks must hold by themselves.
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	forger := ak{key: &own.PublicKey, name: key.name}
	forge := func(at int, b ...byte) error {
		f := e
		f.Quote = bytes.Clone(e.Quote)
		copy(f.Quote[at:], b)
		f.Signature = signWith(t, own, f.Quote)
		_, err := forger.verify(f, extra)
		return err
	}
	if err := forge(0); err != nil {
		t.Fatal("the forger's own signature: ", err)
	}
	signer := 6 + 2 + 34 // where extra data begins, behind magic, type and signer
	count := signer + 2 + 32 + 17 + 8
	for name, err := range map[string]error{
		"magic": forge(0, 0), "type": forge(4, 0x80, 0x17), "signer": forge(10, ^e.Quote[10]), "extra data": forge(signer+2, ^e.Quote[signer+2]),
		"bank": forge(count+4, 0, 4), "other PCRs": forge(count+7, 0x90), "more PCRs": forge(count+8, 1), "no PCRs": forge(count+7, 0), "two banks": forge(count+3, 2), "digest": forge(len(e.Quote)-1, ^e.Quote[len(e.Quote)-1]),
	} {
		if err == nil {
			t.Errorf("%s may be another", name)
		}
	}
}

func signWith(t *testing.T, key *ecdsa.PrivateKey, quote []byte) []byte {
	t.Helper()
	sum := sha(quote)
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	must(t, err)
	return append(padded(r.Bytes()), padded(s.Bytes())...)
}

// TestHello: keys of another kind than the two templates are refused: an AK that may sign
// anything, or leave its TPM, proves nothing.
func TestHello(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	weak := akFor("d1")
	weak.ObjectAttributes.Restricted = false
	movable := akFor("d1")
	movable.ObjectAttributes.FixedTPM, movable.ObjectAttributes.FixedParent = false, false
	for name, template := range map[string]tpm2.TPMTPublic{"unrestricted": weak, "movable": movable, "an EK": tpm2.ECCEKTemplate} {
		template.Unique = akFor("d1").Unique
		public := tpm2.Marshal(template)
		must(t, tpm.talk(t.Context(), func(c transport.TPM) error {
			if made, err := publicOf(c, template); err == nil { // "movable" cannot be made as a primary
				public = made
			}
			return nil
		}))
		if _, err := parseAK(public); err == nil {
			t.Errorf("%s: taken for an attestation key", name)
		}
		text := must2(json.Marshal(Hello{Version: 1, AK: public}))(t)
		if _, err := g.Challenge(t.Context(), "d1", text, channel); !errors.Is(err, ErrHello) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{}", "[]", `{"v":2,"ak":""}`, `{"v":1,"ak":"AAAA"}`, strings.Repeat(" ", maxMessage+1)} {
		if _, err := g.Challenge(t.Context(), "d1", json.RawMessage(text), channel); !errors.Is(err, ErrHello) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	hello, err := tpm.Hello(t.Context(), "d1", true)
	must(t, err)
	var h Hello
	must(t, json.Unmarshal(hello, &h))
	h.EK = h.AK
	text, err := g.Challenge(t.Context(), "d1", must2(json.Marshal(h))(t), channel)
	must(t, err)
	if _, err := ParseChallenge(text); !errors.Is(err, ErrOff) {
		t.Errorf("an AK as an EK: %v", err)
	}
}

// TestMeanwhile: what an administrator changes between challenge and answer holds.
func TestMeanwhile(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	e := answer(t, g, tpm.Device, "d1", nil)
	kept := g.states["d1"]
	delete(g.states, "d1")
	ok, note := judged(g.Check(t.Context(), "d1", e, nil))
	refused(t, ok, note, "never attested")
	g.states["d1"] = kept
	e = answer(t, g, tpm.Device, "d1", nil)
	bound := kept
	bound.AK = []byte("of another TPM")
	g.states["d1"] = bound
	ok, note = judged(g.Check(t.Context(), "d1", e, nil))
	refused(t, ok, note, "changed meanwhile")

	e = answer(t, g, tpm.Device, "d2", nil) // to be bound, and another one is meanwhile
	bound.EK = []byte("of another TPM")
	g.states["d2"] = bound
	ok, note = judged(g.Check(t.Context(), "d2", e, nil))
	refused(t, ok, note, "another TPM")
}

// TestQualifying: the TPM signs for one device, and no two inputs look the same.
func TestQualifying(t *testing.T) {
	seen := map[string]bool{}
	for _, in := range [][3]string{{"n", "c", "d"}, {"n", "c", "e"}, {"n", "cd", ""}, {"nc", "", "d"}, {"", "nc", "d"}} {
		seen[string(qualifying([]byte(in[0]), []byte(in[1]), in[2], nil))] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d digests of 5 inputs", len(seen))
	}
}

// TestEK: an RSA modulus that is none is refused.
func TestEK(t *testing.T) {
	modulus := must2(rsa.GenerateKey(rand.Reader, 2048))(t).N.Bytes()
	public := func(n []byte) []byte {
		k := tpm2.RSAEKTemplate
		k.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n})
		return tpm2.Marshal(k)
	}
	if _, _, err := parseEK(public(modulus)); err != nil {
		t.Error(err)
	}
	even, small := bytes.Clone(modulus), bytes.Clone(modulus)
	even[255] &^= 1
	small[0] = 0
	for _, n := range [][]byte{even, small, modulus[1:], append(bytes.Clone(modulus), 1), nil} {
		if _, _, err := parseEK(public(n)); err == nil {
			t.Errorf("a modulus of %d bytes was taken", len(n))
		}
	}
}

// TestMakers: with trusted makers a TPM needs a certificate of one of them, for its own key.
func TestMakers(t *testing.T) {
	maker, stranger := newFactory(t, "Maker"), newFactory(t, "Stranger")
	for _, c := range []struct {
		name     string
		template tpm2.TPMTPublic
		index    tpm2.TPMHandle
	}{{"P-256", tpm2.ECCEKTemplate, eccCertificate}, {"RSA", tpm2.RSAEKTemplate, rsaCertificate}} {
		t.Run(c.name, func(t *testing.T) {
			tpm := powerOn(t, t.TempDir())
			g := newGateway(Trust{FirstUse: true, Makers: []string{maker.pem()}})
			if _, err := ask(t, g, tpm.Device, "d1"); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "no certificate") {
				t.Errorf("a TPM without certificate: %v", err)
			}
			tpm.install(t, c.index, maker.certify(t, tpm.ekOf(t, c.template), nil))
			if ok, note := attested(t, g, tpm.Device, "d1"); !ok || !strings.Contains(note, "its maker is trusted") {
				t.Fatal(note)
			}
			g.trust.Makers = []string{stranger.pem()} // the maker lost our trust
			ok, note := attested(t, g, tpm.Device, "d1")
			refused(t, ok, note, "no trusted maker vouches")
		})
	}
}

func TestEndorsed(t *testing.T) {
	maker, stranger := newFactory(t, "Maker"), newFactory(t, "Stranger")
	key := must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t).Public()
	other := must2(rsa.GenerateKey(rand.Reader, 2048))(t).Public()
	trust := Trust{Makers: []string{maker.pem()}}
	for name, c := range map[string]struct {
		cert []byte
		ok   bool
	}{
		"good":             {maker.certify(t, key, nil), true},
		"none":             {nil, false},
		"of another key":   {maker.certify(t, other, nil), false},
		"of another maker": {stranger.certify(t, key, nil), false},
		"for something else": {maker.certify(t, key, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = nil
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), false},
		"no use named":        {maker.certify(t, key, func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), true},
		"a CA's":              {maker.certify(t, key, func(c *x509.Certificate) { c.IsCA = true }), false},
		"run out":             {maker.certify(t, key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false},
		"a critical unknown":  {maker.certify(t, key, func(c *x509.Certificate) { c.ExtraExtensions[0].Id = asn1.ObjectIdentifier{1, 2, 3} }), false},
		"garbage":             {[]byte("garbage"), false},
		"more than is needed": {bytes.Repeat([]byte{0x30}, maxCertificate+1), false},
	} {
		if err := trust.endorsed(key, c.cert, time.Now()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []string{"", "x", maker.pem() + maker.pem(), strings.ReplaceAll(maker.pem(), "CERTIFICATE", "PRIVATE KEY")} {
		if (Trust{Makers: []string{bad}}).Check() == nil {
			t.Errorf("%.30q was taken for a maker", bad)
		}
	}
}

// TestManyPending: challenges that nobody answers do not pile up.
func TestManyPending(t *testing.T) {
	g := newGateway(Trust{FirstUse: true})
	for i := range maxPending {
		must(t, g.wait(string(rune('a'+i%26))+strings.Repeat("x", i/26), pending{until: g.now.Add(time.Minute)}))
	}
	if g.wait("one more", pending{}) == nil {
		t.Error("took one more")
	}
	must(t, g.wait("a", pending{until: g.now.Add(time.Minute)})) // in place of its own
	g.now = g.now.Add(2 * time.Minute)
	must(t, g.wait("one more", pending{until: g.now.Add(time.Minute)}))
	if len(g.pending) != 1 {
		t.Errorf("%d are left", len(g.pending))
	}
}

// TestHangingTPM: a TPM that does not answer costs the caller's time and nothing else.
func TestHangingTPM(t *testing.T) {
	release := make(chan struct{})
	d := newDevice(func() (transport.TPMCloser, error) {
		<-release
		return nil, errors.New("gone")
	})
	ctx, cancel := contextEnding(t)
	cancel()
	for range 2 {
		if _, err := d.Hello(ctx, "d1", false); err == nil {
			t.Fatal("it answered")
		}
	}
	close(release)
	if _, err := d.Hello(t.Context(), "d1", false); !errors.Is(err, ErrNoTPM) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestFactsDigest(t *testing.T) {
	seen := map[[32]byte]map[string]string{}
	for _, f := range []map[string]string{nil, {"": ""}, {"a": ""}, {"": "a"}, {"a": "b"}, {"ab": ""}, {"a": "", "b": ""}, {"a": "b", "b": "a"}} {
		sum := factsDigest(f)
		if other, again := seen[sum]; again && !maps.Equal(other, f) {
			t.Errorf("%v and %v have one digest", f, other)
		}
		seen[sum] = f
	}
}
