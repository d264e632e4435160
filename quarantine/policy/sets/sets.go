// Package sets holds ready-made policy sets in their text form, for administrators to start
// from.
package sets

import (
	"embed"
	"slices"
	"strings"
)

//go:embed *.toml
var files embed.FS

// Names are the ready-made sets.
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil // cannot be: the files are part of the program
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".toml"))
	}
	slices.Sort(out)
	return out
}

// Text is the text form of a ready-made set; false where there is none of that name.
func Text(name string) (string, bool) {
	b, err := files.ReadFile(name + ".toml")
	return string(b), err == nil
}
