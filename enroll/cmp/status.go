package cmp

import (
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/crypto/cryptobyte/asn1"
)

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

var statusNames = [...]string{"accepted", "grantedWithMods", "rejection", "waiting",
	"revocationWarning", "revocationNotification", "keyUpdateWarning"}

// String returns the name RFC 9810 gives the status.
func (s Status) String() string {
	if s < 0 || int(s) >= len(statusNames) {
		return fmt.Sprintf("status %d", int(s))
	}
	return statusNames[s]
}

// Failure is a set of PKIFailureInfo bits (RFC 9810, section 5.2.3): bit n is 1<<n.
type Failure uint32

const (
	BadAlg              Failure = 1 << 0
	BadMessageCheck     Failure = 1 << 1
	BadRequest          Failure = 1 << 2
	BadTime             Failure = 1 << 3
	BadCertID           Failure = 1 << 4
	BadDataFormat       Failure = 1 << 5
	WrongAuthority      Failure = 1 << 6
	IncorrectData       Failure = 1 << 7
	MissingTimeStamp    Failure = 1 << 8
	BadPOP              Failure = 1 << 9
	CertRevoked         Failure = 1 << 10
	CertConfirmed       Failure = 1 << 11
	WrongIntegrity      Failure = 1 << 12
	BadRecipientNonce   Failure = 1 << 13
	TimeNotAvailable    Failure = 1 << 14
	UnacceptedPolicy    Failure = 1 << 15
	UnacceptedExtension Failure = 1 << 16
	AddInfoNotAvailable Failure = 1 << 17
	BadSenderNonce      Failure = 1 << 18
	BadCertTemplate     Failure = 1 << 19
	SignerNotTrusted    Failure = 1 << 20
	TransactionIDInUse  Failure = 1 << 21
	UnsupportedVersion  Failure = 1 << 22
	NotAuthorized       Failure = 1 << 23
	SystemUnavail       Failure = 1 << 24
	SystemFailure       Failure = 1 << 25
	DuplicateCertReq    Failure = 1 << 26
)

var failureNames = [...]string{"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId",
	"badDataFormat", "wrongAuthority", "incorrectData", "missingTimeStamp", "badPOP", "certRevoked",
	"certConfirmed", "wrongIntegrity", "badRecipientNonce", "timeNotAvailable", "unacceptedPolicy",
	"unacceptedExtension", "addInfoNotAvailable", "badSenderNonce", "badCertTemplate",
	"signerNotTrusted", "transactionIdInUse", "unsupportedVersion", "notAuthorized",
	"systemUnavail", "systemFailure", "duplicateCertReq"}

// String returns the names RFC 9810 gives the bits, or the empty string for none.
func (f Failure) String() string {
	var out []string
	for i := range 32 {
		if f&(1<<i) == 0 {
			continue
		}
		if i < len(failureNames) {
			out = append(out, failureNames[i])
		} else {
			out = append(out, fmt.Sprintf("bit %d", i))
		}
	}
	return strings.Join(out, " ")
}

// StatusInfo is a PKIStatusInfo. As an error it reads "rejection (badPOP): text".
type StatusInfo struct {
	Status Status
	Text   []string
	Fail   Failure // zero for none
}

// Error implements error; what a StatusInfo means, its reader decides.
func (s StatusInfo) Error() string {
	out := s.Status.String()
	if s.Fail != 0 {
		out += " (" + s.Fail.String() + ")"
	}
	if len(s.Text) > 0 {
		out += fmt.Sprintf(": %.200q", strings.Join(s.Text, "; "))
	}
	return out
}

// failure reads a BIT STRING of named bits, first bit first.
func (r *reader) failure() Failure {
	b := r.bytes(asn1.BIT_STRING, "failInfo")
	if len(b) == 0 || len(b) > 5 {
		r.fail("failInfo")
		return 0
	}
	var f Failure
	for i, v := range b[1:] {
		f |= Failure(bits.Reverse8(v)) << (8 * i)
	}
	if n := len(b) - 1; n > 0 && b[n]&(1<<b[0]) == 0 { // X.690, 11.2.2: no trailing zero bits
		r.fail("failInfo is not DER")
	}
	return f
}

func (f Failure) add(b *builder) {
	b.AddASN1(asn1.BIT_STRING, func(b *builder) {
		n := bits.Len32(uint32(f))
		b.AddUint8(uint8((8 - n%8) % 8))
		for ; n > 0; n, f = n-8, f>>8 {
			b.AddUint8(bits.Reverse8(uint8(f)))
		}
	})
}
