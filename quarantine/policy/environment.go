package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Bounds of one expression. A fact's text has 256 bytes at most, so what is within them
// takes well under a millisecond.
const (
	MaxSource = 4 << 10 // bytes
	maxNodes  = 1000
	maxDepth  = 50
	maxRegex  = 500    // instructions
	maxCost   = 50_000 // of one evaluation, in CEL's units
)

// Names inside expressions that nobody can type.
const (
	factsIdent = "@facts" // the view that an evaluation looks at
	factCall   = "@fact"  // a member of a family: @fact(@facts, "custom.x")
	knownCall  = "@known"
	ageCall    = "@age"
)

var (
	factsType = cel.ObjectType("@view")
	ageType   = cel.ObjectType("age", traits.ComparerType)
)

// environment is what every rule is compiled in; it is made once.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.StdLib(), cel.ClearMacros(),
		cel.Macros(cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro, cel.FilterMacro,
			cel.GlobalMacro("known", 1, expandKnown), cel.GlobalMacro("age", 1, expandAge), cel.GlobalMacro("has", 1, refuseHas),
			cel.GlobalMacro("custom", 1, family(Custom)), cel.GlobalMacro("fleet_policy", 1, family(FleetPolicy))),
		cel.ParserExpressionSizeLimit(MaxSource), cel.ExpressionNodeLimit(maxNodes), cel.ExpressionNestingDepthLimit(maxDepth),
		cel.ParserRecursionLimit(maxDepth), cel.RegexProgramSizeLimit(maxRegex), cel.DefaultUTCTimeZone(true), cel.EagerlyValidateDeclarations(true),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateRegexProgramSizeLimit(maxRegex), cel.ValidateComprehensionNestingLimit(2)),
		cel.Variable(factsIdent, factsType),
		cel.Function(factCall, cel.Overload("view_fact", []*cel.Type{factsType, cel.StringType}, cel.StringType, cel.BinaryBinding(readFact))),
		cel.Function(knownCall, cel.Overload("view_known", []*cel.Type{factsType, cel.StringType}, cel.BoolType, cel.BinaryBinding(isKnown))),
		cel.Function(ageCall, cel.Overload("view_age", []*cel.Type{factsType, cel.TimestampType}, ageType, cel.BinaryBinding(ageOf))),
		cel.Function("version", cel.Overload("string_to_version", []*cel.Type{cel.StringType}, versionType, cel.UnaryBinding(toVersion))),
	}
	for _, op := range []string{operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals} {
		options = append(options, cel.Function(op,
			cel.Overload(strings.Trim(op, "_")+"_version", []*cel.Type{versionType, versionType}, cel.BoolType),
			cel.Overload(strings.Trim(op, "_")+"_age", []*cel.Type{ageType, cel.DurationType}, cel.BoolType)))
	}
	for _, f := range vocabulary {
		options = append(options, cel.Variable(f.Name, f.Type.celType()))
	}
	return cel.NewCustomEnv(options...)
})

// family expands custom("x") to @fact(@facts, "custom.x").
func family(prefix string) cel.MacroFactory {
	return func(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
		name, ok := literal(args[0])
		if !ok || !member(prefix+name, prefix) {
			return nil, eh.NewError(args[0].ID(), "write the name in quotes, 64 bytes at most with "+prefix+" in front")
		}
		return eh.NewCall(factCall, eh.NewIdent(factsIdent), eh.NewLiteral(types.String(prefix+name))), nil
	}
}

// expandKnown expands known(os.version) to @known(@facts, "os.version").
func expandKnown(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	name, ok := dotted(args[0])
	if !ok {
		return nil, eh.NewError(args[0].ID(), "known() asks for a fact's name, as in known(os.version)")
	}
	return eh.NewCall(knownCall, eh.NewIdent(factsIdent), eh.NewLiteral(types.String(name))), nil
}

