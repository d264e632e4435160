package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"lazaret/internal/store"
	"lazaret/internal/version"
	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/fleet"
	"lazaret/quarantine/source/intune"
	"lazaret/quarantine/source/jamf"
	"lazaret/quarantine/source/poll"
)

// products are the kinds of sources that are asked.
var products = map[quarantine.SourceKind]poll.Kind{
	quarantine.SourceFleet: fleet.Kind, quarantine.SourceIntune: intune.Kind, quarantine.SourceJamf: jamf.Kind,
}

// reread is how often sources and their settings are read again, for changes that came
// through another gateway; those that came through this one are announced.
const reread = 15 * time.Second

// pollers runs a poller for each source that is asked, and follows what is configured.
type pollers struct {
	store       *store.Store
	gate        source.Gate
	ledger      *source.Ledger
	log         *slog.Logger
	proxy       func(*http.Request) (*url.URL, error)
	connections connections
	doors       *poll.Doors
	changed     chan struct{} // capacity 1
	running     map[string]*running
}

// running is a source as it was taken up, with its poller unless it could not be made.
type running struct {
	source, settings int64 // revisions
	stop             func()
}

// makePollers asks Fleet, Intune and Jamf Pro servers, and takes their webhooks.
func (k *control) makePollers(context.Context) (part, error) {
	p := newPollers(k.store, k.gate, k.ledger, k.log)
	p.proxy, p.connections.url = k.config.Firewall.HTTPProxy, k.enrollURL()
	k.connections = p.connections
	return part{name: "pollers", run: p.run, public: map[string]http.Handler{
		"POST /sources/v1/fleet/{name}/{secret}": p.doors, "POST /sources/v1/jamf/{name}": p.doors,
	}}, nil
}

func newPollers(s *store.Store, g source.Gate, l *source.Ledger, log *slog.Logger) *pollers {
	changed := make(chan struct{}, 1)
	return &pollers{
		store: s, gate: g, ledger: l, log: log, connections: connections{store: s, changed: changed},
		doors: &poll.Doors{}, changed: changed, running: map[string]*running{},
	}
}

func (p *pollers) run(ctx context.Context) error {
	defer func() {
		for _, r := range p.running {
			r.stop()
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-timer.C:
		}
		wait := reread
		if _, err := p.gate.Device(""); errors.Is(err, quarantine.ErrNotReady) {
			wait = time.Second // without devices there is nothing to ask about
		} else if err := p.follow(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("reading the sources to ask", "err", err)
		}
		timer.Reset(wait)
	}
}

// follow starts, stops and replaces pollers so that they are what is configured.
func (p *pollers) follow(ctx context.Context) error {
	sources, err := p.store.SourceTable().List(ctx)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, it := range sources {
		kind, ok := products[it.Value.Kind]
		if !ok {
			continue
		}
		there[it.Name] = true
		conf, err := p.connections.read(ctx, it.Value)
		if err != nil {
			return err
		}
		was := p.running[it.Name]
		if was != nil && was.source == it.Revision && was.settings == conf.revision {
			continue
		}
		if was != nil {
			was.stop()
		}
		now := &running{source: it.Revision, settings: conf.revision, stop: func() {}}
		p.running[it.Name] = now
		if err := p.start(ctx, now, kind, it.Value, conf); err != nil {
			p.ledger.Failed(it.Name, it.Value.Kind, time.Now(), err)
			p.log.Warn("a source cannot be asked", "source", it.Name, "err", err)
		}
	}
	for name, r := range p.running {
		if !there[name] {
			r.stop()
			delete(p.running, name)
			p.ledger.Forget(name)
		}
	}
	return nil
}

// start makes a source's poller and runs it.
func (p *pollers) start(ctx context.Context, r *running, kind poll.Kind, src quarantine.Source, conf connection) error {
	if conf.settings == nil {
		return fmt.Errorf("it is not configured yet: lazaretctl source configure %s", src.Name)
	}
	setup, err := kind.Make(conf.settings, conf.secrets)
	if err != nil {
		return fmt.Errorf("its settings cannot be used: %w", err)
	}
	client, err := poll.NewClient(poll.ClientConfig{
		Base: setup.URL, Auth: setup.Auth, Roots: setup.CA, Agent: "lazaret/" + version.Number, Proxy: p.proxy,
	})
	if err != nil {
		return err
	}
	poller, err := poll.New(poll.Config{
		Name: src.Name, Source: src, Product: setup.Product, Client: client, Gate: p.gate, Ledger: p.ledger,
		Profile: p.store.Profile, Match: setup.Match, Interval: setup.Every, Log: p.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var runs sync.WaitGroup
	runs.Go(func() { _ = poller.Run(ctx) }) // it ends with ctx, and never with an error
	hook := conf.secrets[poll.SecretHook]
	if hook != "" && setup.Read != nil {
		p.doors.Open(src.Name, hook, setup.Read, poller.Hint)
	}
	r.stop = func() {
		p.doors.Shut(src.Name)
		cancel()
		runs.Wait()
		client.Close()
	}
	return nil
}

// connection is what is kept of how to ask a source.
type connection struct {
	settings []byte // JSON; nil: none yet
	secrets  map[string]string
	revision int64
}

// secretName is under which a secret of a source is kept.
func secretName(source, secret string) string { return "source/" + source + "/" + secret }

// read returns how a source is asked.
func (c connections) read(ctx context.Context, src quarantine.Source) (connection, error) {
	kept, revision, err := c.kept(ctx, src)
	out := connection{secrets: map[string]string{}, revision: revision}
	if err != nil || kept == nil {
		return out, err
	}
	out.settings = kept
	kind := products[src.Kind]
	for _, name := range append(append([]string{}, kind.Secrets...), kind.Optional...) {
		text, err := c.store.Secrets().Get(ctx, secretName(src.Name, name))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		out.secrets[name] = string(text)
	}
	return out, nil
}
