package servercert

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/internal/testneed"
)

// TestEveryFaultIsTold tries one fault after the other; what is shown does not change, and
// nothing is written down.
func TestEveryFaultIsTold(t *testing.T) {
	l := newLab(t)
	l.bring(t, name)
	shown := l.shown.Load()
	kept := bytes.Clone(l.store.kept[blobShown])
	key := newKey(t)
	ok := l.leaf(t, key.Public(), server(name))
	with := func(change func(c *x509.Certificate)) *x509.Certificate {
		c := server(name)
		change(c)
		return l.leaf(t, key.Public(), c)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	odd := *small // a key of 1024 bits cannot be made any more: one with a small exponent
	odd.E = 3
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	other := newHouse(t)
	k := keyText(t, key)
	old, early := l.leaf(t, key.Public(), server(name)), 48*time.Hour
	for what, c := range map[string]struct {
		chain, key []byte
		names      []string // to show it for
		want       string
	}{
		"nothing":            {nil, nil, nil, "not PEM"},
		"DER":                {ok.Raw, k, nil, "openssl x509 -inform DER"},
		"no certificate":     {k, nil, nil, "no certificate is in the file"},
		"cut off":            {text(ok, l.issuer)[:700], k, nil, "certificate"},
		"not a certificate":  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), k, nil, "certificate 1 of the file cannot be read"},
		"too large":          {append(text(ok), make([]byte, MaxText)...), k, nil, "more than 64 KiB"},
		"too many":           {text(slices.Repeat([]*x509.Certificate{ok}, 11)...), k, nil, "more than 10 certificates"},
		"a request":          {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("x")}), k, nil, `a block "CERTIFICATE REQUEST"`},
		"two keys":           {append(text(ok, l.issuer), k...), k, nil, "2 private keys"},
		"an encrypted key":   {text(ok, l.issuer), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), nil, "the private key is encrypted"},
		"no key":             {text(ok, l.issuer), []byte("x"), nil, "no private key is in the file of the key"},
		"a broken key":       {text(ok, l.issuer), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret words")}), nil, "the private key cannot be read"},
		"a huge key":         {text(ok, l.issuer), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: make([]byte, maxKey+1)}), nil, "the private key cannot be read"},
		"another key":        {text(ok, l.issuer), keyText(t, newKey(t)), nil, "is not that of the certificate"},
		"no key of ours":     {text(ok, l.issuer), nil, nil, "the gateway has no key"},
		"the issuer first":   {text(l.issuer, ok), k, nil, `put the certificate first, then its issuer, then that one's, and nothing else: "gw.example.test", "House Issuer", then "House Root"`},
		"an authority's":     {text(l.issuer, l.root), keyText(t, l.issuerKey), nil, "is an authority's"},
		"without its issuer": {text(ok), k, nil, `whose issuer "House Issuer" is no public authority`},
		"a foreign issuer":   {text(ok, other.issuer), k, nil, "is not signed by certificate 2"},
		"twice":              {text(ok, ok, l.issuer), k, nil, "is not signed by certificate 2"},
		"an unknown root":    {text(other.leaf(t, key.Public(), server(name)), other.issuer), k, nil, `issuer "House Root" is no public authority that the gateway knows`},
		"another name":       {text(l.leaf(t, key.Public(), server("other.example.test")), l.issuer), k, nil, "does not bear gw.example.test, only other.example.test"},
		"a name in CN alone": {text(with(func(c *x509.Certificate) { c.DNSNames = nil }), l.issuer), k, nil, "does not bear gw.example.test, only none"},
		"over":               {text(with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), l.issuer), k, nil, "ended on"},
		"not yet":            {text(with(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), l.issuer), k, nil, "is valid from"},
		"not so soon": {text(with(func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(2 * leeway).Truncate(time.Minute).Add(17 * time.Second)
		}), l.issuer), k, nil, ":17 UTC on, and it is"},
		"for clients":    {text(with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), l.issuer), k, nil, "is not for servers"},
		"for anything":   {text(with(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), l.issuer), k, nil, "serverAuth"},
		"for encryption": {text(with(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), l.issuer), k, nil, "may not sign"},
		"must staple": {text(with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidFeature, Value: []byte{0x30, 3, 2, 1, 5}}}
		}), l.issuer), k, nil, "stapled"},
		"unknown and critical": {text(with(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}), l.issuer), k, nil, "clients would refuse the chain"},
		"a weak key":      {text(l.leaf(t, &odd.PublicKey, server(name)), l.issuer), k, nil, "is not strong enough"},
		"an Ed25519 key":  {text(l.leaf(t, edwards.Public(), server(name)), l.issuer), keyText(t, edwards), nil, "browsers do not know"},
		"a foreign name":  {text(ok, l.issuer), k, []string{"portal.example.test"}, "which it does not bear"},
		"many at once 1":  {text(with(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute); c.ExtKeyUsage = nil }), l.issuer), nil, nil, "3 fault(s)"},
		"issuer is over":  {text(issue(t, server(name), expired(t, l), key.Public(), l.issuerKey), expired(t, l)), k, nil, `the certificate of "Old Issuer" ended`},
		"long over by us": {text(old, l.issuer), k, nil, "ended on"},
	} {
		l.now = time.Time{}
		if what == "long over by us" {
			l.now = time.Now().Add(90*24*time.Hour + early)
		}
		err := l.Set(t.Context(), l.note, Brought{Chain: c.chain, Key: c.key, For: c.names})
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v; want %q", what, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "PRIVATE KEY-----") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: the error quotes a key: %v", what, err)
		}
		if l.shown.Load() != shown || !bytes.Equal(l.store.kept[blobShown], kept) {
			t.Fatalf("%s: something changed", what)
		}
	}
	if !slices.Equal(l.notes, []string{"certificate.set"}) {
		t.Errorf("noted: %v", l.notes)
	}
}

