package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"

	"lazaret/internal/form"
	"lazaret/quarantine"
)

// Fault is one thing wrong with a policy set: where, what, and what to write instead.
type Fault struct {
	Rule   string // its name; empty: of the set as a whole
	Index  int    // of the rule, from 0; -1: of the set as a whole
	Field  string // as in the text form, like "expression"
	Line   int    // within the field's value, from 1; 0: not told
	Column int    // from 1; 0: not told
	What   string
	Remedy string

	// At is where the fault stands in a text that was parsed; zero: not known.
	At Position
}

// Position is a place in a text, from 1.
type Position struct{ Line, Column int }

func (f Fault) String() string {
	var b strings.Builder
	if f.At.Line > 0 {
		fmt.Fprintf(&b, "line %d", f.At.Line)
		if f.At.Column > 0 {
			fmt.Fprintf(&b, ", column %d", f.At.Column)
		}
		b.WriteString(": ")
	}
	if f.Index >= 0 {
		fmt.Fprintf(&b, "rule %s: ", cmp.Or(f.Rule, fmt.Sprint(f.Index+1)))
	}
	if f.Field != "" {
		fmt.Fprintf(&b, "%s: ", f.Field)
	}
	if f.At.Line == 0 && f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", f.Line, f.Column)
	}
	b.WriteString(f.What)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Faults are all things wrong with a set. No faults are no error: see Err.
type Faults []Fault

// Err returns the faults as one error, or nil where there are none.
func (f Faults) Err() error {
	all := make([]error, len(f))
	for i, x := range f {
		all[i] = errors.New(x.String())
	}
	return errors.Join(all...)
}

// minEvery is the least check_every that makes sense: devices report every few minutes.
const minEvery = time.Minute

// Check returns everything wrong with a set: its form, and what its expressions mean. A set
// marked stig is held to CheckSTIG too.
func Check(s quarantine.PolicySet) Faults {
	var out Faults
	add := func(i int, field, what, remedy string) {
		f := Fault{Index: i, Field: field, What: what, Remedy: remedy}
		if i >= 0 {
			f.Rule = s.Rules[i].Name
		}
		out = append(out, f)
	}
	if err := s.Check(); err != nil {
		for line := range strings.Lines(err.Error()) {
			add(-1, "", strings.TrimSpace(line), "")
		}
	}
	if len(s.Rules) == 0 && s.Assigned {
		add(-1, "rule", "the set has no rules", "write at least one, or take assigned out")
	}
	for i, r := range s.Rules[:min(len(s.Rules), quarantine.MaxRules)] {
		if r.CheckEvery > 0 && r.CheckEvery < minEvery {
			add(i, "check_every", fmt.Sprintf("is %s", r.CheckEvery), "write at least "+minEvery.String())
		}
		if strings.TrimSpace(r.Expression) == "" {
			add(i, "expression", "is missing", `write what must hold, like disk.encrypted`)
			continue
		}
		out = append(out, checkExpression(i, r)...)
	}
	if s.STIG {
		out = append(out, CheckSTIG(s)...)
	}
	return out
}

// checkExpression compiles one rule and estimates its cost.
func checkExpression(i int, r quarantine.PolicyRule) Faults {
	_, tree, issues, err := program(r.Expression)
	if err == nil {
		if most := costOf(tree).Max; most > maxCost {
			return Faults{{Rule: r.Name, Index: i, Field: "expression", What: fmt.Sprintf("it may take %d steps, and %d at most are done", most, maxCost),
				Remedy: "ask less of long lists and texts, or part it into several rules"}}
		}
		return nil
	}
	var found []*cel.Error
	if issues != nil {
		found = issues.Errors()
	}
	if len(found) == 0 {
		return Faults{{Rule: r.Name, Index: i, Field: "expression", What: firstLine(err.Error())}}
	}
	var out Faults
	for _, e := range found[:min(len(found), 10)] {
		out = append(out, Fault{Rule: r.Name, Index: i, Field: "expression", Line: max(e.Location.Line(), 1), Column: max(e.Location.Column()+1, 1),
			What: firstLine(e.Message), Remedy: hint(e.Message)})
	}
	return out
}

