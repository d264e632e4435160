package sign

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	encoding "encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

var errUnsigned = errors.New("it is not signed")

// Verify says whether firmware that trusts db, and not what is in dbx, would start an EFI
// program (UEFI 2.10, section 32.5.3.3): nil, or why not. It is as strict as the strictest
// firmware: what dbx has against any of its signatures counts against the program, whoever
// else signed it, and a program with a signature of another kind than Sign's is refused,
// since nobody here can say what dbx has against that.
func Verify(pe []byte, db, dbx Database) error {
	p, certificates, err := parseSigned(pe)
	if errors.Is(err, errUnsigned) {
		p, err = parse(padded(pe))
	}
	if err != nil {
		return err
	}
	if dbx.names(p) {
		return errors.New("the firmware has it among those that it never starts")
	}
	digest := p.digest()
	starts := db.hasHash(digest)
	err = errUnsigned
	for len(certificates) > 0 {
		var one []byte
		if one, certificates, err = nextCertificate(certificates); err != nil {
			return err
		}
		m, e := readSigned(one)
		if e != nil {
			return fmt.Errorf("its signature: %w", e)
		}
		if e := m.refused(db, dbx); e != nil {
			return e
		}
		if err = m.verify(digest, db); err == nil {
			starts = true
		}
	}
	if starts {
		return nil
	}
	return err
}

// nextCertificate parts a WIN_CERTIFICATE from those behind it.
func nextCertificate(table []byte) (signature, rest []byte, err error) {
	le := binary.LittleEndian
	if len(table) < 8 {
		return nil, nil, errors.New("its certificate table is cut off")
	}
	length := int64(le.Uint32(table))
	end := (length + 7) / 8 * 8 // firmware wants the last one filled up, too
	if length < 8 || end > int64(len(table)) {
		return nil, nil, errors.New("its certificate table is malformed")
	}
	if le.Uint16(table[4:]) != 0x0200 || le.Uint16(table[6:]) != 0x0002 {
		return nil, nil, errors.New("it is signed in another way than firmware knows")
	}
	return table[8:length], table[end:], nil
}

// refused says what dbx has against a signature: against any certificate in it, or of db
// that issued one of those.
func (m message) refused(db, dbx Database) error {
	all := append([]*x509.Certificate{m.signer}, m.others...)
	for i := 0; i < len(all); i++ {
		if dbx.refuses(all[i]) {
			return fmt.Errorf("the firmware never starts what %q has signed", all[i].Subject.CommonName)
		}
		for _, t := range db.Certs {
			if issued(t, all[i]) && !slices.ContainsFunc(all, t.Equal) {
				all = append(all, t)
			}
		}
	}
	return nil
}

// verify says whether it is a signature over a program with that digest, by whom db trusts.
func (m message) verify(digest [sha256.Size]byte, db Database) error {
	want, err := indirect(digest)
	if err != nil {
		return err
	}
	if !bytes.Equal(m.content[len(m.content)-sha256.Size:], want[len(want)-sha256.Size:]) {
		return errors.New("it was changed after it was signed")
	}
	attributes, err := attributesOf(m.content)
	if err != nil {
		return err
	}
	// The message digest stands in the attributes, which the signature is over. Others may be
	// there too, like the time; they are signed as they stand.
	if !m.holdsDigest(attributes) {
		return errors.New("its signature is over something else")
	}
	if err := m.signer.CheckSignature(x509.SHA256WithRSA, m.attributes, m.signature); err != nil {
		return errors.New("its signature is wrong")
	}
	if !db.vouches(m.signer, m.others) {
		return fmt.Errorf("the firmware does not know who signed it (%q)", m.signer.Subject.CommonName)
	}
	return nil
}

// message is what of a PKCS #7 SignedData (RFC 2315, section 9) Authenticode has.
type message struct {
	content    []byte // SpcIndirectDataContent
	attributes []byte // as they are signed: a SET
	signature  []byte
	signer     *x509.Certificate
	others     []*x509.Certificate
}

// holdsDigest says whether the attributes name content type and digest of the content:
// each of the two that expected holds is one of them, byte for byte.
func (m message) holdsDigest(expected []byte) bool {
	has := members(m.attributes)
	for _, e := range members(expected) {
		if !slices.ContainsFunc(has, func(a []byte) bool { return bytes.Equal(a, e) }) {
			return false
		}
	}
	return len(has) >= 2
}

