package sign

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"hash"
	"testing"

	"lazaret/image/fake"
)

// revoked is an EFI_CERT_X509_SHA256, or of a longer hash, in its list: with a time, from
// which on it counts, or none.
func revoked(t *testing.T, kind [16]byte, h hash.Hash, cert *x509.Certificate, year byte) Database {
	t.Helper()
	h.Write(cert.RawTBSCertificate)
	when := append([]byte{year, 7, 1, 1}, make([]byte, 12)...)
	d, err := ParseDatabase(list(kind, append(h.Sum(nil), when...)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestForbidden: what dbx has against a certificate in a signature, or who issued that,
// counts against the program, also if another certificate is trusted.
func TestForbidden(t *testing.T) {
	rootKey, root := issue(t, "root", true, nil, nil)
	midKey, mid := issue(t, "mid", true, rootKey, root)
	leafKey, leaf := issue(t, "leaf", false, midKey, mid)
	_, stranger := issue(t, "stranger", true, nil, nil)
	_, namesake := issue(t, "mid", true, nil, nil)
	content, attributes := over(t, fake.PE())
	alone := bearer(t, forge(t, content, attributes, leafKey, leaf))
	chain := bearer(t, forge(t, content, attributes, leafKey, bearing(leaf, leaf, mid)))
	unread := bytes.Clone(mid.Raw)
	unread[4] ^= 1 // the tag of what is signed in it
	broken, err := ParseDatabase(list(kindX509, unread))
	if err != nil || len(broken.Certs) != 0 {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		pe      []byte
		db, dbx Database
		good    bool
	}{
		{"nothing against it", alone, database(t, leaf), database(t, stranger), true},
		{"nothing against its chain", chain, database(t, root), database(t, stranger), true},
		{"one of the same name as its issuer", alone, database(t, leaf), database(t, namesake), true},
		{"itself", alone, database(t, mid), database(t, leaf), false},
		{"its issuer, which is not in it", alone, database(t, leaf), database(t, mid), false},
		{"its issuer, trusted as well", alone, database(t, leaf, mid), database(t, mid), false},
		{"its issuer, which alone is trusted", alone, database(t, mid), database(t, mid), false},
		{"its issuer's issuer", chain, database(t, leaf), database(t, root), false},
		{"the issuer of whom is trusted", alone, database(t, mid), database(t, root), false},
		{"its issuer's issuer, with itself trusted", alone, database(t, leaf, mid), database(t, root), false},
		{"another certificate in it", bearer(t, forge(t, content, attributes, leafKey, bearing(leaf, leaf, stranger))), database(t, leaf), database(t, stranger), false},
		{"an issuer that cannot be read", alone, database(t, leaf), broken, false},
		{"its digest", alone, database(t, leaf), revoked(t, kindTBS256, sha256.New(), leaf, 0), false},
		{"its digest by SHA-384", alone, database(t, leaf), revoked(t, kindTBS384, sha512.New384(), leaf, 0), false},
		{"its digest by SHA-512", alone, database(t, leaf), revoked(t, kindTBS512, sha512.New(), leaf, 0), false},
		{"its digest, from a day on", alone, database(t, leaf), revoked(t, kindTBS256, sha256.New(), leaf, 0xea), false},
		{"its issuer's digest", chain, database(t, leaf), revoked(t, kindTBS256, sha256.New(), mid, 0), false},
		{"the digest of whom is trusted", alone, database(t, mid), revoked(t, kindTBS256, sha256.New(), mid, 0), false},
		{"another's digest", chain, database(t, root), revoked(t, kindTBS256, sha256.New(), stranger, 0), true},
	} {
		if err := Verify(c.pe, c.db, c.dbx); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	if trusts := revoked(t, kindTBS256, sha256.New(), leaf, 0); Verify(alone, trusts, Database{}) == nil {
		t.Error("a revocation among what is trusted makes it good")
	}
}

// TestSeveralSignatures: one that is trusted is enough, wherever it stands, and one that dbx
// has something against is too much, even beside the program's digest.
func TestSeveralSignatures(t *testing.T) {
	key, cert, _ := newSigner(t)
	otherKey, other := issue(t, "other", true, nil, nil)
	content, attributes := over(t, fake.PE())
	ours, theirs := forge(t, content, attributes, key, cert), forge(t, content, attributes, otherKey, other)
	bad := forge(t, content, attributes, otherKey, cert)
	digest := must[[sha256.Size]byte](t)(Digest(fake.PE()))
	listed := Database{Hashes: [][sha256.Size]byte{digest}}
	for _, c := range []struct {
		what    string
		pe      []byte
		db, dbx Database
		good    bool
	}{
		{"ours first", bearer(t, ours, theirs), database(t, cert), Database{}, true},
		{"ours last", bearer(t, theirs, ours), database(t, cert), Database{}, true},
		{"ours behind one that is wrong", bearer(t, bad, ours), database(t, cert), Database{}, true},
		{"two that are wrong", bearer(t, bad, bad), database(t, cert), Database{}, false},
		{"theirs is refused, last", bearer(t, ours, theirs), database(t, cert), database(t, other), false},
		{"theirs is refused, first", bearer(t, theirs, ours), database(t, cert), database(t, other), false},
		{"one that nobody can read, last", bearer(t, ours, []byte("no signature")), database(t, cert), Database{}, false},
		{"one that nobody can read, first", bearer(t, []byte("no signature"), ours), database(t, cert), Database{}, false},
		{"listed, and signed by a stranger", bearer(t, theirs), listed, Database{}, true},
		{"listed, and signed by who is refused", bearer(t, theirs), listed, database(t, other), false},
	} {
		if err := Verify(c.pe, c.db, c.dbx); (err == nil) != c.good {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// TestForbiddenDigest: a program is refused by its digest of any length.
func TestForbiddenDigest(t *testing.T) {
	key, cert, _ := newSigner(t)
	good := must[[]byte](t)(Sign(fake.PE(), key, cert))
	p := must[program](t)(parse(padded(fake.PE())))
	for what, c := range map[string]struct {
		kind [16]byte
		h    hash.Hash
	}{"SHA-256": {kindSHA256, sha256.New()}, "SHA-384": {kindSHA384, sha512.New384()}, "SHA-512": {kindSHA512, sha512.New()}} {
		dbx, err := ParseDatabase(list(c.kind, p.hashed(c.h)))
		if err != nil || Verify(good, database(t, cert), dbx) == nil {
			t.Errorf("%s: it was taken, %v", what, err)
		}
		other := make([]byte, c.h.Size())
		if dbx, err = ParseDatabase(list(c.kind, other)); err != nil || Verify(good, database(t, cert), dbx) != nil {
			t.Errorf("%s of another program: %v", what, err)
		}
	}
}