// expired is an issuer whose time is over.
func expired(t *testing.T, l *lab) *x509.Certificate {
	t.Helper()
	c := authority("Old Issuer")
	c.NotAfter = time.Now().Add(-time.Minute)
	return issue(t, c, l.root, l.issuerKey.Public(), l.rootKey)
}

// TestWhatIsTaken: chains as authorities give them.
func TestWhatIsTaken(t *testing.T) {
	l := newLab(t)
	key := newKey(t)
	c := l.leaf(t, key.Public(), server(name))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	direct := issue(t, server(name), l.root, key.Public(), l.rootKey)
	other := newHouse(t)
	foreign := other.leaf(t, key.Public(), server(name))
	sec1, _ := x509.MarshalECPrivateKey(key)
	for what, b := range map[string]struct {
		chain, key []byte
		shown      int
	}{
		"with its issuer":                {text(c, l.issuer), keyText(t, key), 2},
		"with a public root, which goes": {text(c, l.issuer, l.root), keyText(t, key), 2},
		"with a root of the house":       {text(foreign, other.issuer, other.root), keyText(t, key), 2},
		"directly below a root":          {text(direct), keyText(t, key), 1},
		"all in one file":                {slices.Concat([]byte("subject=CN = x\n"), keyText(t, key), text(c, l.issuer)), nil, 2},
		"a wildcard":                     {text(l.leaf(t, key.Public(), server("*.example.test")), l.issuer), keyText(t, key), 2},
		"RSA, PKCS#1":                    {text(l.leaf(t, rsaKey.Public(), server(name)), l.issuer), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}), 2},
		"SEC 1 with parameters":          {text(c, l.issuer), slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 1, 1}}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})), 2},
	} {
		if err := l.Set(t.Context(), l.note, Brought{Chain: b.chain, Key: b.key}); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := l.shown.Load().certificate.Certificate; len(got) != b.shown {
			t.Errorf("%s: %d certificates are shown, want %d", what, len(got), b.shown)
		}
	}
	s := l.State(t.Context())
	if s.Certificate.Source != File || !s.Shown || len(s.Uncovered) != 0 {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestKeyStaysInTheGateway: an authority run by openssl signs the request; its certificate
// needs no key with it, now or at the next renewal with the same key; a certificate for
// another request of ours is good, too.
func TestKeyStaysInTheGateway(t *testing.T) {
	openssl := testneed.Program(t, "openssl")
	l := newLab(t)
	dir := t.TempDir()
	write := func(file string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), openssl, args...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %v: %v %s", args, err, out)
		}
		return string(out)
	}
	write("issuer.pem", text(l.issuer))
	write("issuer.key", keyText(t, l.issuerKey))
	write("ext.cnf", []byte("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nsubjectAltName=DNS:"+name+"\n"))
	sign := func(request []byte) []byte {
		t.Helper()
		write("gw.csr", request)
		run("x509", "-req", "-in", "gw.csr", "-CA", "issuer.pem", "-CAkey", "issuer.key", "-CAcreateserial", "-days", "90", "-sha256", "-extfile", "ext.cnf", "-out", "gw.pem")
		b, err := os.ReadFile(filepath.Join(dir, "gw.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return append(b, text(l.issuer)...)
	}
	for _, kind := range append(slices.Clone(KeyKinds), "") {
		request, names, err := l.Request(t.Context(), l.note, nil, kind)
		if err != nil || !slices.Equal(names, []string{name}) {
			t.Fatalf("%q: %v %v", kind, names, err)
		}
		write("gw.csr", request)
		if out := run("req", "-in", "gw.csr", "-noout", "-verify", "-text"); !strings.Contains(out, "DNS:"+name) || !strings.Contains(out, "verify OK") {
			t.Errorf("%q: openssl reads %s", kind, out)
		}
	}
	first, _, err := l.Request(t.Context(), l.note, []string{"more.example.test", strings.ToUpper(name)}, "") // drops the oldest
	if err != nil {
		t.Fatal(err)
	}
	l.open(t) // the keys outlive a start
	if s := l.State(t.Context()); len(s.Waiting) != mostRequests {
		t.Fatalf("%+v", s)
	}
	chain := sign(first)
	if err := l.Set(t.Context(), l.note, Brought{Chain: chain}); err != nil {
		t.Fatal(err)
	}
	if got := l.shows(t, &tls.Config{ServerName: name, NextProtos: []string{"h2"}}); got != "other" {
		t.Errorf("a browser is shown %s", got)
	}
	if s := l.State(t.Context()); len(s.Waiting) != mostRequests-1 || s.Certificate.Source != Request {
		t.Errorf("%+v", s)
	}
	if err := l.Set(t.Context(), l.note, Brought{Chain: sign(first)}); err != nil { // renewed for the same key
		t.Errorf("renewed with the same key: %v", err)
	}
	l.bring(t, name)
	if err := l.Set(t.Context(), l.note, Brought{Chain: chain}); err == nil {
		t.Error("a key that was brought serves another certificate")
	}
}

// TestRequestsThatAreRefused.
func TestRequestsThatAreRefused(t *testing.T) {
	l := newLab(t)
	for _, names := range [][]string{{"other.example.test"}, {name, "192.0.2.1"}, {name, "a b"}, {name, "*.example.test"}, {name, ""}, {name, "a..b"}, {name, "-a.b"}, {name, "a-.b"}, slices.Repeat([]string{name}, 1)[:0:0]} {
		_, _, err := l.Request(t.Context(), l.note, names, "")
		if (err == nil) != (len(names) == 0) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if _, _, err := l.Request(t.Context(), l.note, nil, "rsa512"); !errors.Is(err, ErrInvalid) {
		t.Errorf("rsa512: %v", err)
	}
	l.config.Names = nil
	l.open(t)
	if _, _, err := l.Request(t.Context(), l.note, nil, ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("without a name: %v", err)
	}
}

// TestWhatIsBrokenIsNotShown: blobs that cannot be read, or a key that is another's, leave
// the gateway's own certificate, and are told; the gateway starts all the same.
func TestWhatIsBrokenIsNotShown(t *testing.T) {
	for what, spoil := range map[string]func(b []byte) []byte{
		"no JSON":         func([]byte) []byte { return []byte("{") },
		"another version": func(b []byte) []byte { return bytes.Replace(b, []byte(`"v":1`), []byte(`"v":2`), 1) },
		"no key":          func(b []byte) []byte { return bytes.Replace(b, []byte(`"key":"M`), []byte(`"key":"A`), 1) },
	} {
		l := newLab(t)
		l.bring(t, name)
		l.store.kept[blobShown] = spoil(l.store.kept[blobShown])
		l.open(t)
		if got := l.shows(t, &tls.Config{ServerName: name, NextProtos: []string{"h2"}}); got != "own" {
			t.Errorf("%s: a browser is shown %s", what, got)
		}
		if s := l.State(t.Context()); s.Problem == "" || s.Certificate != nil {
			t.Errorf("%s: %+v", what, s)
		}
		l.bring(t, name)
		if s := l.State(t.Context()); s.Problem != "" || !s.Shown {
			t.Errorf("%s, set again: %+v", what, s)
		}
	}
	l := newLab(t)
	l.store.fail = errors.New("disk full")
	key := newKey(t)
	c := l.leaf(t, key.Public(), server(name))
	if err := l.Set(t.Context(), l.note, Brought{Chain: text(c, l.issuer), Key: keyText(t, key)}); err == nil || l.shown.Load() != nil {
		t.Errorf("shown without being kept (%v)", err)
	}
	var _ crypto.Signer = key
}

func FuzzParse(f *testing.F) {
	l := newLab(f)
	key := newKey(f)
	c := l.leaf(f, key.Public(), server(name))
	f.Add(text(c, l.issuer), keyText(f, key))
	f.Add(append(keyText(f, key), text(c)...), []byte(nil))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		b, err := Parse(chain, key)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("an error of another kind: %v", err)
			}
			return
		}
		if len(b.Chain) == 0 || len(b.Chain) > MaxCertificates {
			t.Fatalf("%d certificates", len(b.Chain))
		}
		_, _ = check{names: []string{name}, now: time.Now(), roots: l.pool()}.run(b)
	})
}

