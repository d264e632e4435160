package config

import (
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"lazaret/internal/form"
)

// document is a parsed file whose keys are asked for one by one, so that every fault
// is found in one reading, and a key nobody asked for is a fault too.
type document struct {
	values map[string]any // by dotted key
	lines  map[string]int
	asked  map[string]bool
	faults *Faults

	lenient bool   // the file may be an earlier version's
	doubts  Faults // what was taken for that reason
}

func parse(name string, text []byte) (*document, error) {
	d := &document{
		values: map[string]any{}, lines: map[string]int{}, asked: map[string]bool{},
		faults: &Faults{File: name},
	}
	var tree map[string]any
	if err := toml.Unmarshal(text, &tree); err != nil {
		line := 0
		if de, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ = de.Position()
		}
		d.faults.add(line, "", strings.TrimPrefix(err.Error(), "toml: "), "see reference.toml for the form")
		return nil, d.faults.err()
	}
	d.flatten("", tree)
	d.locate(text)
	return d, nil
}

func (d *document) flatten(prefix string, tree map[string]any) {
	for k, v := range tree {
		key := prefix + k
		if sub, ok := v.(map[string]any); ok {
			d.flatten(key+".", sub)
			continue
		}
		d.values[key] = v
	}
}

// locate notes on which line each key stands.
func (d *document) locate(text []byte) {
	p := unstable.Parser{}
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		node := p.Expression()
		var parts []string
		line := 0
		for it := node.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		key := strings.Join(parts, ".")
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key + "."
		case unstable.KeyValue:
			d.lines[table+key] = line
		}
	}
}

// fault notes something wrong with key's value.
func (d *document) fault(key, what, remedy string) {
	d.faults.add(d.lines[key], key, what, remedy)
}

func (d *document) lookup(key string) (any, bool) {
	d.asked[key] = true
	v, ok := d.values[key]
	return v, ok
}

func (d *document) text(key, def string) string {
	v, ok := d.lookup(key)
	if !ok {
		return def
	}
	s, ok := v.(string)
	if !ok {
		d.fault(key, fmt.Sprintf("is %T, not text", v), `write it in quotes, like "`+def+`"`)
		return def
	}
	return s
}

func (d *document) boolean(key string, def bool) bool {
	v, ok := d.lookup(key)
	if !ok {
		return def
	}
	b, ok := v.(bool)
	if !ok {
		d.fault(key, fmt.Sprintf("is %v, not true or false", v), "write true or false without quotes")
		return def
	}
	return b
}

func (d *document) number(key string, def, low, high int64) int64 {
	v, ok := d.lookup(key)
	if !ok {
		return def
	}
	n, ok := v.(int64)
	if !ok || n < low || n > high {
		d.fault(key, fmt.Sprintf("is %v", v), fmt.Sprintf("write a number from %d to %d without quotes", low, high))
		return def
	}
	return n
}

func (d *document) duration(key string, def, low, high time.Duration) time.Duration {
	s := d.text(key, def.String())
	t, err := time.ParseDuration(s)
	if err != nil || t < low || t > high {
		d.fault(key, fmt.Sprintf("is %q", s), fmt.Sprintf("write a time from %s to %s, like \"60s\" or \"8h\"", low, high))
		return def
	}
	return t
}

func (d *document) list(key string, def []string) []string {
	v, ok := d.lookup(key)
	if !ok {
		return def
	}
	items, ok := v.([]any)
	if !ok {
		d.fault(key, fmt.Sprintf("is %T, not a list", v), `write a list of texts, like ["a", "b"]`)
		return def
	}
	out := make([]string, 0, len(items))
	for i, item := range items {
		s, ok := item.(string)
		if !ok {
			d.fault(key, fmt.Sprintf("item %d is %v, not text", i+1, item), "write every item in quotes")
			continue
		}
		out = append(out, s)
	}
	return out
}

// each reads a list and turns every item with parse; a bad item is a fault with the remedy.
func each[T any](d *document, key string, def []string, remedy string, parse func(string) (T, error)) []T {
	var out []T
	for _, s := range d.list(key, def) {
		v, err := parse(s)
		if err != nil {
			d.fault(key, fmt.Sprintf("%q: %v", s, err), remedy)
			continue
		}
		out = append(out, v)
	}
	return out
}

func (d *document) prefixes(key string) []netip.Prefix {
	return each(d, key, nil, `write networks like "192.0.2.0/24"`, func(s string) (netip.Prefix, error) {
		p, err := netip.ParsePrefix(s)
		if err == nil && p != p.Masked() {
			err = errors.New("has bits set behind its length; meant " + p.Masked().String() + "?")
		}
		return p, err
	})
}

func (d *document) addrPorts(key string, def []string) []netip.AddrPort {
	return each(d, key, def, `write an address and a port, like "0.0.0.0:443" or "[::]:443"`, netip.ParseAddrPort)
}

// unknown makes every key that nobody asked for a fault.
func (d *document) unknown() {
	known := make([]string, 0, len(d.asked))
	for k := range d.asked {
		known = append(known, k)
	}
	sort.Strings(known)
	for key := range d.values {
		if !d.asked[key] {
			d.fault(key, "unknown key", remedyFor(key, known))
		}
	}
}

func remedyFor(key string, known []string) string {
	if best := form.Meant(key, known); best != "" {
		return "did you mean " + best + "?"
	}
	return "remove it, or see reference.toml for the keys there are"
}
