package sign

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"lazaret/image/fake"
	"lazaret/internal/testneed"
)

// must is for what cannot fail in a test.
func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// bearing is cert's name and number with those certificates in its place.
func bearing(cert *x509.Certificate, all ...*x509.Certificate) *x509.Certificate {
	c := *cert
	c.Raw = nil
	for _, one := range all {
		c.Raw = append(c.Raw, one.Raw...)
	}
	return &c
}

// forge puts a signature together of parts that need not belong together: key signs the
// attributes, and cert is named, and put in, as the signer's.
func forge(t testing.TB, content, attributes []byte, key crypto.Signer, cert *x509.Certificate) []byte {
	t.Helper()
	digest := sha256.Sum256(attributes)
	signature := must[[]byte](t)(key.Sign(rand.Reader, digest[:], crypto.SHA256))
	return must[[]byte](t)(signedData(content, attributes, signature, cert))
}

// bearer is small with those signatures.
func bearer(t testing.TB, signatures ...[]byte) []byte {
	t.Helper()
	p := must[program](t)(parse(padded(fake.PE())))
	out := p.attach(signatures[0])
	for _, der := range signatures[1:] {
		out = append(out, p.attach(der)[len(p.bytes):]...)
	}
	binary.LittleEndian.PutUint32(out[p.security+4:], uint32(len(out)-len(p.bytes)))
	return out
}

// over is what is signed over a program: the content, and the attributes.
func over(t testing.TB, pe []byte) (content, attributes []byte) {
	t.Helper()
	digest := must[[sha256.Size]byte](t)(Digest(pe))
	content = must[[]byte](t)(indirect(digest))
	return content, must[[]byte](t)(attributesOf(content))
}

// witnessed runs others' programs over pe; nil: they would take it.
func witnessed(t *testing.T, pe []byte, trusted *x509.Certificate) (sbverify, osslsigncode error) {
	t.Helper()
	dir := t.TempDir()
	file, cert := filepath.Join(dir, "x.efi"), filepath.Join(dir, "trusted.pem")
	for name, b := range map[string][]byte{file: pe, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: trusted.Raw})} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return exec.Command(testneed.Program(t, "sbverify"), "--cert", cert, file).Run(),
		exec.Command(testneed.Program(t, "osslsigncode"), "verify", "-CAfile", cert, "-in", file).Run()
}

// forgeries are programs of which one thing alone is wrong; whoever trusts cert, whose key
// is key, must take none of them.
func forgeries(t *testing.T, key crypto.Signer, cert *x509.Certificate) map[string][]byte {
	t.Helper()
	changed := fake.PE()
	changed[0x210] ^= 1
	content, attributes := over(t, fake.PE())
	others, othersAttributes := over(t, changed)
	template := *cert
	template.PublicKey = nil
	strangerKey, stranger := issue(t, cert.Subject.CommonName, true, nil, nil)
	twin := must[*x509.Certificate](t)(x509.ParseCertificate(must[[]byte](t)(
		x509.CreateCertificate(rand.Reader, &template, &template, strangerKey.Public(), strangerKey))))
	flag := bytes.Clone(content) // in what says that it is an image, not in the digest
	flag[bytes.Index(flag, []byte{0, '<'})+1] ^= 1
	return map[string][]byte{
		"another key signed, under its name":                bearer(t, forge(t, content, attributes, strangerKey, cert)),
		"another key signed, and its certificate is in":     bearer(t, forge(t, content, attributes, strangerKey, bearing(cert, twin))),
		"another key signed, and both certificates are in":  bearer(t, forge(t, content, attributes, strangerKey, bearing(cert, cert, twin))),
		"the other way round":                               bearer(t, forge(t, content, attributes, strangerKey, bearing(cert, twin, cert))),
		"another key signed, and names another certificate": bearer(t, forge(t, content, attributes, strangerKey, bearing(stranger, stranger, cert))),
		"the signature of another program":                  bearer(t, forge(t, others, othersAttributes, key, cert)),
		"another program's digest in the content":           bearer(t, forge(t, others, attributes, key, cert)),
		"another program's digest in the attributes":        bearer(t, forge(t, content, othersAttributes, key, cert)),
		"the content says something else":                   bearer(t, forge(t, flag, attributes, key, cert)),
	}
}

// TestForged: a signature is good only if the key of the certificate that is trusted made it,
// over this program. Others' programs say the same.
func TestForged(t *testing.T) {
	key, cert, _ := newSigner(t)
	db := database(t, cert)
	content, attributes := over(t, fake.PE())
	good := bearer(t, forge(t, content, attributes, key, cert))
	if err := Verify(good, db, Database{}); err != nil {
		t.Fatal("what is not forged:", err)
	}
	all := forgeries(t, key, cert)
	for what, pe := range all {
		if err := Verify(pe, db, Database{}); err == nil {
			t.Errorf("%s: it was taken", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	if one, two := witnessed(t, good, cert); one != nil || two != nil {
		t.Error("what is not forged: others say", one, two)
	}
	for what, pe := range all {
		if one, two := witnessed(t, pe, cert); one == nil || two == nil {
			t.Errorf("%s: others say %v, %v", what, one, two)
		}
	}
}

// TestForgedByte: no byte of the signature can be another, nor one of the digests in content
// and attributes.
func TestForgedByte(t *testing.T) {
	key, cert, _ := newSigner(t)
	db := database(t, cert)
	good := must[[]byte](t)(Sign(fake.PE(), key, cert))
	_, table, err := parseSigned(good)
	if err != nil {
		t.Fatal(err)
	}
	one, _, err := nextCertificate(table)
	if err != nil {
		t.Fatal(err)
	}
	m := must[message](t)(readSigned(one))
	digest := must[[sha256.Size]byte](t)(Digest(fake.PE()))
	wrong := make(map[string][]byte)
	for what, part := range map[string][]byte{
		"signature": m.signature, "digest of the program": digest[:], "digest attribute": m.attributes[len(m.attributes)-sha256.Size:],
	} {
		if bytes.Count(good, part) != 1 {
			t.Fatalf("the %s is there %d times", what, bytes.Count(good, part))
		}
		at := bytes.Index(good, part)
		for i := range part {
			bad := bytes.Clone(good)
			bad[at+i] ^= 1 << (i % 8)
			if Verify(bad, db, Database{}) == nil {
				t.Errorf("byte %d of the %s may be another", i, what)
			}
		}
		bad := bytes.Clone(good)
		bad[at+len(part)/2] ^= 4
		wrong[what] = bad
	}
	short := []byte{13, 0, 0, 0, 0, 2, 2, 0, 1, 2, 3, 4, 5} // firmware wants it filled up to 16 bytes
	if _, _, err := nextCertificate(short); err == nil {
		t.Error("a certificate table that is cut off was taken")
	}
	if _, rest, err := nextCertificate(append(short, 0, 0, 0)); err != nil || len(rest) > 0 {
		t.Error("one that is filled up:", rest, err)
	}
	for what, pe := range wrong {
		if one, two := witnessed(t, pe, cert); one == nil || two == nil {
			t.Errorf("%s: others say %v, %v", what, one, two)
		}
	}
}
