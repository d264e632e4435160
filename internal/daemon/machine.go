package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
	"lazaret/appliance/update"
	"lazaret/internal/alert"
	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/quarantine"
)

const (
	channelEvery = 6 * time.Hour    // how often the update channel is asked, and up to a sixth more
	channelRetry = 30 * time.Minute // after it did not answer
	windowEvery  = 5 * time.Minute  // how often it is looked whether an update may be installed
	bundleTime   = time.Hour        // the longest that a bundle may take to come
)

// machineDoor is the machine under the gateway, as the console knows it. Without an
// appliance nobody listens on its socket, and it says so.
type machineDoor struct {
	*machine.Client
	watch *channelWatch
	note  func(ctx context.Context, by quarantine.Actor, action string, detail map[string]string) error
}

var _ console.Machine = machineDoor{}

// Note implements console.Machine.
func (d machineDoor) Note(ctx context.Context, by quarantine.Actor, action string, detail map[string]string) error {
	return d.note(ctx, by, action, detail)
}

// Check implements console.Machine.
func (d machineDoor) Check(ctx context.Context) error { return tellChannel(d.watch.look(ctx)) }

// makeMachine asks the update channel, where the gateway is an appliance.
func (k *control) makeMachine(context.Context) (part, error) {
	client := machine.Connect(appliance.MachineSocket)
	note := func(ctx context.Context, by quarantine.Actor, action string, detail map[string]string) error {
		return k.store.Audit(ctx, audit.Entry{
			Actor: audit.Actor{Kind: by.Kind, Name: by.Name, Address: by.Address}, Action: action, Subject: k.config.Name, Detail: detail,
		})
	}
	self := quarantine.Actor{Kind: "gateway", Name: k.config.Name}
	w := &channelWatch{
		host: client, status: client.Status, log: k.log, now: time.Now, http: channelClient(k.config.Firewall.HTTPProxy),
		keys: func() (update.Keys, error) { return update.LoadKeys(update.KeysPath) },
		note: func(ctx context.Context, action string, detail map[string]string) error {
			return note(ctx, self, action, detail)
		},
	}
	k.machine = machineDoor{client, w, note}
	p := part{name: "updates"}
	if _, err := os.Stat(appliance.MachineSocket); err == nil {
		p.run = w.run
	}
	return p, nil
}

// channelClient asks channels over HTTPS alone, wherever they point.
func channelClient(proxy func(*http.Request) (*url.URL, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{Proxy: proxy, TLSHandshakeTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10, IdleConnTimeout: time.Minute},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Scheme != "https" || len(via) > 3 {
				return errors.New("the channel points somewhere that is not asked")
			}
			return nil
		},
	}
}

// channelWatch asks the update channel, tells the machine what it says, and has the machine
// take what is due. It needs no trust: the machine verifies every bundle itself.
type channelWatch struct {
	host   machine.Updates
	status func(context.Context) (appliance.Status, error)
	keys   func() (update.Keys, error)
	http   *http.Client
	now    func() time.Time
	note   func(ctx context.Context, action string, detail map[string]string) error
	log    *slog.Logger

	mu      sync.Mutex // held while the channel is asked
	channel string     // that said the following
	seen    time.Time  // when the newest list of it was made
	next    update.Release
}

// run asks until ctx ends. No failure of a channel ends it.
func (w *channelWatch) run(ctx context.Context) error {
	wait := time.Duration(rand.Int64N(int64(5 * time.Minute)))
	ask := w.now().Add(wait)
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if !w.now().Before(ask) {
			ask = w.now().Add(channelEvery + time.Duration(rand.Int64N(int64(channelEvery/6))))
			if err := w.look(ctx); err != nil && !errors.Is(err, errNoChannel) {
				w.log.Warn("asking the update channel", "err", err)
				ask = w.now().Add(channelRetry)
			}
		}
		if err := w.install(ctx); err != nil {
			w.log.Warn("installing an update", "err", err)
		}
		t.Reset(windowEvery)
	}
}

// errNoChannel says that there is none to ask.
var errNoChannel = fmt.Errorf("%w: no update channel is set: lazaretctl machine updates set --channel URL sets one", appliance.ErrRefused)

