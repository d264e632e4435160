package set

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// algorithms are those that may be taken. None is not among them, nor is any that signs
// with what verifies: with a public key for a secret, anybody could sign.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}

// Unverified is a token that has the form of one, and that nobody has vouched for yet.
type Unverified struct {
	Issuer string // who it says it is of
	KeyID  string // kid

	algorithm jose.SignatureAlgorithm
	jws       *jose.JSONWebSignature
	token     Token
}

// Parse reads a token in JWS compact form. What it returns is not to be acted on before
// Verify.
func Parse(compact string) (*Unverified, error) {
	if len(compact) > MaxBytes {
		return nil, Refuse(InvalidRequest, "the token is longer than %d bytes", MaxBytes)
	}
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, Refuse(InvalidRequest, "the token is no JWS in compact form")
	}
	var raw [3][]byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.DecodeString(part)
		// One byte string has one encoding: else a token could be changed and stay valid.
		if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
			return nil, Refuse(InvalidRequest, "part %d of the token is no base64url", i+1)
		}
		raw[i] = b
	}
	u := &Unverified{}
	if err := u.header(raw[0]); err != nil {
		return nil, err
	}
	if err := u.token.payload(raw[1]); err != nil {
		return nil, err
	}
	u.Issuer = u.token.Issuer
	u.token.Sum = sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if len(raw[2]) == 0 {
		return nil, Refuse(AuthenticationFailed, "the token is not signed")
	}
	jws, err := jose.ParseSignedCompact(compact, algorithms)
	if err != nil {
		return nil, Refuse(InvalidRequest, "the token is no JWS in compact form")
	}
	u.jws = jws
	return u, nil
}

// header checks the JOSE header (RFC 8417 section 2.3). Keys in it are never looked at.
func (u *Unverified) header(raw []byte) error {
	h, err := object(raw)
	if err != nil {
		return Refuse(InvalidRequest, "the header %v", err)
	}
	typ, err := text(h["typ"])
	if err != nil || strings.TrimPrefix(strings.ToLower(typ), "application/") != typeHeader {
		return Refuse(InvalidRequest, "the header has no typ %s", typeHeader)
	}
	if _, ok := h["crit"]; ok {
		return Refuse(InvalidRequest, "the header has crit, and no extension is known here")
	}
	alg, err := text(h["alg"])
	if err != nil {
		return Refuse(InvalidRequest, "the header's alg %v", err)
	}
	if strings.EqualFold(alg, "none") {
		return Refuse(AuthenticationFailed, "the token is not signed")
	}
	if u.algorithm = jose.SignatureAlgorithm(alg); !slices.Contains(algorithms, u.algorithm) {
		return Refuse(InvalidKey, "alg %.20q is none of %v", alg, algorithms)
	}
	if raw, ok := h["kid"]; ok {
		if u.KeyID, err = text(raw); err != nil {
			return Refuse(InvalidRequest, "the header's kid %v", err)
		}
	}
	return nil
}

// payload reads the claims (RFC 8417 section 2.2, SSF 1.0 section 4.1).
func (t *Token) payload(raw []byte) error {
	m, err := object(raw)
	if err != nil {
		return Refuse(InvalidRequest, "the payload %v", err)
	}
	for _, name := range []string{"exp", "sub"} {
		if _, ok := m[name]; ok {
			return Refuse(InvalidRequest, "the payload has %s, as other kinds of tokens do", name)
		}
	}
	for name, to := range map[string]*string{"jti": &t.ID, "iss": &t.Issuer} {
		if *to, err = text(m[name]); err != nil {
			return Refuse(InvalidRequest, "%s %v", name, err)
		}
	}
	if t.Audience, err = audience(m["aud"]); err != nil {
		return err
	}
	if t.IssuedAt, err = numericDate(m["iat"], false); err != nil {
		return Refuse(InvalidRequest, "iat %v", err)
	}
	if raw, ok := m["toe"]; ok {
		if t.Occurred, err = numericDate(raw, false); err != nil {
			return Refuse(InvalidRequest, "toe %v", err)
		}
	}
	if raw, ok := m["txn"]; ok {
		if t.Transaction, err = text(raw); err != nil {
			return Refuse(InvalidRequest, "txn %v", err)
		}
	}
	if raw, ok := m["sub_id"]; ok {
		s, err := subject(raw, true)
		if err != nil {
			return Refuse(InvalidRequest, "sub_id %v", err)
		}
		t.Subject = &s
	}
	return t.events(m["events"])
}

