package kmod

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"lazaret/appliance"
)

// Tree is the modules of one kernel release, as a package of the kernel ships them.
type Tree struct {
	Release string
	files   map[string]File // by name
	builtin map[string]bool
}

// File is one module of a tree.
type File struct {
	Path string // below /lib/modules/<release>
	Data []byte // as the package has it, compressed
}

// NewTree returns an empty tree.
func NewTree(release string) *Tree {
	return &Tree{Release: release, files: map[string]File{}, builtin: map[string]bool{}}
}

// Add takes one file of /lib/modules/<release> into the tree: modules, and the list of
// those compiled in. Others it ignores.
func (t *Tree) Add(name string, data []byte) {
	switch {
	case strings.Contains(path.Base(name), ".ko"):
		t.files[Name(name)] = File{Path: name, Data: data}
	case name == "modules.builtin":
		for line := range strings.FieldsSeq(string(data)) {
			t.builtin[Name(line)] = true
		}
	}
}

// Wants says whether Add would take a file of this name.
func Wants(name string) bool {
	return strings.Contains(path.Base(name), ".ko") || name == "modules.builtin"
}

// Choose returns the index of the wanted modules and all they need, and their files by
// path. Those that every machine may load are unpacked, so that the kernel need not do it at
// each start; what they lie in is compressed as a whole. Drivers of devices, of which a
// machine has few, stay packed: the file system lies in memory. Either way the kernel gets
// byte for byte what was signed. It is an error, naming each, if a wanted one is neither
// there nor compiled in.
func (t *Tree) Choose(wanted []string) (*appliance.ModuleIndex, map[string][]byte, error) {
	c := choice{tree: t, infos: map[string]Info{}, raw: map[string][]byte{}}
	for _, name := range wanted {
		if err := c.take(name); err != nil {
			return nil, nil, err
		}
	}
	if len(c.missing) > 0 {
		return nil, nil, fmt.Errorf("kernel %s lacks modules that are wanted: %s", t.Release, strings.Join(c.missing, ", "))
	}
	var modules []appliance.Module
	files := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(c.infos)) {
		info, at, data := c.infos[name], t.files[name].Path, t.files[name].Data
		if !info.drives() {
			at, data = Plain(at), c.raw[name]
		}
		files[at] = data
		modules = append(modules, appliance.Module{Name: name, Path: at, Needs: info.Depends, Wants: c.soft(info), Aliases: info.Aliases})
	}
	index, err := appliance.NewModuleIndex(t.Release, modules, slices.Sorted(maps.Keys(t.builtin)))
	if err != nil {
		return nil, nil, fmt.Errorf("listing modules: %w", err)
	}
	return index, files, nil
}

type choice struct {
	tree    *Tree
	infos   map[string]Info
	raw     map[string][]byte // modules as the kernel takes them
	missing []string
}

// take adds a module and what it needs. Soft needs come along where the tree has them.
func (c *choice) take(name string) error {
	name = under(name)
	if _, done := c.infos[name]; done || c.tree.builtin[name] {
		return nil
	}
	f, there := c.tree.files[name]
	if !there {
		c.missing = append(c.missing, name)
		return nil
	}
	raw, err := unpack(f.Path, f.Data)
	if err != nil {
		return fmt.Errorf("unpacking module %s: %w", f.Path, err)
	}
	info, err := Read(Plain(f.Path), raw)
	if err != nil {
		return err
	}
	if info.Release != "" && info.Release != c.tree.Release {
		return fmt.Errorf("module %s was built for kernel %s, not %s", name, info.Release, c.tree.Release)
	}
	c.infos[name], c.raw[name] = info, raw
	for _, d := range info.Depends {
		if err := c.take(d); err != nil {
			return err
		}
	}
	for _, d := range info.Soft {
		if _, there := c.tree.files[d]; there {
			if err := c.take(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// soft returns the soft needs of a module that came along, by name or, as with
// "softdep pre: crc32c", by what they serve.
func (c *choice) soft(info Info) []string {
	var names []string
	for _, d := range info.Soft {
		if _, there := c.infos[d]; there {
			names = append(names, d)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.infos)) {
			if slices.ContainsFunc(c.infos[name].Aliases, func(a string) bool { return under(a) == d }) {
				names = append(names, name)
			}
		}
	}
	return names
}
