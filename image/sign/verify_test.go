package sign

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"lazaret/image/fake"
	"lazaret/internal/testneed"
)

// list is an EFI_SIGNATURE_LIST.
func list(kind [16]byte, items ...[]byte) []byte {
	le := binary.LittleEndian
	b := append(kind[:], make([]byte, 12)...)
	for _, item := range items {
		b = append(append(b, make([]byte, 16)...), item...) // its owner
	}
	le.PutUint32(b[16:], uint32(len(b)))
	le.PutUint32(b[24:], uint32(16+len(items[0])))
	return b
}

// database parses what it makes of certificates.
func database(t testing.TB, certs ...*x509.Certificate) Database {
	t.Helper()
	var value []byte
	for _, c := range certs {
		value = append(value, list(kindX509, c.Raw)...)
	}
	d, err := ParseDatabase(value)
	if err != nil || len(d.Certs) != len(certs) {
		t.Fatalf("%d of %d certificates: %v", len(d.Certs), len(certs), err)
	}
	return d
}

// issue makes a key and its certificate, issued by another's.
func issue(t testing.TB, name string, ca bool, key crypto.Signer, by *x509.Certificate) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
	}
	if by == nil {
		by, key = template, own
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, own.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return own, cert
}

// TestVerify: what a trusted key signed would be started, and nothing else. What sbsign
// signs is read as well as what we do.
func TestVerify(t *testing.T) {
	key, cert, certFile := newSigner(t)
	_, other, _ := newSigner(t)
	good, err := Sign(fake.PE(), key, cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(good, database(t, other, cert), Database{}); err != nil {
		t.Error("what is signed:", err)
	}
	digest, err := Digest(fake.PE())
	if err != nil {
		t.Fatal(err)
	}
	listed, err := ParseDatabase(list(kindSHA256, make([]byte, 32), digest[:]))
	if err != nil {
		t.Fatal(err)
	}
	for _, pe := range [][]byte{good, fake.PE()} {
		if err := Verify(pe, listed, Database{}); err != nil {
			t.Error("a program that is listed itself:", err)
		}
		if err := Verify(pe, listed, listed); err == nil {
			t.Error("a program that is listed among the refused ones was taken")
		}
	}
	for what, err := range map[string]error{
		"not signed":                 Verify(fake.PE(), database(t, cert), Database{}),
		"a stranger's":               Verify(good, database(t, other), Database{}),
		"nobody is trusted":          Verify(good, Database{}, Database{}),
		"refused by its certificate": Verify(good, database(t, cert), database(t, cert)),
		"refused itself":             Verify(good, database(t, cert), listed),
		"cut":                        Verify(good[:len(good)-8], database(t, cert), Database{}),
		"longer":                     Verify(append(bytes.Clone(good), make([]byte, 8)...), database(t, cert), Database{}),
	} {
		if err == nil {
			t.Errorf("%s: it was taken", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	path := filepath.Join(t.TempDir(), "x.efi")
	if err := os.WriteFile(path, fake.PE(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testneed.Program(t, "sbsign"), "--key", certFile[:len(certFile)-len(CertSuffix)], "--cert", certFile, "--output", path, path).CombinedOutput(); err != nil {
		t.Fatalf("sbsign: %v %s", err, out)
	}
	theirs, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(theirs, database(t, cert), Database{}); err != nil {
		t.Error("what sbsign signed:", err)
	}
}

// TestVerifyEveryByte: no byte of a signed program can be another, but those that
// signing leaves out and those of the certificate table that nobody reads.
func TestVerifyEveryByte(t *testing.T) {
	key, cert, _ := newSigner(t)
	good, err := Sign(fake.PE(), key, cert)
	if err != nil {
		t.Fatal(err)
	}
	db := database(t, cert)
	p, table, err := parseSigned(good)
	if err != nil {
		t.Fatal(err)
	}
	end := len(good) - len(table)
	for i := range end {
		if i >= p.checksum && i < p.checksum+4 {
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if Verify(bad, db, Database{}) == nil {
			t.Errorf("byte %#x may be another", i)
		}
	}
	for i := end; i < len(good); i++ { // whatever is taken says the same
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if Verify(bad, db, Database{}) != nil {
			continue
		}
		_, table, err := parseSigned(bad)
		if err != nil {
			t.Fatal(err)
		}
		one, _, err := nextCertificate(table)
		m, err2 := readSigned(one)
		if err != nil || err2 != nil || !m.signer.Equal(cert) || !endsInDigest(m.content) {
			t.Errorf("byte %#x: %v, %v", i, err, err2)
		}
	}
}

// TestVouches: a certificate is good that a trusted authority issued, and one that somebody
// issued who is no authority is not.
func TestVouches(t *testing.T) {
	rootKey, root := issue(t, "root", true, nil, nil)
	midKey, mid := issue(t, "mid", true, rootKey, root)
	leafKey, leaf := issue(t, "leaf", false, midKey, mid)
	_, child := issue(t, "child", false, leafKey, leaf)
	_, other := issue(t, "root", true, nil, nil)
	for _, c := range []struct {
		what   string
		db     Database
		cert   *x509.Certificate
		others []*x509.Certificate
		good   bool
	}{
		{"itself", database(t, leaf), leaf, nil, true},
		{"its authority", database(t, mid), leaf, nil, true},
		{"by way of another", database(t, root), leaf, []*x509.Certificate{child, mid}, true},
		{"the way is not there", database(t, root), leaf, []*x509.Certificate{child}, false},
		{"the same name", database(t, other), mid, []*x509.Certificate{root}, false},
		{"no authority", database(t, leaf), child, nil, false},
		{"a circle", Database{}, root, []*x509.Certificate{root, root}, false},
	} {
		if got := c.db.vouches(c.cert, c.others); got != c.good {
			t.Errorf("%s: %t", c.what, got)
		}
	}
}

// TestFirmwaresKeys: the NVRAM that Debian ships with test keys holds their certificate, in
// lists of signatures that others wrote.
func TestFirmwaresKeys(t *testing.T) {
	nvram, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd")
	if err != nil {
		testneed.Skip(t, "needs the firmware's test keys: install it (Debian: ovmf)")
	}
	raw, err := readPEM("/usr/share/ovmf/PkKek-1-snakeoil.pem", "CERTIFICATE")
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for at := 0; ; {
		i := bytes.Index(nvram[at:], kindX509[:])
		if i < 0 {
			break
		}
		at += i + 1
		value := nvram[at-1:]
		size := binary.LittleEndian.Uint32(value[16:])
		if int64(size) > int64(len(value)) {
			continue
		}
		d, err := ParseDatabase(value[:size])
		if err == nil && d.hasCert(want) {
			found++
		}
	}
	if found == 0 {
		t.Error("no list holds the certificate")
	}
}

// FuzzVerify: whatever the bytes, nothing is taken that nobody signed.
func FuzzVerify(f *testing.F) {
	key, cert, _ := newSigner(f)
	good, err := Sign(fake.PE(), key, cert)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, list(kindSHA256, make([]byte, 32)))
	f.Add(fake.PE(), list(kindX509, []byte{0x30, 0}))
	f.Add(good[:0x300], []byte{})
	_, other, _ := newSigner(f)
	trusted := Database{Certs: []*x509.Certificate{other}}
	f.Fuzz(func(t *testing.T, pe, value []byte) {
		if Verify(pe, trusted, Database{}) == nil {
			t.Error("it was taken")
		}
		if d, err := ParseDatabase(value); err == nil && len(d.Certs)*45+len(d.Hashes)*48 > len(value) {
			t.Errorf("%d bytes hold %d certificates and %d digests", len(value), len(d.Certs), len(d.Hashes))
		}
	})
}
