package poll

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Object reads a JSON object whose fields are what their documentation says, or else are
// named as the fault. The first fault stands; every getter returns the zero value then. A
// field that is null is one that is not there.
type Object struct {
	fields map[string]json.RawMessage
	path   string // of the object, for faults
	fault  *error
}

// ReadObject reads the outermost object.
func ReadObject(body []byte) (*Object, error) {
	var fault error
	o := &Object{fault: &fault}
	if err := json.Unmarshal(body, &o.fields); err != nil || o.fields == nil {
		return nil, fmt.Errorf("the answer is no JSON object: %w", errBody)
	}
	return o, nil
}

// Err is the first fault of the object, or of one within.
func (o *Object) Err() error { return *o.fault }

// Fail notes a fault of a field that reads well but makes no sense.
func (o *Object) Fail(name, what string) {
	if *o.fault == nil {
		*o.fault = fmt.Errorf("field %q %s", o.path+name, what)
	}
}

// Has reports whether the field is there and is not null.
func (o *Object) Has(name string) bool {
	raw, ok := o.fields[name]
	return ok && !bytes.Equal(bytes.TrimSpace(raw), []byte("null"))
}

// get decodes a field that must be there.
func get[T any](o *Object, name, kind string) (v T) {
	var zero T
	if *o.fault != nil {
		return zero
	}
	if !o.Has(name) {
		o.Fail(name, "is missing")
		return zero
	}
	if json.Unmarshal(o.fields[name], &v) != nil {
		o.Fail(name, "is no "+kind)
		return zero
	}
	return v
}

// Text is a text that must be there.
func (o *Object) Text(name string) string { return get[string](o, name, "text") }

// Bool is a truth value that must be there.
func (o *Object) Bool(name string) bool { return get[bool](o, name, "truth value") }

// Int is a whole number that must be there.
func (o *Object) Int(name string) int64 { return get[int64](o, name, "whole number") }

// ID is a text or a whole number that must be there, as text: products write IDs as either.
func (o *Object) ID(name string) string {
	if *o.fault == nil && o.Has(name) {
		var n int64
		if json.Unmarshal(o.fields[name], &n) == nil {
			return strconv.FormatInt(n, 10)
		}
	}
	id := get[string](o, name, "text or whole number")
	if id == "" || len(id) > 128 {
		o.Fail(name, "is empty or too long")
		return ""
	}
	return id
}

// Enum is a text that must be there and be one of those.
func (o *Object) Enum(name string, known ...string) string {
	v := o.Text(name)
	if *o.fault == nil && !slices.Contains(known, v) {
		o.Fail(name, fmt.Sprintf("has the unheard-of value %.40q", v))
		return ""
	}
	return v
}

// Time is an instant that must be there, as of RFC 3339. One before the year 2001 is how
// products write "never": it is the zero time.
func (o *Object) Time(name string) time.Time {
	text := o.Text(name)
	if *o.fault != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		o.Fail(name, "is no time")
		return time.Time{}
	}
	if t.Year() < 2001 {
		return time.Time{}
	}
	return t.UTC()
}

// NullTime is an instant that must be there; null stands for never, the zero time.
func (o *Object) NullTime(name string) time.Time {
	if _, there := o.fields[name]; there && !o.Has(name) {
		return time.Time{}
	}
	return o.Time(name)
}

// Object is an object that must be there.
func (o *Object) Object(name string) *Object {
	in := &Object{path: o.path + name + ".", fault: o.fault}
	in.fields = get[map[string]json.RawMessage](o, name, "object")
	return in
}

// Objects is a list of objects that must be there.
func (o *Object) Objects(name string) []*Object {
	list := get[[]map[string]json.RawMessage](o, name, "list of objects")
	out := make([]*Object, len(list))
	for i, fields := range list {
		if fields == nil {
			o.Fail(name, "holds null")
			return nil
		}
		out[i] = &Object{fields: fields, path: fmt.Sprintf("%s%s[%d].", o.path, name, i), fault: o.fault}
	}
	return out
}

// Page is a list of objects that must be there, each with faults of its own: one that cannot
// be read spoils no other.
func (o *Object) Page(name string) []*Object {
	list := get[[]json.RawMessage](o, name, "list")
	out := make([]*Object, len(list))
	for i, raw := range list {
		one, err := ReadObject(raw)
		if err != nil {
			o.Fail(name, "holds something that is no object")
			return nil
		}
		out[i] = one
	}
	return out
}

// Known puts a fact into facts if the field is there and is a text, number or truth value
// that fits; it is no fault if it is not: what is not known is not told.
func (o *Object) Known(facts map[string]string, fact, name string) {
	if !o.Has(name) {
		return
	}
	var v any
	d := json.NewDecoder(bytes.NewReader(o.fields[name]))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return
	}
	switch v := v.(type) {
	case string:
		Put(facts, fact, v)
	case bool:
		Put(facts, fact, strconv.FormatBool(v))
	case json.Number:
		Put(facts, fact, v.String())
	}
}

// Plain is a text, or "" where there is none.
func (o *Object) Plain(name string) string {
	var text string
	_ = json.Unmarshal(o.fields[name], &text) // what is no text is not known
	return text
}

// Within is an object that may be missing; the empty one stands for it.
func (o *Object) Within(name string) *Object {
	var fault error
	in := &Object{path: o.path + name + ".", fault: &fault}
	if json.Unmarshal(o.fields[name], &in.fields) != nil {
		in.fields = nil
	}
	return in
}
