package appliance

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// Bounds of a document that a stranger may hand in.
const (
	maxDocument = 64 << 10 // bytes
	maxNodes    = 4096     // of the document's tree
)

// document decodes YAML, and JSON as the part of it, into structs by their yaml tags.
// Unlike the library's own decoder it refuses unknown and repeated keys, anchors and
// aliases, collects every fault with its line, and remembers where each value stands.
type document struct {
	lines  map[string]int // by path, like "ethernets.eth0.mtu"
	faults Faults
	also   map[string]*string // further keys at the top
}

func (d *document) fault(line int, format string, args ...any) {
	d.faults = append(d.faults, Fault{line, fmt.Sprintf(format, args...)})
}

// reporter takes what is wrong with the values that were read, but for those that could not
// be: that is said.
func (d *document) reporter() reporter {
	read := slices.Clone(d.faults)
	return func(path, format string, args ...any) {
		if said := func(f Fault) bool { return strings.HasPrefix(f.Text, path+": ") }; !slices.ContainsFunc(read, said) {
			d.fault(d.at(path), format, args...)
		}
	}
}

// at is the line of a path, or of what is nearest above it.
func (d *document) at(path string) int {
	for {
		if line := d.lines[path]; line != 0 {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return d.lines[""]
		}
		path = path[:cut]
	}
}

// sorted returns the faults in order of lines, as an error that is nil without any.
func (d *document) sorted() error {
	if len(d.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(d.faults, func(a, b Fault) int { return a.Line - b.Line })
	return d.faults
}

// root parses text and returns its one mapping, or nil after a fault.
func (d *document) root(text []byte) *yaml.Node {
	if len(text) > maxDocument {
		d.fault(0, "it has %d bytes; the most is %d", len(text), maxDocument)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, next yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		d.fault(0, "it is empty")
		return nil
	} else if err != nil {
		d.syntax(err)
		return nil
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		d.fault(next.Line, "a second document begins; there may be one only")
		return nil
	}
	if len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		d.fault(doc.Line, "it should be keys with values, like \"name: gateway\"")
		return nil
	}
	if n := d.count(&doc); n > maxNodes {
		d.fault(0, "it has more than %d values", maxNodes)
		return nil
	}
	return doc.Content[0]
}

// count returns the number of nodes, and refuses what refers to others.
func (d *document) count(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fault(n.Line, "anchors and aliases (& and *) are not taken: write the value out")
	}
	total := 1
	for _, c := range n.Content {
		if total += d.count(c); total > maxNodes {
			break
		}
	}
	return total
}

var yamlLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^yaml: (?:line (\d+): )?`) })

func (d *document) syntax(err error) {
	text, line := err.Error(), 0
	if m := yamlLine().FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1]) // none: the document as a whole
		text = text[len(m[0]):]
	}
	d.fault(line, "it cannot be read: %s", text)
}

// decode fills v, which is settable, from n.
func (d *document) decode(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		return // refused before
	}
	d.lines[path] = n.Line
	if n.Tag == "!!null" {
		return // like a key that is not there
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(n, u, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		d.decode(n, p.Elem(), path)
		v.Set(p)
	case reflect.Struct:
		if d.kind(n, yaml.MappingNode, path, "keys with values") {
			d.object(n, v, path)
		}
	case reflect.Map:
		if d.kind(n, yaml.MappingNode, path, "names with what they are") {
			d.mapping(n, v, path)
		}
	case reflect.Slice:
		if d.kind(n, yaml.SequenceNode, path, "a list, like [a, b]") {
			d.list(n, v, path)
		}
	default:
		if d.kind(n, yaml.ScalarNode, path, "one value") {
			d.scalar(n, v, path)
		}
	}
}

func (d *document) kind(n *yaml.Node, want yaml.Kind, path, what string) bool {
	if n.Kind != want {
		d.fault(n.Line, "%s should be %s", path, what)
	}
	return n.Kind == want
}

// fields are the keys of a struct with where their values go, those of embedded ones too.
func fields(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if strings.Contains(options, "inline") {
			fields(v.Field(i), into)
		} else if name != "" && name != "-" {
			into[name] = v.Field(i)
		}
	}
}

func (d *document) object(n *yaml.Node, v reflect.Value, path string) {
	known := make(map[string]reflect.Value)
	fields(v, known)
	if path == "" {
		for key, to := range d.also {
			known[key] = reflect.ValueOf(to).Elem()
		}
	}
	d.each(n, path, func(key, value *yaml.Node, at string) {
		to, ok := known[key.Value]
		if !ok {
			d.fault(key.Line, "%s is not known%s", at, hint(key.Value, known))
			return
		}
		d.decode(value, to, at)
	})
}

// retired are keys that people try, with what to write instead.
var retired = map[string]string{
	"gateway4":      "write a route to default",
	"gateway6":      "write a route to default",
	"renderer":      "there is one way only: leave it out",
	"set-name":      "links keep the kernel's names: match by macaddress instead",
	"config":        "this is network-config version 1: write version 2",
	"bridges":       "a gateway routes and does not bridge",
	"wifis":         "there is no driver for it",
	"write_files":   "nothing here runs cloud-config",
	"runcmd":        "nothing here runs cloud-config",
	"users":         "nothing here runs cloud-config",
	"ssh_pwauth":    "nothing here runs cloud-config",
	"packages":      "nothing here runs cloud-config",
	"dhcp-identity": "the card's hardware address identifies it",
}

func hint(key string, known map[string]reflect.Value) string {
	if why := retired[key]; why != "" {
		return ": " + why
	}
	var names []string
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	return "; known are " + strings.Join(names, ", ")
}

// each calls f with every key and value of a mapping, and refuses repeated keys.
func (d *document) each(n *yaml.Node, path string, f func(key, value *yaml.Node, at string)) {
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fault(key.Line, "a key should be one word")
			continue
		}
		at := key.Value
		if path != "" {
			at = path + "." + at
		}
		if line := seen[key.Value]; line != 0 {
			d.fault(key.Line, "%s stands on line %d already", at, line)
			continue
		}
		seen[key.Value] = key.Line
		f(key, value, at)
	}
}

func (d *document) mapping(n *yaml.Node, v reflect.Value, path string) {
	m := reflect.MakeMap(v.Type())
	d.each(n, path, func(key, value *yaml.Node, at string) {
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, e, at)
		m.SetMapIndex(reflect.ValueOf(key.Value), e)
	})
	v.Set(m)
}

func (d *document) list(n *yaml.Node, v reflect.Value, path string) {
	for i, item := range n.Content {
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(item, e, fmt.Sprintf("%s[%d]", path, i))
		v.Set(reflect.Append(v, e))
	}
}

func (d *document) text(n *yaml.Node, u encoding.TextUnmarshaler, path string) {
	if !d.kind(n, yaml.ScalarNode, path, "one value") {
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		what := "an address, like 192.0.2.10"
		if strings.HasSuffix(fmt.Sprintf("%T", u), "Prefix") {
			what = "an address with its prefix length, like 192.0.2.10/24"
		}
		d.fault(n.Line, "%s: %q is not %s", path, n.Value, what)
	}
}

var truth = map[string]bool{"true": true, "yes": true, "on": true, "false": false, "no": false, "off": false}

func (d *document) scalar(n *yaml.Node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		b, ok := truth[strings.ToLower(n.Value)]
		if !ok {
			d.fault(n.Line, "%s: %q is neither true nor false", path, n.Value)
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, 32)
		if err != nil {
			d.fault(n.Line, "%s: %q is not a whole number", path, n.Value)
		}
		v.SetInt(i)
	default:
		d.fault(n.Line, "%s cannot be set", path)
	}
}
