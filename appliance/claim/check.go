package claim

import (
	"errors"
	"regexp"

	"lazaret/appliance"
)

// field is how a fault's sentence begins: with the key it is about.
var field = regexp.MustCompile(`^([a-z_]+)[a-zA-Z0-9_.\[\]-]*: `)

// Check returns all faults of a setup, each under the key it is about. None: it can be made.
func Check(s appliance.Setup) []Fault {
	err := s.Check()
	if err == nil {
		return nil
	}
	list, ok := errors.AsType[appliance.Faults](err)
	if !ok {
		return []Fault{{What: err.Error()}}
	}
	var out []Fault
	for _, f := range list {
		out = append(out, FaultOf(f.Text))
	}
	return out
}

// FaultOf makes a fault of a sentence that may begin with a key of Setup and a colon.
func FaultOf(text string) Fault {
	m := field.FindStringSubmatch(text)
	if m == nil {
		return Fault{What: text}
	}
	what := text
	if whole := m[0]; whole == m[1]+": " {
		what = text[len(whole):]
	}
	return Fault{Field: m[1], What: what}
}
