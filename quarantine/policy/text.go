package policy

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"lazaret/quarantine"
)

// MaxText bounds the text form of a set, in bytes.
const MaxText = 128 << 10

// textSet is a set as people write it, in TOML.
type textSet struct {
	Name          string     `toml:"name"`
	Text          string     `toml:"text"`
	STIG          bool       `toml:"stig"`
	Assigned      *bool      `toml:"assigned"`
	AgentReleases bool       `toml:"agent_releases"`
	For           textFor    `toml:"for"`
	Rules         []textRule `toml:"rule"`
}

type textFor struct {
	Ownerships []string `toml:"ownerships"`
	Platforms  []string `toml:"platforms"`
	Profiles   []string `toml:"profiles"`
	Groups     []string `toml:"groups"`
}

type textRule struct {
	Name       string   `toml:"name"`
	Text       string   `toml:"text"`
	Remedy     string   `toml:"remedy"`
	Expression string   `toml:"expression"`
	CheckEvery textSpan `toml:"check_every"`
	Grace      textSpan `toml:"grace"`
	OnFailure  string   `toml:"on_failure"`
}

// textSpan is a duration in its text form.
type textSpan struct{ time.Duration }

func (s *textSpan) UnmarshalText(b []byte) error {
	d, err := ParseSpan(string(b))
	s.Duration = d
	return err
}

// ParseSpan reads a duration as Go writes it, "15m" or "36h", and days as "30d".
func ParseSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil && n <= 100*365 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf(`%.32q is no time: write one like "15m", "36h" or "30d"`, s)
	}
	return d, nil
}

// FormatSpan writes what ParseSpan reads, as short as it gets.
func FormatSpan(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// Document is a set that was read from its text form.
type Document struct {
	Set quarantine.PolicySet
	// SaysAssigned is set where the text says whether the set is assigned. Where it does not,
	// that is to stay as it is.
	SaysAssigned bool
}

// ParseText reads a set's text form and checks it as Check does; faults say where in the
// text they stand. Where they are only of the rules' meaning, the set is good to be shown.
func ParseText(text []byte) (Document, Faults) {
	whole := func(what, remedy string) (Document, Faults) {
		return Document{}, Faults{{Index: -1, What: what, Remedy: remedy}}
	}
	if len(text) > MaxText {
		return whole(fmt.Sprintf("the text takes %d bytes", len(text)), fmt.Sprintf("%d at most", MaxText))
	}
	var t textSet
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&t); err != nil {
		return Document{}, textFaults(err)
	}
	s := quarantine.PolicySet{Name: t.Name, Text: t.Text, STIG: t.STIG, Assigned: t.Assigned != nil && *t.Assigned, AgentReleases: t.AgentReleases, For: quarantine.Selection(t.For)}
	for _, r := range t.Rules {
		s.Rules = append(s.Rules, quarantine.PolicyRule{Name: r.Name, Text: r.Text, Remedy: r.Remedy, Expression: r.Expression,
			CheckEvery: r.CheckEvery.Duration, Grace: r.Grace.Duration, OnFailure: quarantine.FailureAction(r.OnFailure)})
	}
	faults := Check(s)
	if len(faults) > 0 {
		places := locate(text)
		for i := range faults {
			faults[i].At = places.of(faults[i])
		}
		slices.SortStableFunc(faults, func(a, b Fault) int { return a.At.Line - b.At.Line })
	}
	return Document{s, t.Assigned != nil}, faults
}

// textFaults are what is wrong with a text that is no set at all.
func textFaults(err error) Faults {
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		var out Faults
		for _, e := range strict.Errors {
			line, column := e.Position()
			out = append(out, Fault{Index: -1, Field: strings.Join(e.Key(), "."), What: "there is no such key", At: Position{line, column},
				Remedy: "see what there is: lazaretctl policy examples"})
		}
		return out
	}
	f := Fault{Index: -1, What: goField().ReplaceAllString(strings.TrimPrefix(err.Error(), "toml: "), "what must be a $1")}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		f.At.Line, f.At.Column = e.Position()
	}
	return Faults{f}
}

// goField is how the decoder names what a value does not fit.
var goField = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`struct field \S+ of type (\S+)`) })

