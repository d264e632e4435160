package appliance

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// ModuleIndexName is the file below ModuleDir/<release> that lists the kernel's modules.
const ModuleIndexName = "lazaret.index"

// ModuleDir holds one directory per kernel release, named as uname -r prints it.
const ModuleDir = "/lib/modules"

// Bounds of an index: several times what a whole distribution kernel has.
const (
	maxModules      = 1 << 13
	maxModuleLine   = 1 << 12 // bytes
	maxModuleLines  = 1 << 17 // aliases mostly
	moduleIndexHead = "lazaret-modules 1 "
)

// Module is one loadable part of the kernel. Names are as the kernel shows them in
// /proc/modules: underscores, no hyphens.
type Module struct {
	Name    string
	Path    string   // below ModuleDir/<release>, like kernel/drivers/net/virtio_net.ko
	Needs   []string // names of modules to load first; the kernel refuses this one without them
	Wants   []string // names of modules to load first if they can be (softdep pre)
	Aliases []string // patterns in fnmatch(3)'s form, like pci:v00001AF4d*
}

// ModuleIndex says which modules there are, what they need and what they serve. Its text
// form, one fact to a line:
//
//	lazaret-modules 1 RELEASE
//	builtin NAME         a module compiled into the kernel: nothing to load
//	module NAME PATH     begins a module, which the lines below describe
//	needs NAME...        what it needs, built-in ones left out
//	wants NAME...        what it wants
//	alias PATTERN        what it serves
//
// Order has no meaning but that; Text writes it sorted.
type ModuleIndex struct {
	Release string
	modules map[string]*Module
	builtin map[string]bool
	byBus   map[string][]servant // by what stands before the colon
}

type servant struct{ pattern, name string }

// NewModuleIndex returns the index of modules and built-in names. It is an error if a
// module needs one that is neither, if two bear one name, or if the text form could not
// hold one.
func NewModuleIndex(release string, modules []Module, builtin []string) (*ModuleIndex, error) {
	x := &ModuleIndex{Release: release, modules: map[string]*Module{}, builtin: map[string]bool{}, byBus: map[string][]servant{}}
	if !word(release) {
		return nil, fmt.Errorf("kernel release %q is no word", release)
	}
	for _, name := range builtin {
		if !word(name) {
			return nil, fmt.Errorf("built-in module %q is no word", name)
		}
		x.builtin[moduleName(name)] = true
	}
	for _, m := range modules {
		m.Name = moduleName(m.Name)
		if !word(m.Name) || !word(m.Path) || strings.Contains("/"+m.Path+"/", "/../") {
			return nil, fmt.Errorf("module %q at %q: no usable name or path", m.Name, m.Path)
		}
		if x.modules[m.Name] != nil {
			return nil, fmt.Errorf("module %s is listed twice", m.Name)
		}
		m.Needs, m.Wants = x.names(m.Needs), x.names(m.Wants)
		for _, a := range m.Aliases {
			if !word(a) {
				return nil, fmt.Errorf("module %s: alias %q is no word", m.Name, a)
			}
			b := bus(a)
			x.byBus[b] = append(x.byBus[b], servant{moduleName(a), m.Name})
		}
		x.modules[m.Name] = &m
	}
	for _, m := range x.modules {
		for _, n := range m.Needs {
			if x.modules[n] == nil {
				return nil, fmt.Errorf("module %s needs %s, which is not there", m.Name, n)
			}
		}
	}
	return x, nil
}

// ParseModuleIndex reads the text form; number and length of lines are bounded.
func ParseModuleIndex(r io.Reader) (*ModuleIndex, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, maxModuleLine), maxModuleLine)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), moduleIndexHead) {
		return nil, fmt.Errorf("reading module index: no head %q", moduleIndexHead+"RELEASE")
	}
	release := strings.TrimPrefix(lines.Text(), moduleIndexHead)
	var modules []Module
	var builtin []string
	for n := 2; lines.Scan(); n++ {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		words := strings.Fields(rest)
		last := len(modules) - 1
		switch {
		case n > maxModuleLines || len(modules) > maxModules:
			return nil, fmt.Errorf("reading module index: more than %d lines or %d modules", maxModuleLines, maxModules)
		case verb == "builtin" && len(words) == 1:
			builtin = append(builtin, words[0])
		case verb == "module" && len(words) == 2:
			modules = append(modules, Module{Name: words[0], Path: words[1]})
		case verb == "needs" && last >= 0 && len(words) > 0:
			modules[last].Needs = append(modules[last].Needs, words...)
		case verb == "wants" && last >= 0 && len(words) > 0:
			modules[last].Wants = append(modules[last].Wants, words...)
		case verb == "alias" && last >= 0 && len(words) == 1:
			modules[last].Aliases = append(modules[last].Aliases, words[0])
		default:
			return nil, fmt.Errorf("reading module index: line %d: unknown or misplaced %q", n, verb)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading module index: %w", err)
	}
	x, err := NewModuleIndex(release, modules, builtin)
	if err != nil {
		return nil, fmt.Errorf("reading module index: %w", err)
	}
	return x, nil
}

