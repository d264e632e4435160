package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Names of the headers, as Standard Webhooks has them.
const (
	HeaderID        = "Webhook-Id"
	HeaderTime      = "Webhook-Timestamp" // Unix seconds
	HeaderSignature = "Webhook-Signature" // "v1,BASE64", several apart by spaces
)

const (
	secretPrefix  = "whsec_"
	secretBytes   = 32  // of a new secret
	leastSecret   = 24  // bytes; the specification wants 24 to 64
	mostSecret    = 64  // bytes
	mostID        = 128 // bytes of an id
	mostSignature = 1024
	mostSigned    = 8 // signatures looked at
)

// Secret is a key that sender and receiver share. The zero Secret signs nothing.
type Secret struct{ key []byte }

// NewSecret draws a secret of 256 bits.
func NewSecret() Secret {
	key := make([]byte, secretBytes)
	rand.Read(key)
	return Secret{key}
}

// ParseSecret reads a secret as String writes it: whsec_ and the key in base64.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(key) < leastSecret || len(key) > mostSecret {
		return Secret{}, fmt.Errorf("a webhook's secret is whsec_ and %d to %d bytes in base64", leastSecret, mostSecret)
	}
	return Secret{key}, nil
}

// String is the secret as libraries of Standard Webhooks take it. It belongs in no log.
func (s Secret) String() string { return secretPrefix + base64.StdEncoding.EncodeToString(s.key) }

// Hex is the key alone in hexadecimal, as openssl takes it.
func (s Secret) Hex() string { return fmt.Sprintf("%x", s.key) }

// IsZero reports whether there is no key.
func (s Secret) IsZero() bool { return len(s.key) == 0 }

// mac is the HMAC-SHA-256 over what Standard Webhooks signs: id, time stamp and body with
// full stops between them.
func (s Secret) mac(id, stamp string, body []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte(id + "." + stamp + "."))
	m.Write(body)
	return m.Sum(nil)
}

// Sign writes the three headers of a message. More than one secret gives more than one
// signature, so that a receiver may know the old or the new one while they change.
func Sign(h http.Header, id string, at time.Time, body []byte, secrets ...Secret) {
	stamp := strconv.FormatInt(at.Unix(), 10)
	var all []string
	for _, s := range secrets {
		if !s.IsZero() {
			all = append(all, "v1,"+base64.StdEncoding.EncodeToString(s.mac(id, stamp, body)))
		}
	}
	h.Set(HeaderID, id)
	h.Set(HeaderTime, stamp)
	h.Set(HeaderSignature, strings.Join(all, " "))
}

// head is what the headers of a message say.
type head struct {
	id, stamp  string
	at         time.Time
	signatures [][]byte
}

// parseHead reads the headers. Each must be there once.
func parseHead(h http.Header) (head, error) {
	var out head
	for name, to := range map[string]*string{HeaderID: &out.id, HeaderTime: &out.stamp} {
		all := h.Values(name)
		if len(all) != 1 {
			return head{}, fmt.Errorf("%d headers %s, want 1", len(all), strings.ToLower(name))
		}
		*to = all[0]
	}
	if !plainID(out.id) {
		return head{}, fmt.Errorf("webhook-id is not 1 to %d letters, digits, '-', '_' and ':'", mostID)
	}
	seconds, err := strconv.ParseInt(out.stamp, 10, 64)
	if err != nil || seconds <= 0 || seconds >= 1<<40 || strconv.FormatInt(seconds, 10) != out.stamp {
		return head{}, errors.New("webhook-timestamp is no number of seconds since 1970")
	}
	out.at = time.Unix(seconds, 0).UTC()
	out.signatures, err = parseSignatures(h.Values(HeaderSignature))
	return out, err
}

// plainID allows no full stop: id and time stamp are told apart by one where they are signed.
func plainID(id string) bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != ':' {
			return false
		}
	}
	return id != "" && len(id) <= mostID
}

func parseSignatures(values []string) ([][]byte, error) {
	if len(values) != 1 || len(values[0]) > mostSignature {
		return nil, errors.New("not one webhook-signature of a fair length")
	}
	var out [][]byte
	for i, one := range strings.Fields(values[0]) {
		encoded, v1 := strings.CutPrefix(one, "v1,")
		if i == mostSigned {
			return nil, fmt.Errorf("more than %d signatures", mostSigned)
		}
		if !v1 {
			continue // of a version that is not known here
		}
		mac, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(mac) != sha256.Size {
			return nil, errors.New("a signature v1 is no SHA-256 in base64")
		}
		out = append(out, mac)
	}
	if len(out) == 0 {
		return nil, errors.New("no signature v1")
	}
	return out, nil
}

// signed reports whether one of the signatures is of one of the secrets. It does the same
// work whichever it is.
func (h head) signed(body []byte, secrets []Secret) bool {
	ok := false
	for _, s := range secrets {
		if s.IsZero() {
			continue
		}
		want := s.mac(h.id, h.stamp, body)
		for _, mac := range h.signatures {
			if hmac.Equal(mac, want) {
				ok = true
			}
		}
	}
	return ok
}
