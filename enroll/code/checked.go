package code

import (
	"fmt"
	"strings"
)

// maxChecked is how many symbols the check symbol protects: one wrong symbol or one swap
// of two shows as long as no two places have the same weight.
const maxChecked = 30

// Checked writes the low five bits of each random byte, 30 at most, as symbols and a check
// symbol behind them, without dashes: the form of codes of other lengths than Code's.
func Checked(random []byte) string {
	values := make([]byte, min(len(random), maxChecked), maxChecked+1)
	for i := range values {
		values[i] = random[i] & 31
	}
	return symbols(append(values, shifted(values)))
}

// shifted is check with weights that begin at alpha, so that the check symbol, whose own
// weight is 1, cannot be swapped with the first one unnoticed.
func shifted(values []byte) byte { return check(append([]byte{0}, values...)) }

// ParseChecked reads what a person typed of a text that Checked made from n bytes, as
// forgiving as Parse, and returns it as Checked wrote it. Errors are as Parse's.
func ParseChecked(text string, n int) (string, error) {
	values, err := read(text, min(n, maxChecked)+1, shifted)
	if err != nil {
		return "", err
	}
	return symbols(values), nil
}

// read returns the values of n symbols, of which the last is the check symbol.
func read(text string, n int, check func([]byte) byte) ([]byte, error) {
	if len(text) > 8*n {
		return nil, fmt.Errorf("%w: far more than %d symbols", ErrCode, n)
	}
	var values []byte
	for _, r := range text {
		if strings.ContainsRune("- \t\r\n", r) {
			continue
		}
		v, err := value(r)
		if err != nil {
			return nil, fmt.Errorf("%w: symbol %d %w", ErrCode, len(values)+1, err)
		}
		values = append(values, v)
	}
	if len(values) != n {
		return nil, fmt.Errorf("%w: it has %d symbols instead of %d", ErrCode, len(values), n)
	}
	if check(values[:n-1]) != values[n-1] {
		return nil, fmt.Errorf("%w: a symbol is wrong, or two stand in the wrong order (check symbol does not match)", ErrCode)
	}
	return values, nil
}
