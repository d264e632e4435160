package cmp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// The messages in testdata/openssl were made by OpenSSL 3.0 (testdata/make.sh), both sides
// of each exchange, so they hold this codec to what others send and accept.
const (
	goldenSecret = "SECRET-of-80-bits"
	goldenKey    = "wireguard:q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s" // 32 times 0xab
)

func golden(t testing.TB, name string) []byte {
	t.Helper()
	der, err := os.ReadFile(filepath.Join("testdata", "openssl", name))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func goldens(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/openssl/*.der")
	if err != nil || len(files) < 40 {
		t.Fatalf("found %d golden messages (%v)", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		out[filepath.Base(f)] = golden(t, filepath.Base(f))
	}
	return out
}

func goldenCert(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(golden(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustParse(t testing.TB, der []byte) *Message {
	t.Helper()
	m, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// verifyGolden checks a golden message's protection as its receiver would.
func verifyGolden(t testing.TB, name string, m *Message) error {
	t.Helper()
	if !m.Signed() {
		return m.VerifyMAC([]byte(goldenSecret), Policy{AllowSHA1: true})
	}
	signer := "ca.crt"
	if strings.Contains(name, ".1.") || strings.Contains(name, ".3.") {
		signer = "ec.crt"
		if i := strings.Index(name, "kur-"); i >= 0 {
			signer = name[len("kur-"):strings.Index(name, ".")] + ".crt"
		}
	}
	return m.VerifySignature(goldenCert(t, signer).PublicKey)
}

const unprotectedGolden = "unproterr.2.der"

func TestGoldenProtection(t *testing.T) {
	for name, der := range goldens(t) {
		m := mustParse(t, der)
		err := verifyGolden(t, name, m)
		if name == unprotectedGolden {
			if !errors.Is(err, ErrUnprotected) {
				t.Errorf("%s: got %v, want %v", name, err, ErrUnprotected)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if m.Signed() {
			if err := m.VerifySignature(goldenCert(t, "new.crt").PublicKey); !errors.Is(err, ErrProtection) && !errors.Is(err, ErrAlgorithm) {
				t.Errorf("%s: another key's check gives %v", name, err)
			}
			if err := m.VerifyMAC([]byte(goldenSecret), Policy{}); !errors.Is(err, ErrUnprotected) {
				t.Errorf("%s: signature taken for a MAC: %v", name, err)
			}
			continue
		}
		if err := m.VerifyMAC([]byte(goldenSecret+"x"), Policy{AllowSHA1: true}); !errors.Is(err, ErrProtection) {
			t.Errorf("%s: wrong secret gives %v", name, err)
		}
		p, _ := m.MACParams()
		if err := m.VerifyMAC([]byte(goldenSecret), Policy{}); errors.Is(err, ErrAlgorithm) != (p.MAC == crypto.SHA1) {
			t.Errorf("%s: MAC by %v under the strict policy gives %v", name, p.MAC, err)
		}
	}
}

func TestGoldenKinds(t *testing.T) {
	for name, want := range map[string]Kind{
		"ir.1": IR, "ir.2": IP, "ir.3": CertConf, "ir.4": PKIConf, "cr.1": CR, "cr.2": CP,
		"p10cr.1": P10CR, "p10cr.2": CP, "genm.1": GenM, "genm.2": GenP, "poll.2": IP,
		"poll.3": PollReq, "error.2": Error, "kur-ec.1": KUR, "kur-ec.2": KUP, "rr.1": RR, "rr.2": RP,
	} {
		if got := mustParse(t, golden(t, name+".der")).Body.Kind; got != want {
			t.Errorf("%s is of kind %d, want %d", name, got, want)
		}
	}
}

func TestGoldenMACAlgorithms(t *testing.T) {
	for name, want := range map[string]MACParams{
		"ir.1.der":    {OWF: crypto.SHA256, Iterations: 500, MAC: crypto.SHA1},
		"ir512.1.der": {OWF: crypto.SHA512, Iterations: 500, MAC: crypto.SHA512},
		"p10cr.1.der": {OWF: crypto.SHA256, Iterations: 500, MAC: crypto.SHA256},
	} {
		got, err := mustParse(t, golden(t, name)).MACParams()
		if err != nil || got.OWF != want.OWF || got.Iterations != want.Iterations || got.MAC != want.MAC || len(got.Salt) != 16 {
			t.Errorf("%s: got %+v (%v), want %+v", name, got, err, want)
		}
	}
}

// TestGoldenEncodings takes every message apart and puts it together again: the same bytes
// come out, although nothing of the original is reused.
func TestGoldenEncodings(t *testing.T) {
	for name, der := range goldens(t) {
		m := mustParse(t, der)
		if again, err := m.Marshal(); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%s: marshalling as received: %v, or other bytes", name, err)
		}
		m.protected = nil
		for i := range m.Body.Requests {
			m.Body.Requests[i].raw = nil
		}
		again, err := m.Marshal()
		if err != nil || !bytes.Equal(again, der) {
			t.Errorf("%s: %v\n got %x\nwant %x", name, err, again, der)
		}
	}
}

func TestGoldenRequests(t *testing.T) {
	for name, cert := range map[string]string{
		"ir.1.der": "ec.crt", "ir512.1.der": "p384.crt", "cr.1.der": "rsa.crt", "ed.1.der": "ed.crt", "kur-ec.1.der": "new.crt",
	} {
		m := mustParse(t, golden(t, name))
		if len(m.Body.Requests) != 1 {
			t.Fatalf("%s holds %d requests", name, len(m.Body.Requests))
		}
		r := m.Body.Requests[0]
		if err := r.VerifyPOP(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(r.Template.PublicKey, goldenCert(t, cert).RawSubjectPublicKeyInfo) {
			t.Errorf("%s asks for another key than that of %s", name, cert)
		}
		r.signature = slices.Clone(r.signature)
		r.signature[len(r.signature)-1] ^= 1
		if err := r.VerifyPOP(); !errors.Is(err, ErrPOP) {
			t.Errorf("%s: with a wrong proof: %v", name, err)
		}
	}
	ir := mustParse(t, golden(t, "ir.1.der"))
	uris, err := ir.Body.Requests[0].Template.URIs()
	if err != nil || !slices.Equal(uris, []string{goldenKey}) {
		t.Errorf("URIs of ir are %q (%v)", uris, err)
	}
	if key, err := FindWireGuardKey(uris); err != nil || key != [32]byte(bytes.Repeat([]byte{0xab}, 32)) {
		t.Errorf("WireGuard key of ir is %x (%v)", key, err)
	}
	if string(ir.Header.SenderKID) != "7K2M9QXA" || len(ir.Header.TransactionID) != 16 || len(ir.Header.SenderNonce) != 16 {
		t.Errorf("header of ir is %+v", ir.Header)
	}
	kur := mustParse(t, golden(t, "kur-ec.1.der")).Body.Requests[0]
	if kur.Old == nil || !kur.Old.Names(goldenCert(t, "ec.crt")) || kur.Old.Names(goldenCert(t, "rsa.crt")) {
		t.Errorf("kur updates %+v", kur.Old)
	}
	csr, err := x509.ParseCertificateRequest(mustParse(t, golden(t, "p10cr.1.der")).Body.PKCS10)
	if err != nil || csr.CheckSignature() != nil {
		t.Errorf("certification request of p10cr: %v", err)
	}
	if _, ok := Find(mustParse(t, golden(t, "cr.1.der")).Header.GeneralInfo, IDImplicitConfirm); !ok {
		t.Error("implicitConfirm of cr not found")
	}
	rr := mustParse(t, golden(t, "rr.1.der")).Body.Revocations
	if len(rr) != 1 || rr[0].Reason != 4 || !bytes.Equal(rr[0].Template.Serial, serial(goldenCert(t, "ec.crt"))) {
		t.Errorf("rr asks for %+v", rr)
	}
}

func TestGoldenAnswers(t *testing.T) {
	ip := mustParse(t, golden(t, "ir.2.der"))
	if r := ip.Body.Responses; len(r) != 1 || r[0].RequestID != 0 || r[0].Status.Status != Accepted ||
		!bytes.Equal(r[0].Certificate, golden(t, "ec.crt")) {
		t.Errorf("ip answers %+v", r)
	}
	if !slices.EqualFunc(ip.Body.CAPubs, [][]byte{golden(t, "ca.crt")}, bytes.Equal) {
		t.Error("ip has other caPubs than the CA")
	}
	if r := mustParse(t, golden(t, "p10cr.2.der")).Body.Responses; len(r) != 1 || r[0].RequestID != -1 {
		t.Errorf("cp answers %+v", r)
	}
	failure := mustParse(t, golden(t, "failure.2.der")).Body.Responses[0].Status
	if failure.Error() != `rejection (badMessageCheck wrongIntegrity duplicateCertReq): "not today"` {
		t.Errorf("failure reads %s", failure.Error())
	}
	if s := mustParse(t, golden(t, "poll.2.der")).Body.Responses[0].Status.Status; s != Waiting {
		t.Errorf("poll begins with %s", s)
	}
	for file, cert := range map[string]string{"ir.3.der": "ec.crt", "ed.3.der": "ed.crt", "p10cr.3.der": "ec.crt"} {
		s := mustParse(t, golden(t, file)).Body.Statuses
		hash, err := CertHash(goldenCert(t, cert))
		if err != nil || len(s) != 1 || !bytes.Equal(s[0].Hash, hash) || s[0].Status != nil && s[0].Status.Status != Accepted {
			t.Errorf("%s confirms %+v, want hash %x (%v)", file, s, hash, err)
		}
	}
	if s := mustParse(t, golden(t, "kur-p384.3.der")).Body.Statuses; len(s) != 1 || s[0].Status == nil || s[0].Status.Status != Rejection {
		t.Errorf("kur-p384 does not refuse the mock server's certificate: %+v", s)
	}
}

// extraCertsAt is where the unprotected certificates begin, or the message's length.
func extraCertsAt(t *testing.T, der []byte) int {
	in := cryptobyte.String(der)
	var skip cryptobyte.String
	if !in.ReadASN1(&in, asn1.SEQUENCE) {
		t.Fatal("not a message")
	}
	for range 2 {
		var tag asn1.Tag
		if !in.ReadAnyASN1(&skip, &tag) {
			t.Fatal("not a message")
		}
	}
	if !in.SkipOptionalASN1(context(0)) {
		t.Fatal("not a message")
	}
	return len(der) - len(in)
}

// TestGoldenFlips flips bits in every byte of every message: each is refused by parser or
// protection, or lies in extraCerts.
func TestGoldenFlips(t *testing.T) {
	for name, der := range goldens(t) {
		if name == unprotectedGolden {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			end := extraCertsAt(t, der)
			tried := 0
			for i := range der {
				for _, bit := range []byte{0x01, 0x80} {
					bad := slices.Clone(der)
					bad[i] ^= bit
					m, err := Parse(bad)
					if err != nil {
						if !errors.Is(err, ErrFormat) {
							t.Fatalf("byte %d: %v", i, err)
						}
						continue
					}
					tried++
					if verifyGolden(t, name, m) == nil && i < end {
						t.Errorf("byte %d of %d, bit %#x: accepted", i, end, bit)
					}
				}
			}
			if tried < len(der)/10 {
				t.Errorf("only %d of %d flips got past the parser: the protection was hardly tried", tried, 2*len(der))
			}
		})
	}
}

func TestGoldenTruncations(t *testing.T) {
	for name, der := range goldens(t) {
		for n := range der {
			if _, err := Parse(der[:n]); !errors.Is(err, ErrFormat) {
				t.Fatalf("%s cut to %d bytes: %v", name, n, err)
			}
		}
		if _, err := Parse(append(slices.Clone(der), 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s with a byte after it: %v", name, err)
		}
	}
}

// FuzzParse starts from the golden messages. Long runs want -fuzzminimizetime=10x: without
// it Go spends them on shortening inputs.
func FuzzParse(f *testing.F) {
	for _, der := range goldens(f) {
		f.Add(der)
	}
	f.Add(Refusal(Header{TransactionID: []byte{1}, SenderNonce: []byte{2}}))
	f.Fuzz(func(t *testing.T, der []byte) {
		m, err := Parse(der)
		if err != nil {
			return
		}
		if out, err := m.Marshal(); err != nil || !bytes.Equal(out, der) {
			t.Fatalf("marshalling as received: %v", err)
		}
		readAll(m)
		// What is skipped in reading is gone after the first encoding, and nothing after it.
		first := reencode(t, m)
		m, err = Parse(first)
		if err != nil {
			t.Fatalf("own encoding: %v", err)
		}
		if second := reencode(t, m); !bytes.Equal(first, second) {
			t.Fatalf("encodings differ:\n%x\n%x", first, second)
		}
	})
}

// readAll calls every reader of a parsed message, which must not panic.
func readAll(m *Message) {
	for _, infos := range [][]Info{m.Header.GeneralInfo, m.Body.Infos} {
		_, _, _ = ReadCACerts(infos)
		_, _, _ = ReadWelcome(infos)
		_, _, _ = ReadSettings(infos)
		_, _, _ = ReadExporter(infos)
		_, _, _ = ReadProof(infos)
		_, _, _ = ReadClaim(infos)
	}
	for _, r := range m.Body.Requests {
		_, _ = r.Template.URIs()
	}
	_, _ = m.MACParams()
	_ = m.Signed()
	_ = m.Body.Error.Status.Error()
}

func reencode(t *testing.T, m *Message) []byte {
	m.protected = nil
	for i := range m.Body.Requests {
		r := &m.Body.Requests[i]
		if r.raw = nil; r.proof == otherProof {
			r.proof = noProof // read, but never built
		}
	}
	der, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return der
}
