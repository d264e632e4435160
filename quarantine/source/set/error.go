package set

import "fmt"

// Code is why a token is refused, as RFC 8935 section 2.4 and RFC 8936 section 2.6 name it.
type Code string

const (
	InvalidRequest       Code = "invalid_request"       // no token that can be read, or one that says what it must not
	InvalidKey           Code = "invalid_key"           // algorithm or key is none that is taken
	InvalidIssuer        Code = "invalid_issuer"        // not the issuer of this stream
	InvalidAudience      Code = "invalid_audience"      // not for us
	AuthenticationFailed Code = "authentication_failed" // no signature, a wrong one, or no credential
	AccessDenied         Code = "access_denied"         // known, and not allowed to send this
)

// Error is a refusal. Its text holds no secret: it is for whoever sent the token.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Text + " (" + string(e.Code) + ")" }

// Refuse makes an *Error.
func Refuse(code Code, format string, args ...any) *Error {
	return &Error{code, fmt.Sprintf(format, args...)}
}