// place is where a key's value begins, and how its lines count.
type place struct {
	key   Position
	value Position
	below bool // the value's text begins on the line below
}

// places are the keys of a text: of the set, index -1, and of each rule.
type places map[placeKey]place

type placeKey struct {
	index int
	field string
}

// locate notes where each key of a text stands, which is known to be TOML.
func locate(text []byte) places {
	out := places{}
	p := unstable.Parser{}
	p.Reset(text)
	index, table := -1, ""
	for p.NextExpression() {
		node := p.Expression()
		var parts []string
		var at Position
		for it := node.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			if at.Line == 0 {
				start := p.Shape(it.Node().Raw).Start
				at = Position{start.Line, start.Column}
			}
		}
		name := strings.Join(parts, ".")
		switch node.Kind {
		case unstable.ArrayTable:
			index, table = index+1, ""
			out[placeKey{index, ""}] = place{key: at}
		case unstable.Table:
			table = name + "."
		case unstable.KeyValue:
			pl := place{key: at}
			if raw := node.Value().Raw; raw.Length > 0 {
				start := p.Shape(raw).Start
				pl.value = Position{start.Line, start.Column}
				quoted := text[raw.Offset:]
				for _, q := range []string{`'''`, `"""`, `'`, `"`} {
					if bytes.HasPrefix(quoted, []byte(q)) {
						rest := quoted[len(q):]
						pl.below = len(q) == 3 && (bytes.HasPrefix(rest, []byte("\n")) || bytes.HasPrefix(rest, []byte("\r\n")))
						pl.value.Column += len(q)
						break
					}
				}
			}
			out[placeKey{index, table + name}] = pl
		}
	}
	return out
}

// of finds where a fault stands.
func (p places) of(f Fault) Position {
	pl, ok := p[placeKey{f.Index, f.Field}]
	if !ok {
		return p[placeKey{f.Index, ""}].key
	}
	switch {
	case f.Line == 0 || pl.value.Line == 0:
		return pl.key
	case pl.below:
		return Position{pl.value.Line + f.Line, f.Column}
	case f.Line == 1:
		return Position{pl.value.Line, pl.value.Column + f.Column - 1}
	default:
		return Position{pl.value.Line + f.Line - 1, f.Column}
	}
}

// Format writes a set's text form, which ParseText reads.
func Format(s quarantine.PolicySet) string {
	var b strings.Builder
	line := func(key, value string) { fmt.Fprintf(&b, "%s = %s\n", key, value) }
	text := func(key, value string) {
		if value != "" {
			line(key, quote(value))
		}
	}
	text("name", s.Name)
	text("text", s.Text)
	line("assigned", strconv.FormatBool(s.Assigned))
	line("stig", strconv.FormatBool(s.STIG))
	line("agent_releases", strconv.FormatBool(s.AgentReleases))
	b.WriteString("\n[for]\n")
	for _, l := range []struct {
		key  string
		list []string
	}{{"ownerships", s.For.Ownerships}, {"platforms", s.For.Platforms}, {"profiles", s.For.Profiles}, {"groups", s.For.Groups}} {
		quoted := make([]string, len(l.list))
		for i, v := range l.list {
			quoted[i] = quote(v)
		}
		line(l.key, "["+strings.Join(quoted, ", ")+"]")
	}
	for _, r := range s.Rules {
		b.WriteString("\n[[rule]]\n")
		text("name", r.Name)
		text("text", r.Text)
		text("remedy", r.Remedy)
		text("expression", r.Expression)
		if r.CheckEvery > 0 {
			text("check_every", FormatSpan(r.CheckEvery))
		}
		if r.Grace > 0 {
			text("grace", FormatSpan(r.Grace))
		}
		text("on_failure", string(r.OnFailure))
	}
	return b.String()
}

// quote writes a TOML string: as it stands where it can, over several lines where it has
// several.
func quote(s string) string {
	printable := !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f || r == '\uFFFD' })
	switch {
	case printable && !strings.ContainsAny(s, "'\n"):
		if !strings.ContainsAny(s, `"\`) {
			return `"` + s + `"`
		}
		return "'" + s + "'"
	case printable && strings.Contains(s, "\n") && !strings.Contains(s, "''"):
		return "'''\n" + s + "'''"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
