package set

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Subject is a subject identifier (RFC 9493), or several of one thing: Format "aliases" has
// Identifiers, Format "complex" (SSF 1.0 section 3.2) has Members, all others have Fields.
type Subject struct {
	Format      string
	Fields      map[string]string
	Identifiers []Subject
	Members     map[string]Subject // by user, device, session, tenant, org_unit, group, application or another name
}

// Formats of RFC 9493 section 3.2, and of SSF 1.0 section 3.4.
const (
	FormatAccount = "account"
	FormatEmail   = "email"
	FormatIssSub  = "iss_sub"
	FormatOpaque  = "opaque"
	FormatPhone   = "phone_number"
	FormatDID     = "did"
	FormatURI     = "uri"
	FormatAliases = "aliases"
	FormatComplex = "complex"
)

// required are the fields that a format must have; a format that is not listed is one that
// sender and receiver agreed on, and may have any.
var required = map[string][]string{
	FormatAccount: {"uri"}, FormatEmail: {"email"}, FormatIssSub: {"iss", "sub"}, FormatOpaque: {"id"},
	FormatPhone: {"phone_number"}, FormatDID: {"url"}, FormatURI: {"uri"},
	"jwt_id": {"iss", "jti"}, "saml_assertion_id": {"issuer", "assertion_id"},
}

const maxIdentifiers = 32 // aliases, members, or fields of one subject

// Opaque is a subject of format opaque.
func Opaque(id string) Subject {
	return Subject{Format: FormatOpaque, Fields: map[string]string{"id": id}}
}

// Email is a subject of format email.
func Email(address string) Subject {
	return Subject{Format: FormatEmail, Fields: map[string]string{"email": address}}
}

// Complex is a subject with members.
func Complex(members map[string]Subject) Subject {
	return Subject{Format: FormatComplex, Members: members}
}

// ParseSubject reads a subject: a JSON object.
func ParseSubject(b []byte) (Subject, error) {
	if len(b) > MaxBytes {
		return Subject{}, Refuse(InvalidRequest, "the subject is longer than %d bytes", MaxBytes)
	}
	if err := strict(b); err != nil {
		return Subject{}, Refuse(InvalidRequest, "the subject %v", err)
	}
	s, err := subject(b, true)
	if err != nil {
		return Subject{}, Refuse(InvalidRequest, "the subject %v", err)
	}
	return s, nil
}

// subject reads JSON that was found to be strict before.
func subject(raw json.RawMessage, top bool) (Subject, error) {
	m, err := members(raw)
	if err != nil {
		return Subject{}, err
	}
	if len(m) > maxIdentifiers {
		return Subject{}, fmt.Errorf("has more than %d members", maxIdentifiers)
	}
	format, err := formatOf(m)
	if err != nil {
		return Subject{}, err
	}
	s := Subject{Format: format}
	switch {
	case format == FormatComplex && top:
		s.Members, err = complexMembers(m)
	case format == FormatAliases && top:
		s.Identifiers, err = aliases(m["identifiers"])
	case format == FormatComplex || format == FormatAliases:
		err = fmt.Errorf("has format %s inside another", format)
	default:
		s.Fields, err = fields(format, m)
	}
	return s, err
}

// formatOf is the format of a subject. Drafts named it subject_type, with hyphens, and had
// none for a complex subject.
func formatOf(m map[string]json.RawMessage) (string, error) {
	if raw, ok := m["format"]; ok {
		format, err := text(raw)
		if err != nil {
			return "", fmt.Errorf("has a format that %w", err)
		}
		return format, nil
	}
	if raw, ok := m["subject_type"]; ok {
		format, err := text(raw)
		if err != nil {
			return "", fmt.Errorf("has a subject_type that %w", err)
		}
		return strings.ReplaceAll(format, "-", "_"), nil
	}
	for _, name := range []string{"user", "device", "session", "tenant", "org_unit", "group", "application"} {
		if _, ok := m[name]; ok {
			return FormatComplex, nil
		}
	}
	return "", errors.New("has no format")
}

func complexMembers(m map[string]json.RawMessage) (map[string]Subject, error) {
	out := map[string]Subject{}
	for name, raw := range m {
		if name == "format" || name == "subject_type" {
			continue
		}
		s, err := subject(raw, false)
		if err != nil {
			return nil, fmt.Errorf("has a member %.40q that %w", name, err)
		}
		out[name] = s
	}
	if len(out) == 0 {
		return nil, errors.New("is complex and has no member")
	}
	return out, nil
}

func aliases(raw json.RawMessage) ([]Subject, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || len(list) == 0 || len(list) > maxIdentifiers {
		return nil, fmt.Errorf("has no list of 1 to %d identifiers", maxIdentifiers)
	}
	var out []Subject
	for _, raw := range list {
		s, err := subject(raw, false)
		if err != nil {
			return nil, fmt.Errorf("has an identifier that %w", err)
		}
		out = append(out, s)
	}
	return out, nil
}

// fields are the strings of a simple subject; what is no string is left out where the
// format does not need it.
func fields(format string, m map[string]json.RawMessage) (map[string]string, error) {
	out := map[string]string{}
	for name, raw := range m {
		if name == "format" || name == "subject_type" {
			continue
		}
		value, err := text(raw)
		if err != nil {
			if slices.Contains(required[format], name) {
				return nil, fmt.Errorf("has a %s that %w", name, err)
			}
			continue
		}
		out[name] = value
	}
	for _, name := range required[format] {
		if out[name] == "" {
			return nil, fmt.Errorf("of format %s has no %s", format, name)
		}
	}
	return out, nil
}

// Simple are all simple identifiers of the subject: itself, or its aliases. A complex one has
// none of its own.
func (s Subject) Simple() []Subject {
	switch s.Format {
	case FormatComplex, "":
		return nil
	case FormatAliases:
		return s.Identifiers
	}
	return []Subject{s}
}

// MarshalJSON writes what ParseSubject reads.
func (s Subject) MarshalJSON() ([]byte, error) {
	m := map[string]any{"format": s.Format}
	for name, v := range s.Fields {
		m[name] = v
	}
	for name, v := range s.Members {
		m[name] = v
	}
	if s.Format == FormatAliases {
		m["identifiers"] = s.Identifiers
	}
	return json.Marshal(m)
}

// String is the subject in a log or an audit entry, in 200 bytes at most.
func (s Subject) String() string {
	b, err := json.Marshal(s)
	if err != nil {
		return s.Format
	}
	if len(b) > 200 {
		b = append(b[:197], "..."...)
	}
	return string(b)
}
