package cmp

import "crypto"

// CertRequest is a CertReqMsg of CRMF (RFC 4211): one request with its proof of possession.
type CertRequest struct {
	ID       int64
	Template Template
	Old      *CertID // control oldCertID, in KUR

	raw       []byte // DER of CertRequest, which the proof signs
	algorithm []byte
	signature []byte
}

// Template is what a CertTemplate may ask for here. Everything else in it is refused,
// but version, times and issuer, which are ignored: the CA decides those.
type Template struct {
	Issuer     []byte // DER Name, in RR
	Serial     []byte // content of the DER INTEGER, in RR
	Subject    []byte // DER Name; nil for none
	PublicKey  []byte // DER SubjectPublicKeyInfo
	Extensions []Extension
}

// Extension is one certificate extension; unlike pkix.Extension it can hold any OID.
type Extension struct {
	ID       OID
	Critical bool
	Value    []byte
}

// NewCertRequest builds a request and signs it with the key that is to be certified;
// t.PublicKey is set from key.
func NewCertRequest(id int64, t Template, old *CertID, key crypto.Signer) (CertRequest, error) {
	panic("not yet")
}

// VerifyPOP checks the signature over the request by the key it asks a certificate
// for. A request that proves possession otherwise, or not at all, is ErrPOP.
func (r CertRequest) VerifyPOP() error { panic("not yet") }

// URIs returns the URIs of the subjectAltName asked for.
func (t Template) URIs() ([]string, error) { panic("not yet") }
