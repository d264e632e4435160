package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"lazaret/quarantine"
)

const (
	maxBody    = 1 << 20 // bytes
	maxReports = 1000    // in one body
	maxDepth   = 5       // of nested JSON
)

// message is what a body says: a ping, or reports.
type message struct {
	ping    bool
	reports []report
}

// report is one report as it was sent; problem is what is wrong with it alone.
type report struct {
	device  string
	problem error
	quarantine.Report
}

// parse reads a body. Its errors concern the body as a whole, and are for whoever signed it.
func parse(body []byte) (message, error) {
	if err := strict(body); err != nil {
		return message{}, err
	}
	m, err := members("the body", body)
	if err != nil {
		return message{}, err
	}
	switch {
	case m["event"] != nil:
		return parsePing(m)
	case m["reports"] == nil:
		one, err := parseReport(body)
		return message{reports: []report{one}}, err
	case len(m) != 1:
		return message{}, errors.New(`the body has names besides "reports"`)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(m["reports"], &list); err != nil || len(list) == 0 || len(list) > maxReports {
		return message{}, fmt.Errorf(`"reports" is no list of 1 to %d reports`, maxReports)
	}
	out := message{reports: make([]report, len(list))}
	for i, raw := range list {
		if out.reports[i], err = parseReport(raw); err != nil {
			return message{}, fmt.Errorf("report %d: %w", i+1, err)
		}
	}
	return out, nil
}

func parsePing(m map[string]json.RawMessage) (message, error) {
	var event string
	if json.Unmarshal(m["event"], &event) != nil || event != "ping" || len(m) != 1 {
		return message{}, errors.New(`"event" is not "ping" alone`)
	}
	return message{ping: true}, nil
}

// parseReport reads one report. An error is one of its form; what is wrong with a value
// becomes its problem, so that it stops no other.
func parseReport(raw json.RawMessage) (report, error) {
	m, err := members("the report", raw)
	if err != nil {
		return report{}, err
	}
	var r report
	var verdict, validity string
	fields := map[string]any{
		"device": &r.device, "verdict": &verdict, "at": &r.At, "sequence": &r.Sequence,
		"validity": &validity, "facts": &r.Facts, "detail": &r.Detail,
	}
	for name, value := range m {
		to, known := fields[name]
		if !known {
			return report{}, fmt.Errorf("the name %.40q is not known", name)
		}
		if bytes.Equal(value, []byte("null")) {
			return report{}, fmt.Errorf("%q is null", name)
		}
		if err := json.Unmarshal(value, to); err != nil {
			return report{}, fmt.Errorf("%q is of another form", name)
		}
	}
	r.Verdict = quarantine.Verdict(verdict)
	r.problem = r.check(validity)
	return r, nil
}

// errReport is a value in a report that cannot be taken.
var errReport = errors.New("the report cannot be taken")

func (r *report) check(validity string) error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", errReport, fmt.Sprintf(format, args...))
	}
	switch {
	case r.device == "" || len(r.device) > 200:
		return fault("no device is named")
	case r.Verdict != quarantine.Compliant && r.Verdict != quarantine.NonCompliant:
		return fault("verdict is %.40q, not \"compliant\" or \"noncompliant\"", string(r.Verdict))
	case r.At.IsZero() || r.At.Year() < 1970 || r.At.Year() > 9999:
		return fault("\"at\" is missing: the time that the report is of")
	case len(r.Facts) > 64 || len(r.Detail) > 1024:
		return fault("it has more than 64 facts, or a detail of more than 1024 bytes")
	}
	for name, value := range r.Facts {
		if name == "" || len(name) > 64 || len(value) > 256 {
			return fault("fact %.64q is not of 1 to 64 bytes with a value of at most 256", name)
		}
	}
	if validity == "" {
		return nil
	}
	d, err := time.ParseDuration(validity)
	if err != nil || d <= 0 {
		return fault("validity is %.40q, not like \"1h\"", validity)
	}
	r.Validity = d
	return nil
}

// members reads a JSON object; its names are taken as they are written, in one case only.
func members(what string, raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return nil, errors.New(what + " is no JSON object")
	}
	return m, nil
}

// strict refuses what two readers may understand differently: a name that comes twice in one
// object, text that is no UTF-8, something behind the value; and what is nested too deep.
func strict(body []byte) error {
	if !utf8.Valid(body) {
		return errors.New("the body is no UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := strictValue(d, 1); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func strictValue(d *json.Decoder, depth int) error {
	t, err := d.Token()
	if err != nil {
		return errors.New("the body is no JSON")
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("the body is nested deeper than %d", maxDepth)
	}
	var names []string
	var seen map[string]bool // once names are many
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			name, ok := t.(string)
			if err != nil || !ok {
				return errors.New("the body is no JSON")
			}
			if seen[name] || seen == nil && slices.Contains(names, name) {
				return fmt.Errorf("the name %.40q comes twice", name)
			}
			if names = append(names, strings.Clone(name)); len(names) == 16 {
				seen = map[string]bool{}
				for _, n := range names {
					seen[n] = true
				}
			} else if seen != nil {
				seen[name] = true
			}
		}
		if err := strictValue(d, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("the body is no JSON")
	}
	return nil
}
