package update

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
	"time"

	"lazaret/appliance"
)

// ChannelFile is the file in a channel's directory that says what there is: signed like a
// bundle's manifest, with words of its own, and nothing behind the signatures.
const ChannelFile = "lazaret.channel"

// MaxChannel bounds that file, in bytes.
const MaxChannel = maxSigned + 1024

// maxFresh is how long a channel may promise to be fresh.
const maxFresh = 90 * 24 * time.Hour

// maxAhead is how far a channel's clock may be ahead of the machine's.
const maxAhead = 24 * time.Hour

// Channel says what there is to update to. Bundles are beside it, in one directory.
type Channel struct {
	V        int       `json:"v"` // 1
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"` // a mirror that shows it later hides what is new
	Releases []Release `json:"releases"`
}

// Release is one bundle of a channel, and who may take it when.
type Release struct {
	Version      string    `json:"version"`
	Architecture string    `json:"architecture"`
	Flavour      string    `json:"flavour"`
	Follows      string    `json:"follows"`
	File         string    `json:"file"`    // in the channel's directory
	Size         int64     `json:"size"`    // of the bundle, bytes
	SHA256       string    `json:"sha256"`  // of its image, as in its manifest: this bundle and no other
	Percent      int       `json:"percent"` // of machines that take it by themselves; 0: none
	Start        time.Time `json:"start"`   // when the first of them does
	Hours        int       `json:"hours"`   // over which the others follow
	Notes        string    `json:"notes,omitempty"`
}

var (
	fileForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~+-]{0,120}$`) })
	nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`) })
)

// Check says what is wrong with a channel.
func (c Channel) Check() error {
	switch {
	case c.V != 1:
		return refused("the channel is of version %d; this build knows 1", c.V)
	case !nameForm().MatchString(c.Name):
		return refused("the channel has no name")
	case !c.Expires.After(c.Created) || c.Expires.Sub(c.Created) > maxFresh:
		return refused("the channel is fresh from %s to %s, which is longer than %s", c.Created.Format(time.DateOnly), c.Expires.Format(time.DateOnly), maxFresh)
	case len(c.Releases) > 100:
		return refused("the channel has %d releases", len(c.Releases))
	}
	for _, r := range c.Releases {
		switch {
		case !ValidVersion(r.Version) || !ValidVersion(r.Follows) || CompareVersions(r.Follows, r.Version) >= 0:
			return refused("the channel has version %q after %q", r.Version, r.Follows)
		case !flavourForm().MatchString(r.Architecture) || !flavourForm().MatchString(r.Flavour):
			return refused("the channel's version %s has no architecture or flavour", r.Version)
		case !fileForm().MatchString(r.File) || r.Size < 1 || r.Size > MaxImage+MaxChannel:
			return refused("the channel's version %s has no file of a fitting size", r.Version)
		case !sumForm().MatchString(r.SHA256):
			return refused("the channel's version %s has no SHA-256", r.Version)
		case r.Percent < 0 || r.Percent > 100 || r.Hours < 0 || r.Hours > 24*90:
			return refused("the channel gives version %s to %d percent over %d hours", r.Version, r.Percent, r.Hours)
		}
		if err := checkNotes(r.Notes); err != nil {
			return err
		}
	}
	return nil
}

// OpenChannel reads a channel. It is believed where it is signed and fresh at now, and not
// older than the one seen before.
func OpenChannel(text []byte, keys Keys, now, before time.Time) (Channel, error) {
	r := bytes.NewReader(text)
	signed, err := channels.open(r, keys)
	if err != nil {
		return Channel{}, fmt.Errorf("opening the channel: %w", err)
	}
	if r.Len() > 0 {
		return Channel{}, refused("something follows the channel")
	}
	var c Channel
	if err := decode(signed, &c); err != nil {
		return c, fmt.Errorf("opening the channel: %w", err)
	}
	if err := c.Check(); err != nil {
		return c, err
	}
	switch {
	case !now.Before(c.Expires):
		return c, refused("the channel was good until %s: the server shows an old one, or nobody renews it", c.Expires.UTC().Format(time.RFC3339))
	case c.Created.After(now.Add(maxAhead)):
		return c, refused("the channel is of %s: one of the clocks is wrong", c.Created.UTC().Format(time.RFC3339))
	case c.Created.Before(before):
		return c, refused("the channel is of %s, and a newer one was seen before", c.Created.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// Sign makes the channel's file.
func (c Channel) Sign(keys ...ed25519.PrivateKey) ([]byte, error) {
	c.V = 1
	if err := c.Check(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return channels.seal(text, keys)
}

// Next returns the newest release that a machine may take after what it runs, which need
// not be the newest that there is. behind is that one: empty where nothing is newer.
func (c Channel) Next(version, architecture, flavour string) (next Release, behind string) {
	for _, r := range c.Releases {
		if r.Architecture != architecture || r.Flavour != flavour || CompareVersions(r.Version, version) <= 0 {
			continue
		}
		if behind == "" || CompareVersions(r.Version, behind) > 0 {
			behind = r.Version
		}
		if CompareVersions(r.Follows, version) <= 0 && (next.Version == "" || CompareVersions(r.Version, next.Version) > 0) {
			next = r
		}
	}
	return next, behind
}

// Due reports whether a machine of that place (0 to 99) takes the release by itself now.
func (r Release) Due(place int, now time.Time) bool {
	if place < 0 || place >= r.Percent || r.Start.IsZero() {
		return false
	}
	turn := time.Duration(r.Hours) * time.Hour / 100 * time.Duration(place)
	return !now.Before(r.Start.Add(turn))
}

// CheckSettings says what is wrong with settings of updates.
func CheckSettings(u appliance.Updates) error {
	if err := u.Check(); err != nil {
		return refused("%w", err)
	}
	return nil
}