const maxAudience = 32

func audience(raw json.RawMessage) ([]string, error) {
	if raw == nil {
		return nil, Refuse(InvalidAudience, "the payload has no aud")
	}
	list := []json.RawMessage{raw}
	if raw[0] == '[' {
		if err := json.Unmarshal(raw, &list); err != nil || len(list) > maxAudience {
			return nil, Refuse(InvalidRequest, "aud has more than %d entries", maxAudience)
		}
	}
	out := []string{}
	for _, raw := range list {
		one, err := text(raw)
		if err != nil {
			return nil, Refuse(InvalidRequest, "aud %v", err)
		}
		out = append(out, one)
	}
	return out, nil
}

const maxEvents = 16 // of one token; SSF 1.0 section 4.2 wants one

func (t *Token) events(raw json.RawMessage) error {
	all, err := members(raw)
	if err != nil || len(all) == 0 || len(all) > maxEvents {
		return Refuse(InvalidRequest, "events is no object with 1 to %d members", maxEvents)
	}
	for uri, raw := range all {
		if uri == "" || len(uri) > maxText {
			return Refuse(InvalidRequest, "an event has a type of %d bytes", len(uri))
		}
		claims, err := members(raw)
		if err != nil {
			return Refuse(InvalidRequest, "event %.80q %v", uri, err)
		}
		e := Event{Type: uri, Claims: claims}
		if raw, ok := claims["subject"]; ok {
			s, err := subject(raw, true)
			if err != nil {
				return Refuse(InvalidRequest, "the subject of event %.80q %v", uri, err)
			}
			e.Subject = &s
			delete(claims, "subject")
		}
		t.Events = append(t.Events, e)
	}
	slices.SortFunc(t.Events, func(a, b Event) int { return strings.Compare(a.Type, b.Type) })
	return nil
}

// Expect is what a token must be.
type Expect struct {
	Issuer   string        // exactly
	Audience []string      // one of ours must be among the token's
	Now      time.Time     // for iat
	MaxAge   time.Duration // of iat; zero: not bounded
}

// Verify returns what the token says, if it is signed with one of the issuer's keys and is
// what was expected.
func (u *Unverified) Verify(keys Keys, x Expect) (Token, error) {
	if x.Issuer == "" || u.token.Issuer != x.Issuer {
		return Token{}, Refuse(InvalidIssuer, "iss is not the issuer of this stream")
	}
	if err := u.signature(keys); err != nil {
		return Token{}, err
	}
	if !slices.ContainsFunc(u.token.Audience, func(a string) bool { return slices.Contains(x.Audience, a) }) {
		return Token{}, Refuse(InvalidAudience, "aud is not the audience of this stream")
	}
	age := x.Now.Sub(u.token.IssuedAt)
	if age < -MaxAhead {
		return Token{}, Refuse(InvalidRequest, "iat is more than %s ahead of now", MaxAhead)
	}
	if x.MaxAge > 0 && age > x.MaxAge {
		return Token{}, Refuse(InvalidRequest, "iat is more than %s ago", x.MaxAge)
	}
	if u.token.Occurred.Sub(x.Now) > MaxAhead {
		return Token{}, Refuse(InvalidRequest, "toe is more than %s ahead of now", MaxAhead)
	}
	return u.token, nil
}

// signature checks the signature with the key that kid names.
func (u *Unverified) signature(keys Keys) error {
	if u.KeyID == "" {
		return Refuse(InvalidKey, "the header names no key: kid")
	}
	var known bool
	for _, k := range keys.all {
		if k.KeyID != u.KeyID || !slices.Contains(fits(k), u.algorithm) {
			continue
		}
		known = true
		if _, err := u.jws.Verify(k.Key); err == nil {
			return nil
		}
	}
	if !known {
		return Refuse(InvalidKey, "the issuer has no key %.80q for %s", u.KeyID, u.algorithm)
	}
	return Refuse(AuthenticationFailed, "the signature is not that of key %.80q", u.KeyID)
}

// ID is the jti that the token bears.
func (u *Unverified) ID() string { return u.token.ID }
