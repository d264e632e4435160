package cmp

import "time"

// Kind is the body of a message, by its tag in PKIBody (RFC 9810, section 5.1.2).
type Kind uint8

const (
	IR       Kind = 0 // initialization request, CRMF
	IP       Kind = 1
	CR       Kind = 2 // certification request, CRMF
	CP       Kind = 3
	P10CR    Kind = 4 // certification request, PKCS#10
	KUR      Kind = 7 // key update request
	KUP      Kind = 8
	RR       Kind = 11 // revocation request
	RP       Kind = 12
	PKIConf  Kind = 19
	GenM     Kind = 21
	GenP     Kind = 22
	Error    Kind = 23
	CertConf Kind = 24
	PollReq  Kind = 25
	PollRep  Kind = 26
)

// Message is one PKIMessage. Build it, protect it last (ProtectMAC or ProtectSignature),
// then Marshal it. A message that Parse returned is for reading.
type Message struct {
	Header     Header
	Body       Body
	ExtraCerts [][]byte // DER; outside the protection, so never trusted for being there
	Protection []byte   // MAC or signature; nil without

	protected []byte // header and body as received or as protected
}

// Header is a PKIHeader (RFC 9810, section 5.1.1).
type Header struct {
	Version       int         // 2 or 3; zero is built as 2
	Sender        GeneralName // nil is built as the NULL-DN
	Recipient     GeneralName
	Time          time.Time // messageTime, to the second; zero for none
	Algorithm     []byte    // DER of protectionAlg; set by ProtectMAC and ProtectSignature
	SenderKID     []byte    // the OTP's reference, or a subject key identifier
	RecipKID      []byte
	TransactionID []byte
	SenderNonce   []byte
	RecipNonce    []byte
	FreeText      []string
	GeneralInfo   []Info
}

// GeneralName is the DER of one GeneralName (RFC 5280).
type GeneralName []byte

// Info is one InfoTypeAndValue. Value is DER, or nil for none.
type Info struct {
	Type  OID
	Value []byte
}

// Body is a PKIBody: Kind says which of the other fields counts.
type Body struct {
	Kind        Kind
	Requests    []CertRequest // IR, CR, KUR
	PKCS10      []byte        // P10CR: DER
	CAPubs      [][]byte      // IP, CP, KUP: DER certificates
	Responses   []CertResponse
	Infos       []Info       // GenM, GenP
	Statuses    []CertStatus // CertConf; empty refuses every certificate
	Error       ErrorContent
	Revocations []Revocation // RR
	Revoked     []StatusInfo // RP
	RevokedIDs  []CertID     // RP, optional
	Polls       []Poll       // PollReq, PollRep
}

// CertResponse answers one request (RFC 9810, section 5.3.4).
type CertResponse struct {
	RequestID   int64 // the request's; -1 answers P10CR
	Status      StatusInfo
	Certificate []byte // DER; nil unless accepted
}

// CertStatus confirms or refuses one certificate (RFC 9810, section 5.3.18).
type CertStatus struct {
	Hash      []byte
	RequestID int64
	Status    *StatusInfo // nil: accepted
	HashAlg   []byte      // DER of AlgorithmIdentifier; nil: that of the certificate's signature
}

// ErrorContent is the body of an Error message.
type ErrorContent struct {
	Status  StatusInfo
	Code    int64
	Details []string
}

// Poll asks (only RequestID counts), or says when to ask again (RFC 9810, section 5.3.22).
type Poll struct {
	RequestID int64
	After     time.Duration // in seconds on the wire
	Reason    []string
}