// members are those of a SET of SEQUENCEs, each as it stands.
func members(set []byte) [][]byte {
	s := cryptobyte.String(set)
	var body cryptobyte.String
	if !s.ReadASN1(&body, asn1.SET) {
		return nil
	}
	var out [][]byte
	for !body.Empty() {
		var one cryptobyte.String
		if !body.ReadASN1Element(&one, asn1.SEQUENCE) {
			return nil
		}
		out = append(out, one)
	}
	return out
}

var errMalformed = errors.New("it is malformed")

// readSigned takes a SignedData with one signer, and RSA and SHA-256, apart.
func readSigned(der []byte) (message, error) {
	outer := cryptobyte.String(der)
	var info, wrapped, body cryptobyte.String
	var kind encoding.ObjectIdentifier
	if !outer.ReadASN1(&info, asn1.SEQUENCE) || !info.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidSignedData) ||
		!info.ReadASN1(&wrapped, explicit(0)) || !wrapped.ReadASN1(&body, asn1.SEQUENCE) {
		return message{}, errMalformed
	}
	var m message
	var version int
	var algorithms, content, of, certs, signers cryptobyte.String
	if !body.ReadASN1Integer(&version) || !body.ReadASN1(&algorithms, asn1.SET) || !body.ReadASN1(&content, asn1.SEQUENCE) ||
		!content.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidIndirect) || !content.ReadASN1(&of, explicit(0)) ||
		!body.ReadASN1(&certs, explicit(0)) || !body.SkipOptionalASN1(explicit(1)) || !body.ReadASN1(&signers, asn1.SET) {
		return message{}, errMalformed
	}
	if m.content = of; len(m.content) < sha256.Size || !endsInDigest(m.content) {
		return message{}, errors.New("it is not over a SHA-256 digest")
	}
	return m, m.readSigner(signers, certs)
}

// endsInDigest says whether SpcIndirectDataContent ends in a SHA-256 DigestInfo.
func endsInDigest(content []byte) bool {
	s := cryptobyte.String(content)
	var body, data, info, algorithm, digest cryptobyte.String
	var id encoding.ObjectIdentifier
	return s.ReadASN1(&body, asn1.SEQUENCE) && s.Empty() && body.ReadASN1(&data, asn1.SEQUENCE) && body.ReadASN1(&info, asn1.SEQUENCE) && body.Empty() &&
		info.ReadASN1(&algorithm, asn1.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(&id) && id.Equal(oidSHA256) &&
		info.ReadASN1(&digest, asn1.OCTET_STRING) && info.Empty() && len(digest) == sha256.Size
}

// readSigner takes the one SignerInfo, and finds whose certificate it names.
func (m *message) readSigner(signers, certs cryptobyte.String) error {
	var one, name, issuer, hash, attributes, algorithm, signature cryptobyte.String
	var version int
	var id encoding.ObjectIdentifier
	if !signers.ReadASN1(&one, asn1.SEQUENCE) || !signers.Empty() || !one.ReadASN1Integer(&version) || !one.ReadASN1(&name, asn1.SEQUENCE) ||
		!name.ReadASN1Element(&issuer, asn1.SEQUENCE) || !one.ReadASN1(&hash, asn1.SEQUENCE) || !hash.ReadASN1ObjectIdentifier(&id) ||
		!one.ReadASN1Element(&attributes, explicit(0)) || !one.ReadASN1(&algorithm, asn1.SEQUENCE) || !one.ReadASN1(&signature, asn1.OCTET_STRING) {
		return errMalformed
	}
	if !id.Equal(oidSHA256) {
		return errors.New("it is not of SHA-256")
	}
	m.signature = signature
	m.attributes = append([]byte{byte(asn1.SET)}, attributes[1:]...) // signed with that tag (RFC 2315, section 9.3)
	for !certs.Empty() {
		var der cryptobyte.String
		if !certs.ReadASN1Element(&der, asn1.SEQUENCE) {
			return errMalformed
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return errors.New("a certificate in it cannot be read")
		}
		var b cryptobyte.Builder
		b.AddASN1BigInt(c.SerialNumber)
		if serial, err := b.Bytes(); err == nil && m.signer == nil && bytes.Equal(c.RawIssuer, issuer) && bytes.Equal(serial, name) {
			m.signer = c
		} else {
			m.others = append(m.others, c)
		}
	}
	if m.signer == nil {
		return errors.New("the signer's certificate is not there")
	}
	return nil
}
