package stig

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
)

// inventory says what this program, and those beside it, are made of.
func (c Config) inventory(r *report) {
	const id, title = "inventory", "the program knows what it is made of"
	all, err := c.Build()
	if err != nil {
		r.unmade(id, title, err, "build it with go build, from a module")
		return
	}
	var wrong, found []string
	for _, b := range all {
		for _, m := range b.Deps {
			if m.Replace != nil {
				wrong = append(wrong, fmt.Sprintf("%s %s is replaced by %s %s", m.Path, m.Version, m.Replace.Path, m.Replace.Version))
			}
		}
		name := b.Main.Path
		if len(all) > 1 {
			name = b.Path
		}
		found = append(found, fmt.Sprintf("%s %s, %s, %d modules; --sbom lists them", name, b.Main.Version, b.GoVersion, len(b.Deps)))
	}
	r.add(id, title, wrong, found, "build the program from its own go.mod, without replacements")
}

// Builds reads what the running program is built of, and then what those at further paths are.
func Builds(beside ...string) ([]*debug.BuildInfo, error) {
	own, ok := debug.ReadBuildInfo()
	if !ok {
		return nil, errors.New("the program was built without module information")
	}
	all := []*debug.BuildInfo{own}
	for _, path := range beside {
		b, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading what a program is built of: %w", err)
		}
		all = append(all, b)
	}
	return all, nil
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

// NewBOM turns build information into a bill of materials: of b, and of programs beside it,
// which stand among its components. A module's checksum, which is of a tree and not of a file,
// stands as a property. What several are made of stands once.
func NewBOM(b *debug.BuildInfo, beside ...*debug.BuildInfo) BOM {
	bom := BOM{Format: "CycloneDX", Spec: "1.6", Version: 1, Components: []Component{}}
	bom.Metadata.Component = component("application", b.Path, b.Main.Path, b.Main.Version, "")
	bom.Metadata.Properties = settings(b)
	for _, o := range beside {
		c := component("application", o.Path, o.Main.Path, o.Main.Version, "")
		c.PURL += "#" + strings.TrimPrefix(o.Path, o.Main.Path+"/") // the same module, in another directory
		c.Ref, c.Properties = c.PURL, settings(o)
		bom.Components = append(bom.Components, c)
	}
	for _, b := range append([]*debug.BuildInfo{b}, beside...) {
		bom.add(component("library", "std", "std", strings.TrimPrefix(b.GoVersion, "go"), ""))
		for _, m := range b.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			bom.add(component("library", m.Path, m.Path, m.Version, m.Sum))
		}
	}
	return bom
}

// add adds a component that is not there yet.
func (b *BOM) add(c Component) {
	if !slices.ContainsFunc(b.Components, func(o Component) bool { return o.Ref == c.Ref }) {
		b.Components = append(b.Components, c)
	}
}

// settings are how a program was built.
func settings(b *debug.BuildInfo) (all []Property) {
	for _, s := range b.Settings {
		all = append(all, Property{"go:" + s.Key, s.Value})
	}
	return all
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
