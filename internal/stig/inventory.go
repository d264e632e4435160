package stig

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// inventory says what this program is made of.
func (c Config) inventory(r *report) {
	const id, title = "inventory", "the program knows what it is made of"
	b, ok := c.Build()
	if !ok {
		r.unmade(id, title, errors.New("the program was built without module information"), "build it with go build, from a module")
		return
	}
	var wrong []string
	for _, m := range b.Deps {
		if m.Replace != nil {
			wrong = append(wrong, fmt.Sprintf("%s %s is replaced by %s %s", m.Path, m.Version, m.Replace.Path, m.Replace.Version))
		}
	}
	r.add(id, title, wrong, []string{fmt.Sprintf("%s %s, %s, %d modules; --sbom lists them", b.Main.Path, b.Main.Version, b.GoVersion, len(b.Deps))},
		"build the program from its own go.mod, without replacements")
}

// BOM is a CycloneDX 1.6 bill of materials, as far as a Go program has one.
type BOM struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   BOMMetadata `json:"metadata"`
	Components []Component `json:"components"`
}

// BOMMetadata names the program itself.
type BOMMetadata struct {
	Component  Component  `json:"component"`
	Properties []Property `json:"properties,omitempty"`
}

// Component is a module, or the standard library.
type Component struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Ref        string     `json:"bom-ref,omitempty"`
	Properties []Property `json:"properties,omitempty"`
}

// Property is a named value that CycloneDX has no field for.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NewBOM turns build information into a bill of materials. A module's checksum, which is
// of a tree and not of a file, stands as a property.
func NewBOM(b *debug.BuildInfo) BOM {
	bom := BOM{Format: "CycloneDX", Spec: "1.6", Version: 1, Components: []Component{}}
	bom.Metadata.Component = component("application", b.Path, b.Main.Path, b.Main.Version, "")
	for _, s := range b.Settings {
		bom.Metadata.Properties = append(bom.Metadata.Properties, Property{"go:" + s.Key, s.Value})
	}
	bom.Components = append(bom.Components, component("library", "std", "std", strings.TrimPrefix(b.GoVersion, "go"), ""))
	for _, m := range b.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		bom.Components = append(bom.Components, component("library", m.Path, m.Path, m.Version, m.Sum))
	}
	return bom
}

func component(kind, name, module, version, sum string) Component {
	c := Component{Type: kind, Name: name, Version: version, PURL: "pkg:golang/" + module}
	if version != "" {
		c.PURL += "@" + strings.ReplaceAll(version, "+", "%2B")
	}
	c.Ref = c.PURL
	if sum != "" {
		c.Properties = []Property{{"go:sum", sum}}
	}
	return c
}
