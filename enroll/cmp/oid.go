package cmp

// OID is the content of a DER object identifier, compared as bytes: types below 2.25 have
// arcs too large for encoding/asn1.
type OID string

// private is 2.25.262430574215306847117840225743480517917, a UUID drawn for this project
// (ITU-T X.667), the root of its information types. Never part of a certificate.
const private = OID("i\x83\x8a\xee\xa5\x91\xaa\xc9\xe2\xbb\x9d\x9d\xa4\x95\xc7\xc8\xca\xfd\xea\x1d")

// Where identifiers begin.
const (
	arcX500   = OID("\x55")                             // 2.5
	arcPKIX   = OID("\x2b\x06\x01\x05\x05\x07")         // 1.3.6.1.5.5.7
	arcRSADSI = OID("\x2a\x86\x48\x86\xf7\x0d")         // 1.2.840.113549
	arcX962   = OID("\x2a\x86\x48\xce\x3d")             // 1.2.840.10045
	arcDigest = OID("\x60\x86\x48\x01\x65\x03\x04\x02") // 2.16.840.1.101.3.4.2
)

// Information types (RFC 9810, appendix F), and our own; functions of this package build
// and read them.
const (
	IDCACerts         = arcPKIX + "\x04\x11"
	IDImplicitConfirm = arcPKIX + "\x04\x0d"
	IDConfirmWait     = arcPKIX + "\x04\x0e"
	IDWelcome         = private + "\x01" // UTF8String, Welcome as JSON
	IDSettings        = private + "\x02" // UTF8String, Settings as JSON
	IDExporter        = private + "\x03" // OCTET STRING, RFC 9266 tls-exporter
	IDProof           = private + "\x04" // SEQUENCE{UTF8String key ID, OCTET STRING}
)

const (
	idCommonName = arcX500 + "\x04\x03"
	idAltName    = arcX500 + "\x1d\x11"
	idReason     = arcX500 + "\x1d\x15"
	idOldCertID  = arcPKIX + "\x05\x01\x05"

	idPasswordBasedMAC = OID("\x2a\x86\x48\x86\xf6\x7d\x07\x42\x0d") // 1.2.840.113533.7.66.13
	idSHA256           = arcDigest + "\x01"
	idSHA384           = arcDigest + "\x02"
	idSHA512           = arcDigest + "\x03"
	idHMACSHA1         = arcRSADSI + "\x02\x07"
	idHMACSHA1IPsec    = OID("\x2b\x06\x01\x05\x05\x08\x01\x02") // 1.3.6.1.5.5.8.1.2
	idHMACSHA256       = arcRSADSI + "\x02\x09"
	idHMACSHA384       = arcRSADSI + "\x02\x0a"
	idHMACSHA512       = arcRSADSI + "\x02\x0b"

	idECDSASHA256 = arcX962 + "\x04\x03\x02"
	idECDSASHA384 = arcX962 + "\x04\x03\x03"
	idECDSASHA512 = arcX962 + "\x04\x03\x04"
	idRSASHA256   = arcRSADSI + "\x01\x01\x0b"
	idRSASHA384   = arcRSADSI + "\x01\x01\x0c"
	idRSASHA512   = arcRSADSI + "\x01\x01\x0d"
	idEd25519     = OID("\x2b\x65\x70") // 1.3.101.112
)
