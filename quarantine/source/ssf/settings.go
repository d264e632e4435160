package ssf

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine/source/set"
)

// Delivery is how a stream's tokens reach us.
type Delivery string

const (
	Push Delivery = "push" // RFC 8935
	Poll Delivery = "poll" // RFC 8936
)

// Ways in which the identifier of a device is understood.
const (
	ByID     = "id"     // the gateway's own id of a device
	BySerial = "serial" // the hardware serial number that the one-time password named
	ByName   = "name"   // chosen by whoever enrolls: see docs/shared-signals.md before using it
)

const (
	// DefaultMaxAge is how old a token may be, by its iat.
	DefaultMaxAge = 7 * 24 * time.Hour
	// LongestMaxAge bounds MaxAge: what was seen is kept for so long.
	LongestMaxAge = 30 * 24 * time.Hour

	defaultPollEvery = 15 * time.Second
	defaultMaxEvents = 100
	maxMaxEvents     = 1000
)

// Settings say which transmitter a stream is of, and how it is reached. They are kept as
// JSON; the secrets beside them are not among them.
type Settings struct {
	Issuer   string          `json:"issuer"`             // iss, exactly
	Audience []string        `json:"audience"`           // aud, one of which must be in a token
	JWKS     json.RawMessage `json:"jwks,omitempty"`     // the issuer's keys; or
	JWKSURI  string          `json:"jwks_uri,omitempty"` // where it publishes them; neither: as its well-known document says
	Delivery Delivery        `json:"delivery"`
	MaxAge   string          `json:"max_age,omitempty"` // of a token by its iat, like "168h"

	PollURL   string `json:"poll_url,omitempty"`   // delivery poll
	PollEvery string `json:"poll_every,omitempty"` // wait after an empty answer that came at once
	MaxEvents int    `json:"max_events,omitempty"` // of one poll

	StreamID string `json:"stream_id,omitempty"` // at the transmitter; empty: the only one
	Manage   bool   `json:"manage,omitempty"`    // ask the transmitter for the stream's status every so often
	TokenURL string `json:"token_url,omitempty"` // OAuth 2.0 client credentials; empty: the bearer secret is sent as it is
	ClientID string `json:"client_id,omitempty"`
	Scope    string `json:"scope,omitempty"`

	Allow []netip.Prefix `json:"allow,omitempty"` // private networks that its URLs may lead to
	Roots string         `json:"roots,omitempty"` // PEM: who vouches for its servers; empty: the system's

	DeviceBy    []string `json:"device_by,omitempty"`    // "id", "serial", "name"; empty: id and serial
	DeviceField string   `json:"device_field,omitempty"` // field of the subject that names the device; empty: by its format
	UserIssuer  string   `json:"user_issuer,omitempty"`  // iss of users in iss_sub; empty: Issuer
}

// Secret names one of a stream's secrets. They are written and never read back.
type Secret string

const (
	// Authorization is the Authorization header that a push must bear, whole.
	Authorization Secret = "authorization"
	// Bearer is what is sent to the transmitter as a bearer token.
	Bearer Secret = "bearer"
	// ClientSecret is that of OAuth 2.0 client credentials.
	ClientSecret Secret = "client_secret"
)

// Secrets are all kinds of them.
var Secrets = []Secret{Authorization, Bearer, ClientSecret}

// ParseSettings reads settings as they are kept, unknown names refused.
func ParseSettings(b []byte) (Settings, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var s Settings
	if err := d.Decode(&s); err != nil {
		return Settings{}, fmt.Errorf("reading settings: %w", err)
	}
	return s, s.Check()
}

