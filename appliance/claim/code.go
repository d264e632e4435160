package claim

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"lazaret/enroll/code"
)

const (
	codeSymbols = 20 // of 5 random bits
	codeGroup   = 3
)

// Code is what the machine's screen shows while it is nobody's: 20 random symbols and a
// check symbol. Printed with fmt or slog, or marshalled, it shows nothing; String returns it.
type Code struct{ text string }

// DrawCode makes a new code of 100 random bits.
func DrawCode() Code {
	var b [codeSymbols]byte
	rand.Read(b[:])
	return Code{code.Checked(b[:])}
}

// ParseCode reads what a person typed, in either case, with any dashes and spaces, O for 0,
// I or L for 1. An error says what is wrong with it, and never quotes it.
func ParseCode(text string) (Code, error) {
	s, err := code.ParseChecked(text, codeSymbols)
	if err != nil {
		// code's own sentence speaks of enrollment, which this is not.
		return Code{}, fmt.Errorf("not a claim code%s", strings.TrimPrefix(err.Error(), code.ErrCode.Error()))
	}
	return Code{s}, nil
}

// IsZero reports whether there is no code.
func (c Code) IsZero() bool { return c.text == "" }

// String returns the code in groups of three, for the screen.
func (c Code) String() string {
	var groups []string
	for s := c.text; s != ""; s = s[codeGroup:] {
		groups = append(groups, s[:codeGroup])
	}
	return strings.Join(groups, "-")
}

// Format implements fmt.Formatter: whatever the verb, the code is not shown.
func (c Code) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "claim code (not shown)") }

// LogValue implements slog.LogValuer without the code.
func (c Code) LogValue() slog.Value { return slog.StringValue("claim code (not shown)") }

// MarshalText implements encoding.TextMarshaler without the code.
func (c Code) MarshalText() ([]byte, error) { return []byte("claim code (not shown)"), nil }
