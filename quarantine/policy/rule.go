package policy

import (
	"fmt"
	"reflect"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/traits"

	"lazaret/quarantine"
)

// rule is a rule that was compiled, or why it could not be.
type rule struct {
	quarantine.PolicyRule
	ref     string // SET/RULE
	digest  string
	program cel.Program
	fault   string // why there is no program
}

// result is how an evaluation ended, the worst first. The zero result is that of a fault.
type result int

const (
	faulty  result = iota // cannot be evaluated: the policy's fault
	broken                // false, whatever is not known
	unclear               // rests on a fact that is missing, stale or unreadable
	holds                 // true, whatever is not known
)

// outcome is what a rule says at one instant.
type outcome struct {
	result result
	on     touch     // the fact that decided, if any
	fault  string    // of faulty
	next   time.Time // earliest instant at which it may be another; zero: never
}

// outcome evaluates the rule at an instant, in the view of the most trusted word on each
// fact and in that of everybody who says something else: the worst counts.
func (r *rule) outcome(v *view, now time.Time) outcome {
	if r.program == nil {
		return outcome{fault: r.fault}
	}
	var differing [8]int
	first := r.evaluate(v, now, nobody)
	others := differing[:0]
	for j := range v.words {
		if v.differs(j) {
			others = append(others, j)
		}
	}
	for _, j := range others {
		o := r.evaluate(v, now, j)
		next := sooner(first.next, o.next)
		if o.worse(first) {
			first = o
		}
		first.next = next
	}
	return first
}

// worse reports whether o is told rather than p: a fault before all, then what is known to
// be bad, then what is not known.
func (o outcome) worse(p outcome) bool {
	return o.result < p.result
}

// evaluate evaluates the rule in one view.
func (r *rule) evaluate(v *view, now time.Time, over int) outcome {
	v.begin(now, r.CheckEvery, over)
	value, _, err := r.program.Eval(v)
	o := outcome{next: v.next()}
	switch got := value.(type) {
	case types.Bool:
		o.result = broken
		if got {
			o.result = holds
		}
		o.on = v.decisive()
		if i := v.rests(); !bool(got) && i >= 0 {
			o.result, o.on = unclear, v.touched[i]
		}
	case *types.Unknown:
		o.result = unclear
		o.on = v.missing(got)
	default:
		o.fault = "it has no value"
	}
	if err != nil {
		o.result, o.fault = faulty, err.Error()
	}
	return o
}

// decisive is the fact looked at last: where && or || end early, it is the one that did it.
func (v *view) decisive() touch {
	for i := len(v.touched) - 1; i >= 0; i-- {
		if v.touched[i].value != nil {
			return v.touched[i]
		}
	}
	if len(v.touched) > 0 {
		return v.touched[len(v.touched)-1]
	}
	return touch{word: nobody}
}

// rests finds a fact that was looked at and is older than the rule allows, or was found
// missing by known(): what is false by it is not known well enough to act on.
func (v *view) rests() int {
	for i := range v.touched {
		if t := &v.touched[i]; t.stale || t.asked && t.value == nil {
			return i
		}
	}
	return nobody
}

// missing is the first fact that an unknown value lacks.
func (v *view) missing(u *types.Unknown) touch {
	for _, id := range u.IDs() {
		if id >= 0 && int(id) < len(v.touched) && v.touched[id].value == nil {
			return v.touched[id]
		}
	}
	return v.decisive()
}

// sooner is the earlier of two instants, where zero is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// maxSteps bounds how far ahead a rule is looked at; a device has a handful of reports, each
// of which ends once.
const maxSteps = 64

// ends is the first instant after now at which a rule that holds, as o says, holds no more,
// or zero where that is not before horizon.
func (r *rule) ends(v *view, o outcome, horizon time.Time) time.Time {
	for range maxSteps {
		if o.next.IsZero() || !horizon.IsZero() && !o.next.Before(horizon) {
			return time.Time{}
		}
		at := o.next
		if o = r.outcome(v, at); o.result != holds {
			return at
		}
	}
	return o.next
}

// say is a value and who said it, for a person.
func (v *view) say(t touch) string {
	if t.word == nobody {
		if list, ok := t.value.(traits.Lister); ok {
			names, _ := list.ConvertToNative(reflect.TypeFor[[]string]())
			return fmt.Sprintf("%s is %q", t.fact.Name, names)
		}
		return fmt.Sprintf("%s is %q", t.fact.Name, t.value)
	}
	w := &v.words[t.word]
	return fmt.Sprintf("%s is %q, as %s reported at %s", t.fact.Name, t.text, w.name, stamp(w.report.At))
}

// lack says why a fact has no value that counts, at the instant of the last evaluation.
func (v *view) lack(t touch, every time.Duration, now time.Time) string {
	if t.bad && t.word != nobody {
		w := &v.words[t.word]
		return fmt.Sprintf("%s is %q, as %s reported at %s, which is no %s", t.fact.Name, t.text, w.name, stamp(w.report.At), t.fact.Type)
	}
	if t.stale && t.word != nobody {
		return fmt.Sprintf("%s, which is older than %s", v.say(t), every)
	}
	for i, say := range v.facts[t.nth].says {
		w := &v.words[i]
		switch {
		case !say.ok:
		case !now.Before(w.until):
			return fmt.Sprintf("%s is not known: %s's report of %s (%q) ran out at %s", t.fact.Name, w.name, stamp(w.report.At), say.text, stamp(w.until))
		case !w.fresh(now, every):
			return fmt.Sprintf("%s is not known well enough: %s's report of %s (%q) is older than %s", t.fact.Name, w.name, stamp(w.report.At), say.text, every)
		default:
			return fmt.Sprintf("%s is not known: %s's report of %s does not count before %s", t.fact.Name, w.name, stamp(w.report.At), stamp(w.from))
		}
	}
	return t.fact.Name + " is not known: nobody who may has told it"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
