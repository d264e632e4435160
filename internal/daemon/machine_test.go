package daemon

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/appliance/update"
)

// updatesHost is a machine that takes whatever it is given, and notes it.
type updatesHost struct {
	machine.Updates
	settings machine.Settings
	is       appliance.UpdateIs
	took     []string
}

func (h *updatesHost) UpdateSettings(context.Context) (machine.Settings, error) {
	return h.settings, nil
}

func (h *updatesHost) Status(context.Context) (appliance.Status, error) {
	return appliance.Status{Update: h.is}, nil
}

func (h *updatesHost) Heard(_ context.Context, s machine.Heard) error {
	h.is.Checked, h.is.Available, h.is.Since, h.is.Problem = s.Checked, s.Available, s.Since, s.Problem
	h.settings.Listed = s.Listed
	return nil
}

func (h *updatesHost) StageUpdate(_ context.Context, r io.Reader, o machine.Options) (machine.Staged, error) {
	text, err := io.ReadAll(r)
	h.took = append(h.took, fmt.Sprintf("%s %v %v %s %.4s", text, o.Reboot, o.Automatic, o.Version, o.SHA256))
	return machine.Staged{Version: "1.1.0"}, err
}

// channelLab is a channel's server, a machine and what watches the one for the other.
type channelLab struct {
	*channelWatch
	host  *updatesHost
	list  []byte
	now   time.Time
	key   ed25519.PrivateKey
	notes []string
}

func newChannelLab(t *testing.T) *channelLab {
	l := &channelLab{now: time.Date(2026, 3, 1, 3, 0, 0, 0, time.UTC), key: ed25519.NewKeyFromSeed(make([]byte, 32))} // a Sunday
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stable/" + update.ChannelFile:
			_, _ = w.Write(l.list)
		case "/stable/a.update":
			_, _ = io.WriteString(w, "bundle")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	l.host = &updatesHost{settings: machine.Settings{
		Updates: appliance.Updates{Channel: s.URL + "/stable", Automatic: true, Window: "Sun 02:00-05:00"}, Version: "1.0.0", Architecture: "amd64", Flavour: "cloud", Place: 10,
	}}
	client := channelClient(nil)
	client.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	l.channelWatch = &channelWatch{
		host: l.host, status: l.host.Status, http: client, now: func() time.Time { return l.now }, log: slog.New(slog.DiscardHandler),
		keys: func() (update.Keys, error) {
			pub := l.key.Public().(ed25519.PublicKey)
			return update.Keys{update.IDOf(pub): pub}, nil
		},
		note: func(_ context.Context, action string, detail map[string]string) error {
			l.notes = append(l.notes, fmt.Sprint(action, " ", detail["version"]))
			return nil
		},
	}
	l.publish(t, update.Release{})
	return l
}

// publish signs a list with version 1.1.0, changed by more.
func (l *channelLab) publish(t *testing.T, more update.Release) {
	t.Helper()
	r := update.Release{Version: "1.1.0", Architecture: "amd64", Flavour: "cloud", Follows: "0.9.0", File: "a.update", Size: 6, SHA256: strings.Repeat("0a", 32), Percent: 100, Start: l.now.Add(-time.Hour)}
	if more.Percent != 0 {
		r.Percent, r.Start, r.Hours = more.Percent, more.Start, more.Hours
	}
	if more.Size != 0 {
		r.Size = more.Size
	}
	text, err := update.Channel{Name: "stable", Created: l.now.Add(-time.Minute), Expires: l.now.Add(7 * 24 * time.Hour), Releases: []update.Release{r}}.Sign(l.key)
	if err != nil {
		t.Fatal(err)
	}
	l.list = text
}

