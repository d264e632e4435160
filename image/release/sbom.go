package release

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// Contents are what an image is made of.
type Contents struct {
	Name, Version, Arch string // of the image; required
	Time                time.Time
	Program             *debug.BuildInfo // of lazaretd; required
	Packages            []Package        // Debian's, that files were taken from
	Files               []File           // in the image
}

// Package is a Debian package.
type Package struct {
	Name, Version, Arch string
	SHA256              string // of the .deb, hexadecimal
}

// File is one file of the image.
type File struct {
	Path    string // with where it is in front: "uki:/init" in a slot, "esp:..." on the EFI partition
	Package string // it was taken from, or empty
	Size    int64  // bytes
	SHA256  string // of the file itself, hexadecimal; empty where only its package's is known
}

// BOM is a CycloneDX 1.6 bill of materials.
type BOM struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     Metadata     `json:"metadata"`
	Components   []Component  `json:"components"`
	Dependencies []Dependency `json:"dependencies"`
}

// Metadata names the image itself.
type Metadata struct {
	Timestamp string    `json:"timestamp,omitempty"`
	Component Component `json:"component"`
}

// Component is a Go module, a Debian package, or a file taken from one.
type Component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	Hashes     []Hash     `json:"hashes,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []Property `json:"properties,omitempty"`
}

// Hash is a checksum.
type Hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// Property is a named value that CycloneDX has no field for.
type Property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Dependency says what a component is made of.
type Dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// NewBOM says what c is made of, in an order of its own and with a serial number that
// follows from the rest: the same contents give the same bytes.
func NewBOM(c Contents) (BOM, error) {
	if c.Name == "" || c.Version == "" || c.Arch == "" || c.Program == nil {
		return BOM{}, fmt.Errorf("listing what %s %s is made of: name, version, architecture and the program's build information are required", c.Name, c.Version)
	}
	b := BOM{Format: "CycloneDX", Spec: "1.6", Version: 1}
	image := Component{Type: "operating-system", Ref: "image", Name: c.Name, Version: c.Version, Properties: []Property{{"lazaret:arch", c.Arch}}}
	b.Metadata.Component = image
	if !c.Time.IsZero() {
		b.Metadata.Timestamp = c.Time.UTC().Format(time.RFC3339)
	}
	program, modules := programOf(c)
	var debs, files []Component
	refs := make(map[string]string) // of packages, by name
	for _, p := range c.Packages {
		x := p.component()
		refs[p.Name] = x.Ref
		debs = append(debs, x)
	}
	taken := make(map[string][]string)
	for _, f := range c.Files {
		x := f.component()
		if f.Package == "lazaretd" { // the program itself stands above
			continue
		}
		from := cmp.Or(refs[f.Package], image.Ref)
		taken[from] = append(taken[from], x.Ref)
		files = append(files, x)
	}
	b.Components = append(append(append([]Component{program}, modules...), debs...), files...)
	b.Dependencies = append(b.Dependencies, Dependency{image.Ref, append(refsOf(append([]Component{program}, debs...)), taken[image.Ref]...)}, Dependency{program.Ref, refsOf(modules)})
	for _, d := range debs {
		b.Dependencies = append(b.Dependencies, Dependency{d.Ref, append([]string{}, taken[d.Ref]...)})
	}
	return b.sorted()
}

// sorted puts everything in order and gives the serial number.
func (b BOM) sorted() (BOM, error) {
	slices.SortFunc(b.Components, func(x, y Component) int { return cmp.Compare(x.Ref, y.Ref) })
	slices.SortFunc(b.Dependencies, func(x, y Dependency) int { return cmp.Compare(x.Ref, y.Ref) })
	for _, d := range b.Dependencies {
		slices.Sort(d.On)
	}
	for i := 1; i < len(b.Components); i++ {
		if b.Components[i].Ref == b.Components[i-1].Ref {
			return BOM{}, fmt.Errorf("listing what an image is made of: %s is there twice", b.Components[i].Ref)
		}
	}
	text, err := json.Marshal(b)
	if err != nil {
		return BOM{}, fmt.Errorf("listing what an image is made of: %w", err)
	}
	u := sha256.Sum256(text)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8 (RFC 9562)
	b.Serial = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
	return b, nil
}

func refsOf(list []Component) []string {
	out := []string{}
	for _, c := range list {
		out = append(out, c.Ref)
	}
	return out
}

// programOf are lazaretd and the modules it is built of, with their checksums, which are
// of trees and not of files, as properties.
func programOf(c Contents) (Component, []Component) {
	p := Component{Type: "application", Ref: "lazaretd", Name: "lazaretd", Version: c.Version, Properties: []Property{{"go:path", c.Program.Path}}}
	for _, f := range c.Files {
		if f.Package == "lazaretd" && f.SHA256 != "" {
			p.Hashes = []Hash{{"SHA-256", f.SHA256}}
		}
	}
	modules := []Component{goModule("std", strings.TrimPrefix(c.Program.GoVersion, "go"), "")}
	for _, m := range c.Program.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		modules = append(modules, goModule(m.Path, m.Version, m.Sum))
	}
	return p, modules
}

func goModule(path, version, sum string) Component {
	c := Component{Type: "library", Name: path, Version: version, PURL: "pkg:golang/" + path}
	if version != "" {
		c.PURL += "@" + escape(version)
	}
	c.Ref = c.PURL
	if sum != "" {
		c.Properties = []Property{{"go:sum", sum}}
	}
	return c
}

// escape is a version as a package URL has it.
func escape(version string) string {
	return strings.NewReplacer("+", "%2B", "%7E", "~").Replace(url.PathEscape(version))
}

func (p Package) component() Component {
	c := Component{Type: "library", Name: p.Name, Version: p.Version, PURL: "pkg:deb/debian/" + strings.ReplaceAll(p.Name, "+", "%2B") + "@" + escape(p.Version) + "?arch=" + p.Arch}
	c.Ref = c.PURL
	if p.SHA256 != "" {
		c.Hashes = []Hash{{"SHA-256", p.SHA256}}
	}
	return c
}

func (f File) component() Component {
	c := Component{Type: "file", Ref: "file:" + f.Path, Name: f.Path, Properties: []Property{{"lazaret:size", fmt.Sprint(f.Size)}}}
	if strings.Contains(f.Path, ".ko") {
		c.Type = "device-driver" // a kernel module
	}
	if f.SHA256 != "" {
		c.Hashes = []Hash{{"SHA-256", f.SHA256}}
	}
	return c
}
