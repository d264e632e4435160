package cmp

import (
	"bytes"
	"fmt"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// MaxSize is the largest message, in bytes.
const MaxSize = 64 << 10

const (
	maxDepth    = 24   // a name in a certificate in a reply lies 12 deep
	maxElements = 4096 // of the whole message; a reply with a chain has about 300
	maxList     = 64   // of any one SEQUENCE OF
)

// strict checks that in is a run of DER elements within the bounds of depth and number, as
// far as that can be told without knowing the type: definite minimal lengths, canonical
// universal primitives, no constructed strings.
func strict(in cryptobyte.String, depth int, left *int) error {
	for !in.Empty() {
		var content cryptobyte.String
		var tag asn1.Tag
		if !in.ReadAnyASN1(&content, &tag) {
			return fmt.Errorf("%w: an element's tag or length is not DER", ErrFormat)
		}
		if *left--; *left < 0 || depth <= 0 {
			return fmt.Errorf("%w: more elements or levels than any message needs", ErrFormat)
		}
		if tag&0x20 == 0 {
			if !canonical(tag, content) {
				return fmt.Errorf("%w: a value of type %#x is not DER", ErrFormat, uint8(tag))
			}
			continue
		}
		if tag&0xc0 == 0 && tag != asn1.SEQUENCE && tag != asn1.SET {
			return fmt.Errorf("%w: a constructed value of type %#x", ErrFormat, uint8(tag))
		}
		if err := strict(content, depth-1, left); err != nil {
			return err
		}
	}
	return nil
}

// canonical judges one primitive value.
func canonical(tag asn1.Tag, v []byte) bool {
	switch tag {
	case 0, 0x10, 0x11: // end-of-contents, primitive SEQUENCE and SET
		return false
	case asn1.BOOLEAN:
		return len(v) == 1 && (v[0] == 0 || v[0] == 0xff)
	case asn1.INTEGER, asn1.ENUM:
		return len(v) > 0 && (len(v) == 1 || !(v[0] == 0 && v[1] < 0x80 || v[0] == 0xff && v[1] >= 0x80))
	case asn1.NULL:
		return len(v) == 0
	case asn1.BIT_STRING:
		if len(v) < 2 {
			return len(v) == 1 && v[0] == 0
		}
		return v[0] < 8 && v[len(v)-1]&(1<<v[0]-1) == 0
	case asn1.OBJECT_IDENTIFIER:
		return canonicalOID(v)
	case asn1.UTF8String:
		return utf8.Valid(v)
	}
	return true
}

func canonicalOID(v []byte) bool {
	start := true // of an arc, which has no leading zero digit
	for _, b := range v {
		if start && b == 0x80 {
			return false
		}
		start = b < 0x80
	}
	return len(v) > 0 && start
}

// reader reads DER that strict has passed. The first fault sticks, is shared with every
// reader entered from this one, and leaves them all empty.
type reader struct {
	in    cryptobyte.String
	fault *string
}

func newReader(der []byte) *reader { return &reader{in: der, fault: new(string)} }

func (r *reader) ok() bool { return *r.fault == "" }

func (r *reader) err() error {
	if r.ok() {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrFormat, *r.fault)
}

func (r *reader) fail(what string) {
	if r.ok() {
		*r.fault = what
	}
	r.in = nil
}

func (r *reader) sub(in cryptobyte.String) *reader { return &reader{in: in, fault: r.fault} }

// enter reads one element and returns a reader of its content.
func (r *reader) enter(tag asn1.Tag, what string) *reader {
	var content cryptobyte.String
	if !r.ok() || !r.in.ReadASN1(&content, tag) {
		r.fail(what)
		return r.sub(nil)
	}
	return r.sub(content)
}

func (r *reader) optional(tag asn1.Tag, what string) (*reader, bool) {
	if !r.ok() || !r.in.PeekASN1Tag(tag) {
		return nil, false
	}
	return r.enter(tag, what), true
}

func (r *reader) end(what string) {
	if !r.in.Empty() {
		r.fail("something follows " + what)
	}
}

// list reads a SEQUENCE SIZE (1..MAX) OF under tag. each must read one element.
func (r *reader) list(tag asn1.Tag, what string, each func(*reader)) {
	if n := r.listOrNone(tag, what, each); n == 0 {
		r.fail("an empty list of " + what)
	}
}

// listOrNone reads a SEQUENCE OF that may be empty, and returns its length.
func (r *reader) listOrNone(tag asn1.Tag, what string, each func(*reader)) int {
	l := r.enter(tag, what)
	count := 0
	for ; l.ok() && !l.in.Empty(); count++ {
		if count == maxList {
			l.fail("too many of " + what)
			break
		}
		each(l)
	}
	return count
}

// element reads one element whole, of any type or of one.
func (r *reader) element(what string) []byte {
	var e cryptobyte.String
	var tag asn1.Tag
	if !r.ok() || !r.in.ReadAnyASN1Element(&e, &tag) {
		r.fail(what)
		return nil
	}
	return e
}

func (r *reader) elementOf(tag asn1.Tag, what string) []byte {
	if !r.ok() || !r.in.PeekASN1Tag(tag) {
		r.fail(what)
		return nil
	}
	return r.element(what)
}

func (r *reader) octets(what string) []byte { return r.bytes(asn1.OCTET_STRING, what) }

func (r *reader) bytes(tag asn1.Tag, what string) []byte { return r.enter(tag, what).in }

func (r *reader) integer(what string) int64 {
	var v int64
	if !r.ok() || !r.in.ReadASN1Integer(&v) {
		r.fail(what)
		return 0
	}
	return v
}

func (r *reader) oid(what string) OID { return OID(r.bytes(asn1.OBJECT_IDENTIFIER, what)) }

func (r *reader) bits(what string) []byte {
	b := r.bytes(asn1.BIT_STRING, what)
	if len(b) == 0 || b[0] != 0 {
		r.fail(what)
		return nil
	}
	return b[1:]
}

func (r *reader) time(what string) time.Time {
	var t time.Time
	utc := bytes.HasSuffix(r.in, []byte("Z"))
	if !r.ok() || !r.in.ReadASN1GeneralizedTime(&t) || !utc {
		r.fail(what)
		return time.Time{}
	}
	return t.UTC()
}

func (r *reader) texts(tag asn1.Tag, what string) []string {
	var out []string
	r.list(tag, what, func(l *reader) { out = append(out, string(l.bytes(asn1.UTF8String, what))) })
	return out
}

// name reads a GeneralName: one element of context class.
func (r *reader) name(what string) GeneralName {
	e := r.element(what)
	if len(e) == 0 || e[0]&0xc0 != 0x80 || e[0]&0x1f > 8 {
		r.fail(what)
		return nil
	}
	if e[0] == 0xa4 {
		n := r.sub(e)
		n = n.enter(context(4), what)
		n.elementOf(asn1.SEQUENCE, what)
		n.end(what)
	}
	return e
}

func context(n uint8) asn1.Tag   { return asn1.Tag(n).ContextSpecific().Constructed() }
func primitive(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific() }
