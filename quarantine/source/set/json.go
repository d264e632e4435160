package set

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"
)

// object reads one JSON object with case-sensitive names, after the whole of it was found to
// be strict.
func object(text []byte) (map[string]json.RawMessage, error) {
	if err := strict(text); err != nil {
		return nil, err
	}
	return members(text)
}

// members reads an object that was found to be strict before.
func members(text []byte) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(text, &m); err != nil || m == nil {
		return nil, errors.New("is no JSON object")
	}
	return m, nil
}

// strict refuses what two readers may understand differently: a name that comes twice in
// one object, text that is no UTF-8, something behind the value; and what is nested too deep.
func strict(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("is no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	type level struct {
		names map[string]bool // nil: a list
		value bool            // a value is next, not a name
	}
	var stack []level
	for {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("is no JSON: %w", err)
		}
		top := len(stack) - 1
		switch delim, isDelim := t.(json.Delim); {
		case isDelim && (delim == '{' || delim == '['):
			if len(stack) == maxDepth {
				return fmt.Errorf("is nested deeper than %d", maxDepth)
			}
			if top >= 0 {
				stack[top].value = false
			}
			l := level{}
			if delim == '{' {
				l.names = map[string]bool{}
			}
			stack = append(stack, l)
		case isDelim:
			stack = stack[:top]
		case top >= 0 && stack[top].names != nil && !stack[top].value:
			name, _ := t.(string)
			if stack[top].names[name] {
				return fmt.Errorf("has the name %.40q twice", name)
			}
			stack[top].names[name], stack[top].value = true, true
		case top >= 0:
			stack[top].value = false
		}
		if len(stack) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("has something behind its end")
	}
	return nil
}

// text reads a string of at most maxText bytes that is not empty.
func text(raw json.RawMessage) (string, error) {
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", errors.New("is no string")
	}
	if *s == "" || len(*s) > maxText {
		return "", fmt.Errorf("has %d bytes, not 1 to %d", len(*s), maxText)
	}
	return *s, nil
}

// lastDate is the end of the year 9999, in seconds.
const lastDate = 253402300800

// numericDate reads a NumericDate (RFC 7519 section 2), down to the microsecond; with
// either, a number too large for seconds is one of milliseconds.
func numericDate(raw json.RawMessage, either bool) (time.Time, error) {
	var n *json.Number
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&n); err != nil || n == nil || len(raw) > 0 && raw[0] == '"' {
		return time.Time{}, errors.New("is no number")
	}
	if whole, err := n.Int64(); err == nil && whole > 0 {
		if either && whole >= millisecondsFrom && whole < lastDate*1000 {
			return time.UnixMilli(whole).UTC(), nil
		}
		if whole < lastDate {
			return time.Unix(whole, 0).UTC(), nil
		}
		return time.Time{}, errors.New("is no time")
	}
	f, err := n.Float64()
	if either && f >= millisecondsFrom {
		f /= 1000
	}
	if err != nil || !(f > 0 && f < lastDate) {
		return time.Time{}, errors.New("is no time")
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*1e6)*1000).UTC(), nil
}
