package appliance

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// ParseSetup reads a Setup from YAML or JSON, which have the same keys, and checks it. The
// error is of type Faults and lists everything that is wrong. Documents of more than
// 64 KiB are refused.
func ParseSetup(text []byte) (Setup, error) { return readSetup(text, nil, true) }

// ReadSetup is ParseSetup for a setup that somebody is to complete: what is required may be
// missing. It takes the further keys in also, whose values are strings.
func ReadSetup(text []byte, also map[string]*string) (Setup, error) {
	return readSetup(text, also, false)
}

// ReadKeys reads a document of a few keys whose values are strings; other keys are refused.
// The error is of type Faults.
func ReadKeys(text []byte, keys map[string]*string) error {
	d := &document{lines: make(map[string]int), also: keys}
	var none struct{}
	if top := d.root(fromJSON(text)); top != nil {
		d.decode(top, reflect.ValueOf(&none).Elem(), "")
	}
	return d.sorted()
}

func readSetup(text []byte, also map[string]*string, whole bool) (Setup, error) {
	d := &document{lines: make(map[string]int), also: also}
	var s Setup
	top := d.root(fromJSON(text))
	if top == nil {
		return Setup{}, d.sorted()
	}
	d.decode(top, reflect.ValueOf(&s).Elem(), "")
	s.check(whole, d.reporter())
	if err := d.sorted(); err != nil {
		return Setup{}, err
	}
	return s, nil
}

// fromJSON writes the strings of a JSON document as YAML has them, which knows neither
// "\/" nor surrogates, and leaves its lines as they are. Other documents pass.
func fromJSON(text []byte) []byte {
	if len(text) > maxDocument || !json.Valid(text) {
		return text
	}
	var out []byte
	for i := 0; i < len(text); {
		end := i + 1
		if text[i] == '"' {
			for text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end++
			var word string
			if json.Unmarshal(text[i:end], &word) != nil {
				return text // cannot be: it is valid
			}
			out = strconv.AppendQuote(out, word)
		} else {
			out = append(out, text[i])
		}
		i = end
	}
	return out
}
