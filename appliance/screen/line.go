package screen

import (
	"fmt"
	"strings"

	"lazaret/appliance"
)

const mark = "lazaret: "

// Line is a status in one line that programs read off a serial line: words of the form
// key=value after "lazaret: ". The words are stage, name, version, slot, blessed, url, fingerprint
// (hexadecimal alone), code, ready (processes, comma-separated), clock and problems (how
// many); those that are empty are left out, and no value holds a space.
func Line(st appliance.Status) string {
	var b strings.Builder
	word := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", key, strings.ReplaceAll(clean(value, longest), " ", "_"))
		}
	}
	word("stage", string(st.Stage))
	word("name", st.Name)
	word("version", st.Version)
	for _, s := range st.Slots {
		if s.Booted {
			word("slot", s.File)
			word("blessed", fmt.Sprint(s.Blessed))
		}
	}
	if len(st.URLs) > 0 {
		word("url", st.URLs[0])
	}
	word("fingerprint", strings.ReplaceAll(st.Print, " ", ""))
	word("code", st.Code)
	var ready []string
	for _, p := range st.Parts {
		if p.Ready {
			ready = append(ready, p.Name)
		}
	}
	word("ready", strings.Join(ready, ","))
	word("clock", fmt.Sprint(st.Clock.Synchronized))
	word("problems", fmt.Sprint(len(st.Problems)))
	return mark + strings.TrimPrefix(b.String(), " ")
}

// ParseLine reads a Line back, from anywhere in a line of a transcript.
func ParseLine(text string) (map[string]string, bool) {
	_, text, ok := strings.Cut(text, mark)
	if !ok || !strings.HasPrefix(text, "stage=") {
		return nil, false
	}
	words := map[string]string{}
	for w := range strings.FieldsSeq(text) {
		if key, value, ok := strings.Cut(w, "="); ok {
			words[key] = value
		}
	}
	return words, true
}