// Text returns the index in the form ParseModuleIndex reads.
func (x *ModuleIndex) Text() string {
	var b strings.Builder
	b.WriteString(moduleIndexHead + x.Release + "\n")
	for _, n := range slices.Sorted(maps.Keys(x.builtin)) {
		b.WriteString("builtin " + n + "\n")
	}
	for _, m := range x.Modules() {
		b.WriteString("module " + m.Name + " " + m.Path + "\n")
		if len(m.Needs) > 0 {
			b.WriteString("needs " + strings.Join(m.Needs, " ") + "\n")
		}
		if len(m.Wants) > 0 {
			b.WriteString("wants " + strings.Join(m.Wants, " ") + "\n")
		}
		for _, a := range slices.Compact(slices.Sorted(slices.Values(m.Aliases))) {
			b.WriteString("alias " + a + "\n")
		}
	}
	return b.String()
}

// Modules returns every module, sorted by name.
func (x *ModuleIndex) Modules() []Module {
	var all []Module
	for _, n := range slices.Sorted(maps.Keys(x.modules)) {
		all = append(all, *x.modules[n])
	}
	return all
}

// Find returns the names of the modules that serve a device by its modalias (as in
// /sys/.../modalias), or anything else the kernel asks for by alias, like
// "rtnl-link-wireguard"; a module's own name finds it. Sorted; none: nothing to load.
// Hyphens and underscores are one, as kmod has it.
func (x *ModuleIndex) Find(alias string) []string {
	want := moduleName(strings.TrimSpace(alias))
	var names []string
	if x.modules[want] != nil {
		names = append(names, want)
	}
	for _, b := range []string{bus(alias), ""} {
		for _, s := range x.byBus[b] {
			if globs(s.pattern, want) {
				names = append(names, s.name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Builtin says whether a name is compiled into the kernel: it needs no loading.
func (x *ModuleIndex) Builtin(name string) bool { return x.builtin[moduleName(name)] }

// Needs returns the paths (below ModuleDir/<release>) of a module and all it needs and
// wants, in the order to load them; the module is the last. None for a built-in one (see
// Builtin), and for one the index does not have. A module that the kernel has already
// answers EEXIST, and one that serves other hardware ENODEV: neither stands in the way of
// those after it.
func (x *ModuleIndex) Needs(name string) []string {
	var paths []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		m := x.modules[n]
		if seen[n] || m == nil {
			return
		}
		seen[n] = true
		for _, list := range [][]string{m.Needs, m.Wants} {
			for _, next := range list {
				visit(next)
			}
		}
		paths = append(paths, m.Path)
	}
	visit(moduleName(name))
	return paths
}

// names returns a list in the form names have here, without built-in ones.
func (x *ModuleIndex) names(list []string) []string {
	var names []string
	for _, n := range list {
		if n = moduleName(n); !x.builtin[n] {
			names = append(names, n)
		}
	}
	return names
}

// moduleName writes a name or pattern with underscores, leaving [a-z] in a pattern alone.
func moduleName(s string) string {
	in := false
	return strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			in = true
		case r == ']':
			in = false
		case r == '-' && !in:
			return '_'
		}
		return r
	}, s)
}

// bus is what stands before the colon of an alias, if no pattern reaches into it.
func bus(alias string) string {
	b, _, ok := strings.Cut(alias, ":")
	if !ok || strings.ContainsAny(b, "*?[") {
		return ""
	}
	return moduleName(b)
}

// word says whether s can stand in a line of the text form.
func word(s string) bool {
	return s != "" && len(s) < maxModuleLine/2 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r > 0x7f })
}