// Check returns all faults at once.
func (s Settings) Check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if s.Issuer == "" {
		fault("issuer is missing: the transmitter's iss, letter by letter")
	}
	if len(s.Audience) == 0 || slices.Contains(s.Audience, "") {
		fault("audience is missing: the aud that the transmitter sends to this gateway")
	}
	if len(s.JWKS) > 0 && s.JWKSURI != "" {
		fault("jwks and jwks_uri: give one of them")
	}
	if len(s.JWKS) > 0 {
		if _, err := set.ParseKeys(s.JWKS); err != nil {
			fault("jwks: %w", err)
		}
	} else if s.JWKSURI == "" {
		if _, err := wellKnown(s.Issuer); err != nil {
			fault("jwks or jwks_uri is missing: the issuer is no https URL that has a well-known document")
		}
	}
	for name, v := range map[string]string{"jwks_uri": s.JWKSURI, "poll_url": s.PollURL, "token_url": s.TokenURL} {
		if _, err := httpsURL(v); v != "" && err != nil {
			fault("%s: %w", name, err)
		}
	}
	switch s.Delivery {
	case Push:
	case Poll:
		if s.PollURL == "" {
			fault("poll_url is missing: the endpoint_url of the stream")
		}
	default:
		fault("delivery is %.20q: write push or poll", string(s.Delivery))
	}
	if s.TokenURL != "" && s.ClientID == "" {
		fault("client_id is missing: token_url needs one")
	}
	faults = append(faults, s.checkBounds()...)
	return errors.Join(faults...)
}

func (s Settings) checkBounds() (faults []error) {
	if _, err := within(s.MaxAge, DefaultMaxAge, time.Minute, LongestMaxAge); err != nil {
		faults = append(faults, fmt.Errorf("max_age: %w", err))
	}
	if _, err := within(s.PollEvery, defaultPollEvery, time.Second, time.Hour); err != nil {
		faults = append(faults, fmt.Errorf("poll_every: %w", err))
	}
	if s.MaxEvents < 0 || s.MaxEvents > maxMaxEvents {
		faults = append(faults, fmt.Errorf("max_events is %d: write 1 to %d", s.MaxEvents, maxMaxEvents))
	}
	for _, by := range s.DeviceBy {
		if by != ByID && by != BySerial && by != ByName {
			faults = append(faults, fmt.Errorf("device_by has %.20q: write id, serial or name", by))
		}
	}
	for _, p := range s.Allow {
		if !p.IsValid() || p != p.Masked() {
			faults = append(faults, fmt.Errorf("allow: %s is no network", p))
		}
	}
	if s.Roots != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.Roots)) {
		faults = append(faults, errors.New("roots holds no certificate in PEM"))
	}
	return faults
}

// within reads a duration between two bounds; empty is its default.
func within(text string, empty, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return empty, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("%.30q: write %s to %s", text, least, most)
	}
	return d, nil
}

func (s Settings) maxAge() time.Duration {
	d, _ := within(s.MaxAge, DefaultMaxAge, time.Minute, LongestMaxAge)
	return d
}

func (s Settings) pollEvery() time.Duration {
	d, _ := within(s.PollEvery, defaultPollEvery, time.Second, time.Hour)
	return d
}

func (s Settings) maxEvents() int {
	if s.MaxEvents == 0 {
		return defaultMaxEvents
	}
	return s.MaxEvents
}

func (s Settings) deviceBy() []string {
	if len(s.DeviceBy) == 0 {
		return []string{ByID, BySerial}
	}
	return s.DeviceBy
}

func (s Settings) userIssuer() string {
	if s.UserIssuer == "" {
		return s.Issuer
	}
	return s.UserIssuer
}

// SameServers reports whether secrets that are sent under s reach the same servers under next: its
// URLs, those that the issuer publishes, and who vouches for them are the same.
func (s Settings) SameServers(next Settings) bool {
	return s.Issuer == next.Issuer && s.JWKSURI == next.JWKSURI && s.TokenURL == next.TokenURL && s.PollURL == next.PollURL &&
		s.Roots == next.Roots && slices.Equal(s.Allow, next.Allow)
}

// httpsURL reads an absolute https URL without credentials or fragment.
func httpsURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(text) > 2048 {
		return nil, fmt.Errorf("%.80q is no https URL", text)
	}
	return u, nil
}

// wellKnown is where an issuer's configuration is (SSF 1.0 section 7.2).
func wellKnown(issuer string) (string, error) {
	u, err := httpsURL(issuer)
	if err != nil || u.RawQuery != "" {
		return "", fmt.Errorf("issuer %.80q is no https URL without query", issuer)
	}
	u.Path = "/.well-known/ssf-configuration" + strings.TrimSuffix(u.Path, "/")
	u.RawPath = ""
	return u.String(), nil
}
