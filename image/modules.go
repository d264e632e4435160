package image

import (
	_ "embed"
	"slices"
	"strings"
)

//go:embed modules.txt
var modules string

// Modules returns the names of the kernel modules an image of an architecture and flavour
// takes along, besides those they need, as modules.txt has them.
func Modules(arch, flavour string) []string {
	var names []string
	here := true
	for line := range strings.Lines(modules) {
		line = strings.TrimSpace(line)
		if list, ok := strings.CutPrefix(line, "["); ok {
			here = true
			for of := range strings.FieldsSeq(strings.TrimSuffix(list, "]")) {
				here = here && (of == arch || of == flavour)
			}
			continue
		}
		if here && !strings.HasPrefix(line, "#") {
			names = append(names, strings.Fields(line)...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