// TestChannelIsFollowed: what is there is told; it is installed by itself where the machine
// does so, in its window, in its turn, and once.
func TestChannelIsFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(l *channelLab)
		more   update.Release
		takes  bool
	}{
		"in the window":     {nil, update.Release{}, true},
		"outside":           {func(l *channelLab) { l.host.settings.Window = "Mon 02:00-05:00" }, update.Release{}, false},
		"by hand":           {func(l *channelLab) { l.host.settings.Automatic = false }, update.Release{}, false},
		"not its turn":      {nil, update.Release{Percent: 5, Start: time.Unix(1, 0)}, false},
		"its turn later":    {nil, update.Release{Percent: 100, Start: time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC), Hours: 20}, false},
		"it came back":      {func(l *channelLab) { l.host.settings.Failed = "1.1.0" }, update.Release{}, false},
		"staged already":    {func(l *channelLab) { l.host.settings.Staged = "1.1.0" }, update.Release{}, false},
		"other channel now": {func(l *channelLab) { l.host.settings.Channel += "/other" }, update.Release{}, false},
	} {
		l := newChannelLab(t)
		l.publish(t, c.more)
		if err := l.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if is := l.host.is; is.Available != "1.1.0" || !is.Since.Equal(l.now) || !is.Checked.Equal(l.now) || is.Problem != "" {
			t.Errorf("%s: told %+v", name, is)
		}
		if c.change != nil {
			c.change(l)
		}
		if err := l.install(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if took := strings.Join(l.host.took, ";"); c.takes && (took != "bundle true true 1.1.0 0a0a" || strings.Join(l.notes, ";") != "machine.update 1.1.0") || !c.takes && took != "" {
			t.Errorf("%s: took %q, noted %q", name, took, l.notes)
		}
	}
}

// TestChannelIsNotBelieved: nothing is taken from a list that is not ours, out of date or
// older than one seen, and what was known stays known.
func TestChannelIsNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(l *channelLab){
		"changed":     func(l *channelLab) { l.list[40] ^= 1 },
		"another key": func(l *channelLab) { l.key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)) },
		"out of date": func(l *channelLab) { l.now = l.now.Add(14 * 24 * time.Hour) },
		"older":       func(l *channelLab) { l.seen = l.now.Add(time.Hour) },
		"gone":        func(l *channelLab) { l.list = nil },
		"older, after a restart": func(l *channelLab) {
			l.now = l.now.Add(time.Hour)
			old := l.list
			l.publish(t, update.Release{})
			if err := l.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.now, l.list = l.now.Add(-time.Hour), old
			l.channel, l.seen = "", time.Time{}
			l.host.is.Checked = l.now
		},
	} {
		l := newChannelLab(t)
		if err := l.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := l.now.Add(-time.Minute); !l.host.settings.Listed.Equal(want) {
			t.Errorf("%s: the list of %s is told as of %s", name, want, l.host.settings.Listed)
		}
		first := l.now
		spoil(l)
		if err := l.look(t.Context()); !errors.Is(err, appliance.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
		if is := l.host.is; is.Available != "1.1.0" || !is.Checked.Equal(first) || is.Problem == "" {
			t.Errorf("%s: told %+v", name, is)
		}
		if err := l.install(t.Context()); err != nil || len(l.host.took) > 0 {
			t.Errorf("%s: %v, took %q", name, err, l.host.took)
		}
	}
	l := newChannelLab(t)
	l.publish(t, update.Release{Size: 7})
	if err := errors.Join(l.look(t.Context()), l.install(t.Context())); err == nil || len(l.host.took) > 0 {
		t.Errorf("a bundle of another size: %v, took %q", err, l.host.took)
	}
	l.host.settings.Channel = ""
	if err := l.look(t.Context()); !errors.Is(err, errNoChannel) {
		t.Errorf("without a channel: %v", err)
	}
	plain := &http.Request{URL: mustURL(t, "http://mirror.example/x")}
	if err := channelClient(nil).CheckRedirect(plain, nil); err == nil {
		t.Error("a redirect to http is followed")
	}
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
