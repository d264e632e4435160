package policy

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// Number is a version number. The zero Number is that of "0".
type Number struct {
	parts  []uint64 // dotted numbers, without zeros at the end
	rank   int      // of the suffix: -1 comes before the plain version, 1 after it
	suffix []string // of digits and of other characters, in turn
}

const (
	maxVersion = 64 // bytes
	maxParts   = 8
)

// early are the words that mark what comes before the version that follows them.
var early = []string{"alpha", "beta", "dev", "pre", "preview", "rc", "snapshot"}

// ParseVersion reads one to eight dotted numbers, perhaps with a "v" in front, and what
// follows them as suffix: "14.2", "22.04.3", "10.0.22631.2428", "6.8.0-45-generic".
// Numbers that are not there are zero, so "14.2" and "14.2.0" are the same. A suffix that
// begins with "~" or with a word like rc or beta comes before the version without suffix,
// "+build" says nothing, and any other suffix comes after it.
func ParseVersion(s string) (Number, error) {
	text := strings.TrimSpace(s)
	if len(text) > 1 && (text[0] == 'v' || text[0] == 'V') {
		text = text[1:]
	}
	if text == "" || len(s) > maxVersion {
		return Number{}, errors.New("a version is 1 to 64 bytes")
	}
	var n Number
	rest := text
	for {
		end := 0
		for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
			end++
		}
		part, err := strconv.ParseUint(rest[:end], 10, 64)
		if err != nil || len(n.parts) == maxParts {
			return Number{}, fmt.Errorf("%.64q is no version: want numbers like 14.2.1", s)
		}
		n.parts = append(n.parts, part)
		rest = rest[end:]
		if len(rest) < 2 || rest[0] != '.' || rest[1] < '0' || rest[1] > '9' {
			break
		}
		rest = rest[1:]
	}
	for len(n.parts) > 0 && n.parts[len(n.parts)-1] == 0 {
		n.parts = n.parts[:len(n.parts)-1]
	}
	return n, n.addSuffix(rest)
}

func (n *Number) addSuffix(rest string) error {
	for _, c := range []byte(rest) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("%.64q stands in no version", rest)
		}
	}
	rest, _, _ = strings.Cut(strings.ToLower(rest), "+")
	tilde := strings.HasPrefix(rest, "~")
	n.suffix = runs(rest)
	switch {
	case len(n.suffix) == 0:
		if tilde {
			n.rank = -1
		}
	case tilde || slices.Contains(early, n.suffix[0]):
		n.rank = -1
	default:
		n.rank = 1
	}
	return nil
}

// separators stand between the parts of a suffix and say nothing.
const separators = "-._~ "

// runs cuts a text into runs of digits and of others, without separators around them.
func runs(s string) []string {
	var out []string
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for len(s) > 0 {
		end := 1
		for end < len(s) && digit(s[end]) == digit(s[0]) {
			end++
		}
		if run := strings.Trim(s[:end], separators); run != "" {
			out = append(out, run)
		}
		s = s[end:]
	}
	return out
}

// Compare orders versions: negative where n comes before m, zero where they are the same.
func (n Number) Compare(m Number) int {
	if c := slices.Compare(n.parts, m.parts); c != 0 {
		return c
	}
	if c := cmp.Compare(n.rank, m.rank); c != 0 {
		return c
	}
	return slices.CompareFunc(n.suffix, m.suffix, compareRun)
}

// compareRun orders digits as numbers, before anything else.
func compareRun(a, b string) int {
	digits := func(s string) bool { return s[0] >= '0' && s[0] <= '9' }
	if digits(a) && digits(b) {
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	if digits(a) != digits(b) {
		return map[bool]int{true: -1, false: 1}[digits(a)]
	}
	return strings.Compare(a, b)
}

// versionType is a version in an expression.
var versionType = cel.ObjectType("version", traits.ComparerType)

type versionValue struct{ Number }

func (v *versionValue) Compare(other ref.Val) ref.Val {
	o, ok := other.(*versionValue)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Int(v.Number.Compare(o.Number))
}

func (v *versionValue) Equal(other ref.Val) ref.Val {
	o, ok := other.(*versionValue)
	return types.Bool(ok && v.Number.Compare(o.Number) == 0)
}

func (v *versionValue) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("a version is nothing else")
}

func (v *versionValue) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case versionType:
		return v
	case types.TypeType:
		return versionType
	}
	return types.NewErr("a version cannot be made a %s", t.TypeName())
}

func (v *versionValue) Type() ref.Type { return versionType }
func (v *versionValue) Value() any     { return v.Number }

// toVersion is the function version of expressions.
func toVersion(v ref.Val) ref.Val {
	s, ok := v.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	n, err := ParseVersion(string(s))
	if err != nil {
		return types.NewErr("%v", err)
	}
	return &versionValue{n}
}
