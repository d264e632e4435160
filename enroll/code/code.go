// Package code is the one-time password as a person types it: 25 Crockford base-32
// symbols, of which 8 are a reference, 16 the secret and one a check symbol. It draws
// and reads codes; it keeps none, and knows no message that carries one.
package code

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

const (
	referenceLen = 8
	secretLen    = 16
	codeLen      = referenceLen + secretLen + 1
	groupLen     = 5

	alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ" // Crockford: no I, L, O, U
)

// ErrCode reports text that is no code. It never quotes what was typed.
var ErrCode = errors.New("not an enrollment code")

// Code is one one-time password. Printed with fmt or slog, or marshalled, it shows the
// reference alone; String returns the whole.
type Code struct {
	Reference string // 8 symbols; names the request, is the CMP senderKID, not secret
	Secret    string // 16 symbols; their ASCII is the MAC's secret
}

// Draw makes a code from random, which must be a cryptographic source such as
// crypto/rand.Reader. The secret holds 80 random bits, drawn again until two letters and
// two digits are in it (DISA V-24970).
func Draw(random io.Reader) (Code, error) {
	var b [referenceLen + secretLen]byte
	if _, err := io.ReadFull(random, b[:referenceLen]); err != nil {
		return Code{}, fmt.Errorf("drawing reference: %w", err)
	}
	c := Code{Reference: symbols(b[:referenceLen])}
	for !mixed(c.Secret) {
		if _, err := io.ReadFull(random, b[referenceLen:]); err != nil {
			return Code{}, fmt.Errorf("drawing secret: %w", err)
		}
		c.Secret = symbols(b[referenceLen:])
	}
	return c, nil
}

// symbols turns each byte's low five bits into a symbol; 32 divides 256, so no symbol
// is likelier than another.
func symbols(random []byte) string {
	out := make([]byte, len(random))
	for i, b := range random {
		out[i] = alphabet[b&31]
	}
	return string(out)
}

func mixed(secret string) bool {
	digits := 0
	for _, r := range secret {
		if r <= '9' {
			digits++
		}
	}
	return digits >= 2 && len(secret)-digits >= 2
}

// Parse reads what a person typed: in either case, with any dashes and spaces, O for 0,
// I or L for 1. Errors are ErrCode with the place of the fault, and never show the secret.
func Parse(text string) (Code, error) {
	values, err := read(text, codeLen, check)
	if err != nil {
		return Code{}, err
	}
	s := symbols(values)
	c := Code{Reference: s[:referenceLen], Secret: s[referenceLen : codeLen-1]}
	if !mixed(c.Secret) {
		return Code{}, fmt.Errorf("%w: no code has fewer than two letters or two digits in its secret part", ErrCode)
	}
	return c, nil
}

var (
	errSymbol = errors.New("is not a letter or digit of the alphabet")
	errU      = errors.New("is U, which no code contains (V, perhaps?)")
)

func value(r rune) (byte, error) {
	switch r {
	case 'O', 'o':
		r = '0'
	case 'I', 'i', 'L', 'l':
		r = '1'
	case 'U', 'u':
		return 0, errU
	}
	if r >= 'a' && r <= 'z' {
		r -= 'a' - 'A'
	}
	i := strings.IndexRune(alphabet, r)
	if i < 0 {
		return 0, errSymbol
	}
	return byte(i), nil
}

// check is the sum of alpha^i * v_i over GF(32) = GF(2)[x]/(x^5+x^2+1), alpha = x. alpha
// has order 31, above the 24 places, so one wrong symbol always shows, and so does every swap
// of two but one: the check symbol's own weight is 1, as the first symbol's is, and nobody who
// types swaps the first with the last. Weights that begin at alpha, as shifted has them, would
// show that too, but agents in the field would refuse the codes of newer gateways for it.
func check(values []byte) byte {
	var sum byte
	for i := len(values) - 1; i >= 0; i-- { // Horner's rule
		sum <<= 1
		if sum&32 != 0 {
			sum ^= 0b100101
		}
		sum ^= values[i]
	}
	return sum
}

// String returns the whole code, secret included, as XXXXX-XXXXX-XXXXX-XXXXX-XXXXX. It
// is for the person the code is meant for; a Code that Parse or Draw did not make may
// give the empty string.
func (c Code) String() string {
	if len(c.Reference) != referenceLen || len(c.Secret) != secretLen {
		return ""
	}
	var values []byte
	for _, r := range c.Reference + c.Secret {
		v, err := value(r)
		if err != nil {
			return ""
		}
		values = append(values, v)
	}
	s := symbols(append(values, check(values)))
	var groups []string
	for ; s != ""; s = s[groupLen:] {
		groups = append(groups, s[:groupLen])
	}
	return strings.Join(groups, "-")
}

func (c Code) redacted() string { return "code " + c.Reference + " (secret not shown)" }

// Format implements fmt.Formatter: whatever the verb, the secret is not shown.
func (c Code) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.redacted()) }

// LogValue implements slog.LogValuer without the secret.
func (c Code) LogValue() slog.Value { return slog.StringValue(c.redacted()) }

// MarshalText implements encoding.TextMarshaler without the secret, so that a record
// that holds a Code by mistake does not write it.
func (c Code) MarshalText() ([]byte, error) { return []byte(c.redacted()), nil }
