package cmp

// OID is the content of a DER object identifier, compared as bytes: types below 2.25 have
// arcs too large for encoding/asn1.
type OID string

// oid encodes arcs; the first two must be below 3 and 40.
func oid(first, second uint8, rest ...uint32) OID {
	out := []byte{first*40 + second}
	for _, v := range rest {
		var digits []byte
		for more := byte(0); ; more = 0x80 {
			digits = append([]byte{byte(v&0x7f) | more}, digits...)
			if v >>= 7; v == 0 {
				break
			}
		}
		out = append(out, digits...)
	}
	return OID(out)
}

// private is 2.25.262430574215306847117840225743480517917, a UUID drawn for this project
// (ITU-T X.667), the root of its information types. Never part of a certificate.
const private = OID("i\x83\x8a\xee\xa5\x91\xaa\xc9\xe2\xbb\x9d\x9d\xa4\x95\xc7\xc8\xca\xfd\xea\x1d")

// Information types (RFC 9810, appendix F), and our own; functions of this package build
// and read them.
var (
	IDCACerts         = oid(1, 3, 6, 1, 5, 5, 7, 4, 17)
	IDImplicitConfirm = oid(1, 3, 6, 1, 5, 5, 7, 4, 13)
	IDConfirmWait     = oid(1, 3, 6, 1, 5, 5, 7, 4, 14)
	IDWelcome         = private + "\x01" // UTF8String, Welcome as JSON
	IDSettings        = private + "\x02" // UTF8String, Settings as JSON
	IDExporter        = private + "\x03" // OCTET STRING, RFC 9266 tls-exporter
	IDProof           = private + "\x04" // SEQUENCE{UTF8String key ID, OCTET STRING}
)

var (
	idCommonName = oid(2, 5, 4, 3)
	idAltName    = oid(2, 5, 29, 17)
	idReason     = oid(2, 5, 29, 21)
	idOldCertID  = oid(1, 3, 6, 1, 5, 5, 7, 5, 1, 5)

	idPasswordBasedMAC = oid(1, 2, 840, 113533, 7, 66, 13)
	idSHA256           = oid(2, 16, 840, 1, 101, 3, 4, 2, 1)
	idSHA384           = oid(2, 16, 840, 1, 101, 3, 4, 2, 2)
	idSHA512           = oid(2, 16, 840, 1, 101, 3, 4, 2, 3)
	idHMACSHA1         = oid(1, 2, 840, 113549, 2, 7)
	idHMACSHA1IPsec    = oid(1, 3, 6, 1, 5, 5, 8, 1, 2)
	idHMACSHA256       = oid(1, 2, 840, 113549, 2, 9)
	idHMACSHA384       = oid(1, 2, 840, 113549, 2, 10)
	idHMACSHA512       = oid(1, 2, 840, 113549, 2, 11)

	idECDSASHA256 = oid(1, 2, 840, 10045, 4, 3, 2)
	idECDSASHA384 = oid(1, 2, 840, 10045, 4, 3, 3)
	idECDSASHA512 = oid(1, 2, 840, 10045, 4, 3, 4)
	idRSASHA256   = oid(1, 2, 840, 113549, 1, 1, 11)
	idRSASHA384   = oid(1, 2, 840, 113549, 1, 1, 12)
	idRSASHA512   = oid(1, 2, 840, 113549, 1, 1, 13)
	idEd25519     = oid(1, 3, 101, 112)
)
