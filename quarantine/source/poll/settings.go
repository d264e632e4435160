package poll

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
)

// Kind is a kind of product as an administrator meets it.
type Kind struct {
	Kind     quarantine.SourceKind
	Validity time.Duration // what a source of the kind gets as its longest validity where none is asked for
	Secrets  []string      // it needs, by name
	Optional []string      // secrets it takes besides
	// New checks settings, a JSON object, and secrets, and makes what a poller is made of.
	New func(settings []byte, secrets map[string]string) (Setup, error)
}

// Setup is a product as configured.
type Setup struct {
	Common
	Product Product
	Auth    Authorizer
	Match   Match
	Every   time.Duration // between rounds
	// Read tells from a webhook's body which hosts it is about; none: any. It is nil where
	// the product sends none.
	Read func(body []byte) (ids []string, err error)
}

// Common are the settings of every kind.
type Common struct {
	URL      string `json:"url"`                // of the product's API
	CA       string `json:"ca,omitempty"`       // PEM of the only authorities to trust; empty: the system's
	Interval string `json:"interval,omitempty"` // between rounds, like "5m"
	Match    string `json:"match,omitempty"`    // "serial" or "name"
}

const (
	// SecretHook is the secret that a product's webhooks show.
	SecretHook = "hook"
	minHook    = 20 // bytes

	minInterval = 30 * time.Second
	maxInterval = 24 * time.Hour
	maxSettings = 64 << 10
	maxSecret   = 8 << 10
)

// Setup checks the common settings and puts them into s.
func (c Common) Setup(s Setup) (Setup, error) {
	s.Common = c
	var faults []error
	if _, err := CheckURL(c.URL); err != nil {
		faults = append(faults, fmt.Errorf("url: %w", err))
	}
	match, err := ParseMatch(c.Match)
	if err != nil {
		faults = append(faults, fmt.Errorf("match: %w", err))
	}
	s.Match, s.Every = match, DefaultInterval
	if c.Interval != "" {
		s.Every, err = time.ParseDuration(c.Interval)
		if err != nil || s.Every < minInterval || s.Every > maxInterval {
			faults = append(faults, fmt.Errorf("interval: %.40q is no time from %s to %s, like 5m", c.Interval, minInterval, maxInterval))
		}
	}
	if len(faults) == 0 {
		_, err = NewClient(ClientConfig{Base: c.URL, Auth: Bearer(""), Roots: c.CA})
		faults = append(faults, err)
	}
	return s, errors.Join(faults...)
}

// ReadSettings decodes settings: one JSON object, with no key that is not known.
func ReadSettings(raw []byte, into any) error {
	if len(raw) > maxSettings {
		return fmt.Errorf("they are larger than %d KiB", maxSettings>>10)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("there are none")
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// CheckSecrets refuses secrets that the kind does not know, and the lack of those it needs.
// Names alone are in its errors.
func (k Kind) CheckSecrets(secrets map[string]string) error {
	var faults []error
	for _, name := range k.Secrets {
		if secrets[name] == "" {
			faults = append(faults, fmt.Errorf("secret %q is needed", name))
		}
	}
	for name, value := range secrets {
		switch {
		case !slices.Contains(k.Secrets, name) && !slices.Contains(k.Optional, name):
			faults = append(faults, fmt.Errorf("secret %.40q is not known: it takes %s", name, strings.Join(slices.Concat(k.Secrets, k.Optional), ", ")))
		case len(value) > maxSecret || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			faults = append(faults, fmt.Errorf("secret %q is too long, or holds control characters", name))
		case name == SecretHook && len(value) < minHook:
			faults = append(faults, fmt.Errorf("secret %q is guessable: take %d characters or more, drawn at random", name, minHook))
		}
	}
	return errors.Join(faults...)
}

// Make checks settings and secrets together, and makes what a poller is made of.
func (k Kind) Make(settings []byte, secrets map[string]string) (Setup, error) {
	if err := k.CheckSecrets(secrets); err != nil {
		return Setup{}, err
	}
	return k.New(settings, secrets)
}

// List is a list of texts, or one.
type List []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *List) UnmarshalJSON(b []byte) error {
	var all []string
	if json.Unmarshal(b, &all) != nil { // null is no list, and no fault
		all = make([]string, 1)
		if json.Unmarshal(b, &all[0]) != nil {
			return errors.New("write a text, or a list of texts")
		}
	}
	if slices.Contains(all, "") {
		return errors.New("one of its texts is empty")
	}
	*l = all
	return nil
}
