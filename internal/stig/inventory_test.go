package stig

import (
	"encoding/json"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// TestBOM: CycloneDX 1.6, with the program, the standard library and every module.
func TestBOM(t *testing.T) {
	b, _ := build()
	text, err := json.Marshal(NewBOM(b[0]))
	must(t, err)
	const want = `{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"metadata":{"component":{"type":"application","name":"lazaret/cmd/lazaretd","version":"v0.3.0",` +
		`"purl":"pkg:golang/lazaret@v0.3.0","bom-ref":"pkg:golang/lazaret@v0.3.0"},"properties":[{"name":"go:vcs.revision","value":"abc"}]},"components":[` +
		`{"type":"library","name":"std","version":"1.26.8","purl":"pkg:golang/std@1.26.8","bom-ref":"pkg:golang/std@1.26.8"},` +
		`{"type":"library","name":"example.com/a/b","version":"v1.2.3+incompatible","purl":"pkg:golang/example.com/a/b@v1.2.3%2Bincompatible",` +
		`"bom-ref":"pkg:golang/example.com/a/b@v1.2.3%2Bincompatible","properties":[{"name":"go:sum","value":"h1:x="}]}]}`
	if string(text) != want {
		t.Errorf("%s", text)
	}
}

// TestBOMOfTwo: the program beside stands as a component of its own, and what both are made of
// once; no reference is there twice. The check names both.
func TestBOMOfTwo(t *testing.T) {
	b, _ := build()
	small := &debug.BuildInfo{GoVersion: "go1.26.8", Path: "lazaret/cmd/appliance", Main: debug.Module{Path: "lazaret", Version: "v0.3.0"},
		Deps: []*debug.Module{{Path: "example.com/c", Version: "v1.0.0", Sum: "h1:z="}}}
	bom := NewBOM(small, b[0])
	refs := []string{bom.Metadata.Component.Ref}
	for _, c := range bom.Components {
		refs = append(refs, c.Ref)
	}
	want := []string{"pkg:golang/lazaret@v0.3.0", "pkg:golang/lazaret@v0.3.0#cmd/lazaretd", "pkg:golang/std@1.26.8", "pkg:golang/example.com/c@v1.0.0", "pkg:golang/example.com/a/b@v1.2.3%2Bincompatible"}
	if !slices.Equal(refs, want) || bom.Metadata.Component.Name != small.Path || bom.Components[0].Name != "lazaret/cmd/lazaretd" || bom.Components[0].Type != "application" {
		t.Errorf("%s is made of %q, want %q", bom.Metadata.Component.Name, refs, want)
	}
	var r report
	Config{Build: func() ([]*debug.BuildInfo, error) { return []*debug.BuildInfo{small, b[0]}, nil }}.inventory(&r)
	if c := r.checks[0]; c.Result != Pass || len(c.Found) != 2 || !strings.HasPrefix(c.Found[1], "lazaret/cmd/lazaretd v0.3.0,") {
		t.Errorf("%+v", c)
	}
}

// TestBuilds: a program beside is read from its file, and one that cannot be read fails all.
func TestBuilds(t *testing.T) {
	all, err := Builds("/proc/self/exe")
	must(t, err)
	if len(all) != 2 || all[0].Main.Path != "lazaret" || all[1].Path != all[0].Path {
		t.Errorf("%v", all)
	}
	if all, err := Builds("/nonexistent"); err == nil {
		t.Errorf("%v", all)
	}
}
