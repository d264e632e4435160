package servercert

import (
	"fmt"
	"strings"
)

// Fault is one thing that is wrong, and what to do about it.
type Fault struct{ What, Remedy string }

// mostFaults bounds what is told of one file.
const mostFaults = 20

// Faults are all things wrong with a certificate, or with what is asked for.
type Faults []Fault

func (f *Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d fault(s):", len(*f))
	for _, x := range *f {
		b.WriteString("\n  " + x.What + "; " + x.Remedy)
	}
	return b.String()
}

// Is makes every Faults an ErrInvalid.
func (f *Faults) Is(target error) bool { return target == ErrInvalid }

// add notes a fault; what is a format for the arguments.
func (f *Faults) add(what, remedy string, args ...any) {
	if len(*f) == mostFaults {
		return
	}
	*f = append(*f, Fault{fmt.Sprintf(what, args...), remedy})
}

// invalid is one fault.
func invalid(remedy, what string, args ...any) error {
	return &Faults{{fmt.Sprintf(what, args...), remedy}}
}

// err returns f if anything is wrong, else nil.
func (f *Faults) err() error {
	if len(*f) == 0 {
		return nil
	}
	return f
}