// expandAge expands age(x) to @age(@facts, x).
func expandAge(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	return eh.NewCall(ageCall, eh.NewIdent(factsIdent), eh.Copy(args[0])), nil
}

func refuseHas(eh cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	return nil, eh.NewError(args[0].ID(), "has() is for messages: write known(os.version) to ask whether a fact is known")
}

// dotted is the name that an expression consists of: a.b.c, or a member of a family.
func dotted(e ast.Expr) (string, bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent(), true
	case ast.SelectKind:
		s := e.AsSelect()
		head, ok := dotted(s.Operand())
		return head + "." + s.FieldName(), ok && !s.IsTestOnly()
	case ast.CallKind:
		if c := e.AsCall(); c.FunctionName() == factCall && len(c.Args()) == 2 {
			return literal(c.Args()[1])
		}
	}
	return "", false
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// onView is a function of the view and a text.
func onView(a, b ref.Val, f func(*view, string) ref.Val) ref.Val {
	v, ok := a.(*view)
	s, text := b.(types.String)
	if !ok || !text {
		return types.MaybeNoSuchOverloadErr(a)
	}
	return f(v, string(s))
}

func readFact(a, b ref.Val) ref.Val { return onView(a, b, (*view).fact) }
func isKnown(a, b ref.Val) ref.Val  { return onView(a, b, (*view).known) }

func ageOf(a, b ref.Val) ref.Val {
	v, ok := a.(*view)
	t, is := b.(types.Timestamp)
	if !ok || !is {
		return types.MaybeNoSuchOverloadErr(b)
	}
	return &age{v, t.Time}
}

// age is how long ago something was. It can be compared with a duration and nothing else,
// and tells the view when the comparison turns out otherwise.
type age struct {
	view *view
	of   time.Time
}

// Compare implements traits.Comparer.
func (a *age) Compare(other ref.Val) ref.Val {
	d, ok := other.(types.Duration)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	turn := a.of.Add(d.Duration)
	c := a.view.now.Compare(turn)
	switch {
	case c < 0:
		a.view.changesAt(turn)
	case c == 0:
		a.view.changesAt(turn.Add(1))
	}
	return types.Int(c)
}

func (a *age) ConvertToNative(reflect.Type) (any, error) { return nil, errOnlyCompared }
func (a *age) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return ageType
	}
	return types.NewErr("%v", errOnlyCompared)
}
func (a *age) Equal(ref.Val) ref.Val { return types.NewErr("%v", errOnlyCompared) }
func (a *age) Type() ref.Type        { return ageType }
func (a *age) Value() any            { return a.of }

var errOnlyCompared = errors.New("an age can be compared with a duration, by <, <=, > and >=, and nothing else")

// The view is a value in expressions, so that functions reach it; nothing can be done with it.

func (v *view) ConvertToNative(reflect.Type) (any, error) { return nil, errors.ErrUnsupported }
func (v *view) ConvertToType(t ref.Type) ref.Val          { return types.NewErr("no %s", t.TypeName()) }
func (v *view) Equal(ref.Val) ref.Val                     { return types.False }
func (v *view) Type() ref.Type                            { return factsType }
func (v *view) Value() any                                { return v }

// ResolveName implements cel.Activation.
func (v *view) ResolveName(name string) (any, bool) {
	if name == factsIdent {
		return v, true
	}
	if _, ok := factByName[name]; !ok {
		return nil, false
	}
	return v.fact(name), true
}

// Parent implements cel.Activation.
func (v *view) Parent() cel.Activation { return nil }

// program compiles one expression, whose type must be bool.
func program(source string) (cel.Program, *cel.Ast, *cel.Issues, error) {
	env, err := environment()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("making the language of rules: %w", err)
	}
	tree, issues := env.Compile(source)
	if issues.Err() != nil {
		return nil, nil, issues, issues.Err()
	}
	if issues = checkNames(tree); issues.Err() != nil {
		return nil, nil, issues, issues.Err()
	}
	p, err := env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, nil, nil, err
	}
	return p, tree, issues, nil
}
