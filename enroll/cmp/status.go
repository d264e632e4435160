package cmp

// Status is a PKIStatus (RFC 9810, section 5.2.3).
type Status int

const (
	Accepted               Status = 0
	GrantedWithMods        Status = 1
	Rejection              Status = 2
	Waiting                Status = 3
	RevocationWarning      Status = 4
	RevocationNotification Status = 5
	KeyUpdateWarning       Status = 6
)

// Failure is a set of PKIFailureInfo bits (RFC 9810, section 5.2.3).
type Failure uint32

const (
	BadAlg Failure = 1 << iota
	BadMessageCheck
	BadRequest
	BadTime
	BadCertID
	BadDataFormat
	WrongAuthority
	IncorrectData
	MissingTimeStamp
	BadPOP
	CertRevoked
	CertConfirmed
	WrongIntegrity
	BadRecipientNonce
	TimeNotAvailable
	UnacceptedPolicy
	UnacceptedExtension
	AddInfoNotAvailable
	BadSenderNonce
	BadCertTemplate
	SignerNotTrusted
	TransactionIDInUse
	UnsupportedVersion
	NotAuthorized
	SystemUnavail
	SystemFailure
	DuplicateCertReq
)

// StatusInfo is a PKIStatusInfo. As an error it reads "rejection: badPOP: text".
type StatusInfo struct {
	Status Status
	Text   []string
	Fail   Failure // zero for none
}
