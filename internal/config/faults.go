// Package config reads the machine's one TOML file: listeners, interfaces, store and
// keys. What an organization decides (pools, profiles, sources) lives in the store.
package config

import (
	"fmt"
	"sort"
	"strings"
)

// Fault is one thing wrong with a file: where, what, and what to write instead.
type Fault struct {
	Line   int // from 1; 0 when the key is absent
	Key    string
	What   string
	Remedy string
}

// Faults are all things wrong with a file, in the order of its lines.
type Faults struct {
	File string
	List []Fault
}

func (f *Faults) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s has %d fault(s):", f.File, len(f.List))
	for _, x := range f.List {
		b.WriteString("\n  ")
		if x.Line > 0 {
			fmt.Fprintf(&b, "line %d: ", x.Line)
		}
		if x.Key != "" {
			fmt.Fprintf(&b, "%s: ", x.Key)
		}
		b.WriteString(x.What)
		if x.Remedy != "" {
			b.WriteString("; " + x.Remedy)
		}
	}
	return b.String()
}

func (f *Faults) add(line int, key, what, remedy string) {
	f.List = append(f.List, Fault{Line: line, Key: key, What: what, Remedy: remedy})
}

// err returns f if anything is wrong, ordered by line, else nil.
func (f *Faults) err() error {
	if len(f.List) == 0 {
		return nil
	}
	sort.SliceStable(f.List, func(i, j int) bool { return f.List[i].Line < f.List[j].Line })
	return f
}