// TestHastyAuthority: a certificate of an authority whose clock is minutes ahead is taken, and
// shown as soon as it has begun by the gateway's.
func TestHastyAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, key := newLab(t), newKey(t)
		c := server(name)
		c.NotBefore = time.Now().Add(leeway - time.Second)
		if err := l.Set(t.Context(), l.note, Brought{Chain: text(l.leaf(t, key.Public(), c), l.issuer), Key: keyText(t, key)}); err != nil {
			t.Fatal(err)
		}
		if s := l.State(t.Context()); s.Certificate == nil || s.Shown {
			t.Errorf("before it begins: %+v", s)
		}
		time.Sleep(leeway)
		if s := l.State(t.Context()); !s.Shown {
			t.Errorf("when it has begun: %+v", s)
		}
	})
}

// TestUnsetKeepsWaitingKeys: the certificate that comes for a request fits after unset, too.
func TestUnsetKeepsWaitingKeys(t *testing.T) {
	l := newLab(t)
	asked, _, err := l.Request(t.Context(), l.note, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unset(t.Context(), l.note); !errors.Is(err, ErrNone) {
		t.Errorf("with a request alone: %v", err)
	}
	l.bring(t, name)
	if err := l.Unset(t.Context(), l.note); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(asked)
	q, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Set(t.Context(), l.note, Brought{Chain: text(l.leaf(t, q.PublicKey, server(name)), l.issuer)}); err != nil {
		t.Error(err)
	}
	if err := l.Renew(t.Context(), l.note); !errors.Is(err, ErrNoACME) || !strings.Contains(err.Error(), "certificate acme set") {
		t.Errorf("renew without ACME: %v", err)
	}
}
