package claim

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"sync"

	"lazaret/appliance"
	written "lazaret/internal/form"
)

// field is how a fault's sentence begins: with the key it is about.
var field = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([a-z_]+)[a-zA-Z0-9_.\[\]-]*: `) })

// CheckRequest returns all faults of what a request wants made, each under the key of Setup
// that it is about.
func CheckRequest(r Request) []Fault {
	if !r.AdministratorOnly {
		list := Check(r.Setup)
		for _, name := range r.APINames {
			if err := written.Host(name); err != nil {
				list = append(list, Fault{What: fmt.Sprintf("the API cannot be reached at %.80q: %v", name, err)})
			}
		}
		return list
	}
	name := appliance.Setup{Administrator: r.Setup.Administrator}
	if !reflect.DeepEqual(r.Setup, name) {
		return []Fault{{What: "a new administrator changes nothing of the gateway's set-up: give the administrator's name alone"}}
	}
	return faults(name.CheckGiven())
}

// Check returns all faults of a setup, each under the key it is about. None: it can be made.
func Check(s appliance.Setup) []Fault {
	return faults(s.Check())
}

func faults(err error) []Fault {
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
	m := field().FindStringSubmatch(text)
	if m == nil {
		return Fault{What: text}
	}
	what := text
	if whole := m[0]; whole == m[1]+": " {
		what = text[len(whole):]
	}
	return Fault{Field: m[1], What: what}
}
