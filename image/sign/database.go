package sign

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
)

// Database is what firmware trusts (its variable db), or refuses (dbx).
type Database struct {
	Certs  []*x509.Certificate
	Hashes [][sha256.Size]byte // Authenticode digests of programs

	// What follows is for dbx: it refuses, and never makes anything good. Digests are by
	// the hash of SHA-2 that has their length.
	longer [][]byte // Authenticode digests of programs, by SHA-384 or SHA-512
	signed [][]byte // digests of certificates, of what is signed in them (TBSCertificate)
	unread [][]byte // certificates that cannot be read
}

// Kinds of EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1), as they are stored: EFI_CERT_X509,
// _SHA256, _SHA384, _SHA512, _X509_SHA256, _X509_SHA384 and _X509_SHA512, each _GUID.
var (
	kindX509   = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	kindSHA256 = [16]byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	kindSHA384 = [16]byte{0x07, 0x53, 0x3e, 0xff, 0xd0, 0x9f, 0xc9, 0x48, 0x85, 0xf1, 0x8a, 0xd5, 0x6c, 0x70, 0x1e, 0x01}
	kindSHA512 = [16]byte{0xae, 0x0f, 0x3e, 0x09, 0xc4, 0xa6, 0x50, 0x4f, 0x9f, 0x1b, 0xd4, 0x1e, 0x2b, 0x89, 0xc1, 0x9a}
	kindTBS256 = [16]byte{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}
	kindTBS384 = [16]byte{0x6e, 0x87, 0x76, 0x70, 0xc2, 0x80, 0xe6, 0x4e, 0xaa, 0xd2, 0x28, 0xb3, 0x49, 0xa6, 0x86, 0x5b}
	kindTBS512 = [16]byte{0x63, 0xbf, 0x6d, 0x44, 0x02, 0x25, 0xda, 0x4c, 0xbc, 0xfa, 0x24, 0x65, 0xd2, 0xb0, 0xfe, 0x9d}
)

// ParseDatabase reads the value of db or dbx: lists of signatures. What is of another kind
// is passed over.
func ParseDatabase(value []byte) (Database, error) {
	const head, owner = 28, 16
	le := binary.LittleEndian
	var d Database
	for len(value) > 0 {
		if len(value) < head {
			return Database{}, errors.New("reading the firmware's keys: the last list is cut off")
		}
		whole, skip, each := int64(le.Uint32(value[16:])), int64(le.Uint32(value[20:])), int64(le.Uint32(value[24:]))
		if whole < head || whole > int64(len(value)) || skip > whole-head || each <= owner || (whole-head-skip)%each != 0 {
			return Database{}, errors.New("reading the firmware's keys: a list is malformed")
		}
		for one := range slices.Chunk(value[head+skip:whole], int(each)) {
			d.take([16]byte(value), one[owner:])
		}
		value = value[whole:]
	}
	return d, nil
}

func (d *Database) take(kind [16]byte, data []byte) {
	const when = 16 // TimeOfRevocation, behind the digest: whoever is refused at any time is refused
	switch {
	case kind == kindX509:
		if c, err := x509.ParseCertificate(data); err == nil {
			d.Certs = append(d.Certs, c)
		} else {
			d.unread = append(d.unread, data)
		}
	case kind == kindSHA256 && len(data) == sha256.Size:
		d.Hashes = append(d.Hashes, [sha256.Size]byte(data))
	case kind == kindSHA384 && len(data) == sha512.Size384, kind == kindSHA512 && len(data) == sha512.Size:
		d.longer = append(d.longer, data)
	case kind == kindTBS256 && len(data) == sha256.Size+when,
		kind == kindTBS384 && len(data) == sha512.Size384+when,
		kind == kindTBS512 && len(data) == sha512.Size+when:
		d.signed = append(d.signed, data[:len(data)-when])
	}
}

func (d Database) hasHash(h [sha256.Size]byte) bool { return slices.Contains(d.Hashes, h) }

func (d Database) hasCert(c *x509.Certificate) bool {
	return slices.ContainsFunc(d.Certs, func(t *x509.Certificate) bool { return bytes.Equal(t.Raw, c.Raw) })
}

// names says whether p is one of the database's programs.
func (d Database) names(p program) bool {
	return d.hasHash(p.digest()) || slices.ContainsFunc(d.longer, func(digest []byte) bool {
		if len(digest) == sha512.Size384 {
			return bytes.Equal(digest, p.hashed(sha512.New384()))
		}
		return bytes.Equal(digest, p.hashed(sha512.New()))
	})
}

// vouches says whether c is one of the database's certificates, or is issued by one of them,
// by way of others. Firmware looks at no clock.
func (d Database) vouches(c *x509.Certificate, others []*x509.Certificate) bool {
	for range len(others) + 1 {
		if d.hasCert(c) || slices.ContainsFunc(d.Certs, func(t *x509.Certificate) bool { return issued(t, c) }) {
			return true
		}
		i := slices.IndexFunc(others, func(o *x509.Certificate) bool { return issued(o, c) })
		if i < 0 {
			return false
		}
		c = others[i]
	}
	return false
}

// refuses says whether dbx has c, or a digest of it, or one that may have issued it. Not
// every firmware asks who issued what it starts, and by which algorithm; where it may, or
// where what is in dbx cannot be read, the answer is yes.
func (d Database) refuses(c *x509.Certificate) bool {
	return d.hasCert(c) ||
		slices.ContainsFunc(d.Certs, func(t *x509.Certificate) bool { return mayHaveIssued(t, c) }) ||
		slices.ContainsFunc(d.unread, func(t []byte) bool { return bytes.Contains(t, c.RawIssuer) }) ||
		slices.ContainsFunc(d.signed, func(digest []byte) bool { return bytes.Equal(digest, digestLike(digest, c.RawTBSCertificate)) })
}

// digestLike is the digest of b by the hash whose digests are as long as that one.
func digestLike(digest, b []byte) []byte {
	switch len(digest) {
	case sha256.Size:
		s := sha256.Sum256(b)
		return s[:]
	case sha512.Size384:
		s := sha512.Sum384(b)
		return s[:]
	default:
		s := sha512.Sum512(b)
		return s[:]
	}
}

// mayHaveIssued is false only if it is certain: by name, or because the signature is
// another key's. Whether by may issue certificates is not asked.
func mayHaveIssued(by, c *x509.Certificate) bool {
	if !bytes.Equal(by.RawSubject, c.RawIssuer) {
		return false
	}
	err := by.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	var insecure x509.InsecureAlgorithmError
	return err == nil || errors.Is(err, x509.ErrUnsupportedAlgorithm) || errors.As(err, &insecure)
}

func issued(by, c *x509.Certificate) bool {
	return bytes.Equal(by.RawSubject, c.RawIssuer) && by.IsCA && c.CheckSignatureFrom(by) == nil
}