// look asks the channel and tells the machine what it said.
func (w *channelWatch) look(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.host.UpdateSettings(ctx)
	if err != nil {
		return err
	}
	if s.Channel == "" {
		w.next = update.Release{}
		return errNoChannel
	}
	st, err := w.status(ctx)
	if err != nil {
		return err
	}
	if w.channel != s.Channel {
		w.channel, w.seen, w.next = s.Channel, time.Time{}, update.Release{}
	}
	if s.Listed.After(w.seen) {
		w.seen = s.Listed // before this process was started
	}
	said := machine.Heard{Listed: w.seen, Checked: st.Update.Checked, Available: st.Update.Available, Since: st.Update.Since}
	list, err := w.fetch(ctx, s.Channel)
	if err != nil {
		w.next = update.Release{} // what is not known to be fresh is not taken
		said.Problem = err.Error()
		if len(said.Problem) > 500 {
			said.Problem = strings.ToValidUTF8(said.Problem[:500], "")
		}
		return errors.Join(err, w.host.Heard(ctx, said))
	}
	w.seen, said.Listed = list.Created, list.Created
	next, newest := list.Next(s.Version, s.Architecture, s.Flavour)
	w.next = next
	if said.Checked = w.now().UTC(); newest != said.Available || said.Since.IsZero() {
		said.Available, said.Since = newest, said.Checked
	}
	if newest == "" {
		said.Since = time.Time{}
	}
	return w.host.Heard(ctx, said)
}

// fetch gets a channel's list. What the channel is to blame for is a *channelError.
func (w *channelWatch) fetch(ctx context.Context, channel string) (update.Channel, error) {
	keys, err := w.keys()
	if err != nil {
		return update.Channel{}, err
	}
	list, err := w.list(ctx, channel, keys)
	if err != nil {
		return list, &channelError{channel, err}
	}
	return list, nil
}

func (w *channelWatch) list(ctx context.Context, channel string, keys update.Keys) (update.Channel, error) {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	resp, err := w.get(ctx, channel, update.ChannelFile)
	if err != nil {
		return update.Channel{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, update.MaxChannel+1))
	if err != nil {
		return update.Channel{}, fmt.Errorf("reading the channel: %w", err)
	}
	return update.OpenChannel(text, keys, w.now(), w.seen)
}

// get asks for a file of the channel's directory.
func (w *channelWatch) get(ctx context.Context, channel, file string) (*http.Response, error) {
	if err := update.CheckSettings(appliance.Updates{Channel: channel}); err != nil {
		return nil, err
	}
	at, err := url.JoinPath(channel, file)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the channel: %w", withoutURL(err))
	}
	return expect(resp, file)
}

// install has the machine take the next version, if it is to do so by itself and now is the
// time. The machine restarts then.
func (w *channelWatch) install(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next.Version == "" {
		return nil
	}
	s, err := w.host.UpdateSettings(ctx)
	if err != nil {
		return err
	}
	window, err := update.ParseWindow(s.Window)
	if err != nil {
		return err
	}
	r, now := w.next, w.now()
	if !s.Automatic || s.Channel != w.channel || r.Version == s.Failed || r.Version == s.Staged || !window.Contains(now) || !r.Due(s.Place, now) {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, bundleTime)
	defer stop()
	resp, err := w.get(ctx, s.Channel, r.File)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.ContentLength >= 0 && resp.ContentLength != r.Size {
		return fmt.Errorf("getting version %s: %s has %d bytes, and the channel says %d", r.Version, r.File, resp.ContentLength, r.Size)
	}
	w.log.Info("installing an update", "version", r.Version, "file", r.File)
	got, err := w.host.StageUpdate(ctx, io.LimitReader(resp.Body, r.Size), machine.Options{Size: r.Size, Reboot: true, Automatic: true, Version: r.Version, SHA256: r.SHA256})
	action, detail := "machine.update", map[string]string{"version": got.Version, "channel": s.Channel, "reboot": "true"}
	if err != nil {
		w.next = update.Release{} // until the channel is asked again
		action, detail = "machine.update.refuse", map[string]string{"version": r.Version, "channel": s.Channel, "why": err.Error()}
	}
	return errors.Join(err, w.note(context.WithoutCancel(ctx), action, detail))
}

// machineHealth is what rules look at of the machine; nil where there is none.
func (k *control) machineHealth(ctx context.Context) *alert.MachineHealth {
	s, err := k.machine.UpdateSettings(ctx)
	if err != nil {
		return nil // not an appliance, or process 1 is busy: nothing is raised, nothing resolved
	}
	st, err := k.machine.Status(ctx)
	if err != nil {
		return nil
	}
	u := st.Update
	return &alert.MachineHealth{
		Version: s.Version, Available: u.Available, Since: u.Since, Channel: s.Channel, Checked: u.Checked, Booted: st.Booted,
		Problem: u.Problem, Failed: s.Failed, Last: u.Last,
	}
}
