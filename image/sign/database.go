package sign

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"slices"
)

// Database is what firmware trusts (its variable db), or refuses (dbx).
type Database struct {
	Certs  []*x509.Certificate
	Hashes [][sha256.Size]byte // Authenticode digests of programs
}

// Kinds of EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1): EFI_CERT_X509_GUID and
// EFI_CERT_SHA256_GUID, as they are stored.
var (
	kindX509   = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	kindSHA256 = [16]byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
)

// ParseDatabase reads the value of db or dbx: lists of signatures. What is of another kind,
// or a certificate that cannot be read, is passed over; it counts for nothing here.
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
	switch {
	case kind == kindX509:
		if c, err := x509.ParseCertificate(data); err == nil {
			d.Certs = append(d.Certs, c)
		}
	case kind == kindSHA256 && len(data) == sha256.Size:
		d.Hashes = append(d.Hashes, [sha256.Size]byte(data))
	}
}

func (d Database) hasHash(h [sha256.Size]byte) bool { return slices.Contains(d.Hashes, h) }

func (d Database) hasCert(c *x509.Certificate) bool {
	return slices.ContainsFunc(d.Certs, func(t *x509.Certificate) bool { return bytes.Equal(t.Raw, c.Raw) })
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

func issued(by, c *x509.Certificate) bool {
	return bytes.Equal(by.RawSubject, c.RawIssuer) && by.IsCA && c.CheckSignatureFrom(by) == nil
}