// hint says what to write instead, for mistakes that are made again and again.
func hint(message string) string {
	switch {
	case strings.Contains(message, "undeclared reference to 'now'"):
		return `write how long ago it was: age(os.patched_at) < duration("720h")`
	case strings.Contains(message, "(version, string)"), strings.Contains(message, "(string, version)"):
		return `write the version as version("14.2")`
	case strings.Contains(message, "(duration, string)"), strings.Contains(message, "(age, string)"):
		return `write the time as duration("15m")`
	case strings.Contains(message, "undeclared reference") && !strings.Contains(message, "did you mean"):
		return "see the facts there are: lazaretctl policy facts"
	case strings.Contains(message, "@view"), strings.Contains(message, "'@"):
		return "known() asks for a fact's name and age() for a time"
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// checkNames looks at what the type checker cannot know: names that known() asks for,
// versions, and that the expression's type is bool.
func checkNames(tree *cel.Ast) *cel.Issues {
	native := tree.NativeRep()
	issues := cel.NewIssuesWithSourceInfo(common.NewErrors(tree.Source()), native.SourceInfo())
	if !tree.OutputType().IsExactType(cel.BoolType) {
		issues.ReportErrorAtID(native.Expr().ID(), "the expression is a %s, and a rule must be true or false", typeName(tree.OutputType()))
	}
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case factCall, knownCall:
			if name, ok := literal(call.Args()[1]); !ok {
				issues.ReportErrorAtID(e.ID(), "a fact's name must stand there")
			} else if _, ok := factNamed(name); !ok {
				issues.ReportErrorAtID(e.ID(), "there is no fact %q%s", name, meant(name))
			}
		case "version":
			if text, ok := literal(call.Args()[0]); ok {
				if _, err := ParseVersion(text); err != nil {
					issues.ReportErrorAtID(e.ID(), "%s", err.Error())
				}
			}
		}
	}))
	return issues
}

func typeName(t *cel.Type) string {
	if t.Kind() == 0 {
		return "mixture"
	}
	return t.String()
}

// meant suggests the fact whose name is nearest.
func meant(name string) string {
	var names []string
	for _, f := range vocabulary {
		names = append(names, f.Name)
	}
	best := form.Meant(name, names)
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// Asks are the facts that an expression can look at, by name; none where it does not compile.
func Asks(expression string) []string {
	_, tree, _, err := program(expression)
	if err != nil {
		return nil
	}
	var names []string
	native := tree.NativeRep()
	for _, r := range native.ReferenceMap() {
		if _, ok := factByName[r.Name]; ok {
			names = append(names, r.Name)
		}
	}
	ast.PostOrderVisit(native.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.CallKind && slices.Contains([]string{factCall, knownCall}, e.AsCall().FunctionName()) {
			if name, ok := literal(e.AsCall().Args()[1]); ok {
				names = append(names, name)
			}
		}
	}))
	slices.Sort(names)
	return slices.Compact(names)
}

// Cost is what an evaluation of an expression may take at most, in CEL's units; more than the
// bound where it does not compile.
func Cost(expression string) uint64 {
	_, tree, _, err := program(expression)
	if err != nil {
		return maxCost + 1
	}
	return costOf(tree).Max
}

// costOf bounds what an evaluation takes: texts have at most 256 bytes, lists 64 items.
func costOf(tree *cel.Ast) cost.Estimate {
	env, err := environment()
	if err != nil {
		return cost.Estimate{Max: maxCost + 1}
	}
	c, err := env.EstimateCost(tree, sizes{})
	if err != nil {
		return cost.Estimate{Max: maxCost + 1}
	}
	return c
}

// sizes says how large values get.
type sizes struct{}

func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	if t := n.Type(); t != nil {
		switch {
		case t.Kind() == cel.ListKind:
			return &cost.SizeEstimate{Min: 0, Max: 64}
		case t.IsExactType(versionType), t.IsExactType(ageType), t.IsExactType(factsType):
			return &cost.SizeEstimate{Min: 1, Max: 1}
		}
	}
	if path := n.Path(); len(path) > 0 {
		return &cost.SizeEstimate{Min: 0, Max: 256}
	}
	return nil
}

func (sizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function == factCall {
		return &cost.CallEstimate{CostEstimate: cost.Estimate{Min: 1, Max: 1}, ResultSize: &cost.SizeEstimate{Min: 0, Max: 256}}
	}
	return nil
}
