// Package stream tells others what happens to devices: as signed webhooks, and as CAEP events
// of a Shared Signals transmitter. It follows the audit log, whose order is that of the store,
// with a cursor of its own for each receiver: at least once, in order, and after a restart from
// where it was. A receiver that does not answer holds up nobody else, and costs no memory:
// what it has not had yet lies in the audit log. It decides nothing.
package stream

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kind is how a receiver is told. There is no default.
type Kind string

const (
	Webhook Kind = "webhook" // signed messages, as Standard Webhooks has them
	SSF     Kind = "ssf"     // Security Event Tokens, pushed (RFC 8935) or asked for (RFC 8936)
)

// Status is that of a stream as SSF has it (SSF 1.0 section 8.1.2).
type Status string

const (
	Enabled  Status = "enabled"
	Paused   Status = "paused"   // kept until it is enabled
	Disabled Status = "disabled" // not kept
)

// MaxReceivers is how many there are at most: each has a goroutine and a connection.
const MaxReceivers = 32

// Receiver is who is told. The zero Receiver is none.
type Receiver struct {
	Name      string
	Kind      Kind
	URL       string         // https; empty: an SSF receiver that asks
	Events    []string       // names, or beginnings with ".*"; empty: all
	Addresses bool           // also from which address somebody acted
	Allow     []netip.Prefix // special networks that the URL may lead to all the same
	CA        string         // PEM of the authorities of its server; empty: those of the system
	Audience  string         // SSF: aud of its tokens; empty: the URL, or the stream's id
	StreamID  string         // SSF: given
	Status    Status         // SSF: what it asked for itself
	Keys      []Key          // webhook: what messages are signed with, oldest first
	TokenSum  string         // SSF: SHA-256 in hexadecimal of the token that it asks with
	Created   time.Time
	By        string
}

// Key is a key of a receiver without its secret.
type Key struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	By      string    `json:"by"`
}

// MaxKeys is how many keys a receiver has at once, while they change.
const MaxKeys = 2

var (
	// ErrInvalid reports a receiver that cannot be as asked for.
	ErrInvalid = errors.New("not acceptable")
	// ErrNotFound reports a receiver or key that does not exist.
	ErrNotFound = errors.New("no such stream")
	// ErrExists reports a name that is taken.
	ErrExists = errors.New("there is a stream of that name")
)

var nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$`) })

// Check returns all faults at once; they wrap ErrInvalid. With loopback, plain http to this
// machine is taken.
func (r Receiver) Check(loopback bool) error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...))
	}
	if !nameForm().MatchString(r.Name) {
		fault("the name is not 1 to 64 lower-case letters, digits, dots, hyphens and underscores")
	}
	if r.Kind != Webhook && r.Kind != SSF {
		fault("kind is %q, not \"webhook\" or \"ssf\"", string(r.Kind))
	}
	if r.URL == "" && r.Kind != SSF {
		fault("a webhook needs a URL")
	}
	if err := checkURL(r.URL, loopback); err != nil {
		fault("%w", err)
	}
	for _, e := range r.Events {
		if !slices.ContainsFunc(Types, func(known string) bool { return selects(e, known) }) {
			fault("no event is called %.64q: %s", e, strings.Join(Types, ", "))
		}
	}
	if len(r.Events) > 64 || len(r.Allow) > 64 || len(r.URL) > 2048 || len(r.Audience) > 512 || len(r.CA) > 64<<10 {
		fault("it is too long")
	}
	if r.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(r.CA)) {
		fault("there is no certificate in its authorities")
	}
	switch r.Status {
	case "", Enabled, Paused, Disabled:
	default:
		fault("status is %.20q", string(r.Status))
	}
	return errors.Join(faults...)
}

// checkURL wants https and a host, and no password that would stand in logs.
func checkURL(text string, loopback bool) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return errors.New("the URL is none")
	case u.User != nil:
		return errors.New("the URL holds a name or password: messages are signed instead")
	case u.Fragment != "":
		return errors.New("the URL has a fragment, which no server sees")
	case u.Scheme == "https":
		return nil
	}
	if addr, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && loopback && err == nil && addr.IsLoopback() {
		return nil
	}
	return errors.New("the URL is not https")
}

// selects reports whether a selection chooses events of a name.
func selects(selection, name string) bool {
	if begin, ok := strings.CutSuffix(selection, "*"); ok {
		return strings.HasPrefix(name, begin) && (begin == "" || strings.HasSuffix(begin, "."))
	}
	return selection == name
}

// wants reports whether the receiver is told of events of a name.
func (r Receiver) wants(name string) bool {
	return len(r.Events) == 0 || slices.ContainsFunc(r.Events, func(s string) bool { return selects(s, name) })
}

// asks reports whether the receiver asks for its tokens instead of being told.
func (r Receiver) asks() bool { return r.Kind == SSF && r.URL == "" }

// audience is aud of its tokens.
func (r Receiver) audience() string {
	switch {
	case r.Audience != "":
		return r.Audience
	case r.URL != "":
		return r.URL
	}
	return r.StreamID
}

// stored is a Receiver as it is kept.
type stored struct {
	Version   int            `json:"v"`
	Kind      Kind           `json:"kind"`
	URL       string         `json:"url,omitempty"`
	Events    []string       `json:"events,omitempty"`
	Addresses bool           `json:"addresses,omitempty"`
	Allow     []netip.Prefix `json:"allow,omitempty"`
	CA        string         `json:"ca,omitempty"`
	Audience  string         `json:"audience,omitempty"`
	StreamID  string         `json:"stream_id,omitempty"`
	Status    Status         `json:"status,omitempty"`
	Keys      []Key          `json:"keys,omitempty"`
	TokenSum  string         `json:"token_sum,omitempty"`
	Created   time.Time      `json:"created"`
	By        string         `json:"by,omitempty"`
}

const storedVersion = 1

func encode(r Receiver) (json.RawMessage, error) {
	return json.Marshal(stored{storedVersion, r.Kind, r.URL, r.Events, r.Addresses, r.Allow, r.CA, r.Audience, r.StreamID, r.Status, r.Keys, r.TokenSum, r.Created, r.By})
}

func decode(name string, raw json.RawMessage) (Receiver, error) {
	var s stored
	if err := json.Unmarshal(raw, &s); err != nil {
		return Receiver{}, fmt.Errorf("reading stream %s: %w", name, err)
	}
	if s.Version != storedVersion {
		return Receiver{}, fmt.Errorf("reading stream %s: it has version %d, this program reads %d", name, s.Version, storedVersion)
	}
	return Receiver{name, s.Kind, s.URL, s.Events, s.Addresses, s.Allow, s.CA, s.Audience, s.StreamID, s.Status, s.Keys, s.TokenSum, s.Created, s.By}, nil
}
