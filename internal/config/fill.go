package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Fill returns the reference file with values put in by dotted key; the comments stay.
// A value is text, a list of texts, a number or a boolean. A key the reference lacks is
// an error.
func Fill(values map[string]any) ([]byte, error) {
	lines := strings.Split(string(Reference), "\n")
	table, filled := "", 0
	for i, line := range lines {
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(line, "[] ") + "."
			continue
		}
		key, _, ok := strings.Cut(line, " = ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		v, ok := values[table+key]
		if !ok {
			continue
		}
		text, err := literal(v)
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w", table+key, err)
		}
		lines[i] = key + " = " + text
		filled++
	}
	if filled != len(values) {
		return nil, fmt.Errorf("writing configuration: %d of %d keys are not in the reference", len(values)-filled, len(values))
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// literal writes a TOML value. Control characters are refused rather than escaped.
func literal(v any) (string, error) {
	switch v := v.(type) {
	case string:
		for _, r := range v {
			if r < ' ' || r == 0x7f {
				return "", fmt.Errorf("control character in %q", v)
			}
		}
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`, nil
	case []string:
		items := make([]string, len(v))
		for i, s := range v {
			text, err := literal(s)
			if err != nil {
				return "", err
			}
			items[i] = text
		}
		return "[" + strings.Join(items, ", ") + "]", nil
	case int:
		return strconv.Itoa(v), nil
	case bool:
		return strconv.FormatBool(v), nil
	default:
		return "", fmt.Errorf("no form for %T", v)
	}
}
