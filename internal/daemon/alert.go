package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"lazaret/internal/alert"
	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/pki"
	"lazaret/quarantine"
)

// makeAlerts looks after what people should know of, and after devices that nobody hears of.
func (k *control) makeAlerts(ctx context.Context) (part, error) {
	p := part{name: "alerts"}
	self := quarantine.Actor{Kind: "gateway", Name: k.config.Name}
	book, err := alert.OpenBook(ctx, k.store.Notes(), k.auditAlert, self)
	if err != nil {
		return p, err
	}
	began := time.Now()
	guesses, faults, settling := &guesses{window: time.Hour}, &faults{}, settling{}
	hands := &handshakes{ask: k.client.Handshakes, contact: func(ctx context.Context, id quarantine.ID) error {
		_, err := k.gate.Contact(ctx, self, id)
		return err
	}}
	k.alerts = &alerts{store: k.store, book: book, gateway: k.config.Name}
	watcher, err := alert.NewWatcher(alert.Config{
		Book: book, Store: k.store.Notes(), Gate: k.gate, Log: k.log, Outlets: k.alerts.outlets, Every: k.config.AlertEvery,
		View: func(ctx context.Context) (alert.View, error) {
			return k.alertView(ctx, began, guesses, faults, &settling, hands)
		},
		Trusted: func(ctx context.Context) (time.Time, error) {
			if _, err := k.store.SigningTime(ctx); err != nil {
				return time.Time{}, err
			}
			return time.Now(), nil
		},
	})
	if err != nil {
		return p, err
	}
	p.run = func(ctx context.Context) error {
		guessing, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- guesses.follow(guessing, k.store) }()
		err := watcher.Run(ctx)
		stop()
		return errors.Join(err, <-ended)
	}
	return p, nil
}

func (k *control) auditAlert(ctx context.Context, by quarantine.Actor, action string, a alert.Alert) error {
	device := ""
	if a.Kind == alert.InactiveDevice {
		device = a.Subject
	}
	return k.store.Audit(ctx, audit.Entry{
		Actor: audit.Actor{Kind: by.Kind, Name: by.Name, Address: by.Address}, Action: action, Device: device, Subject: a.ID,
		Detail: map[string]string{"severity": string(a.Severity), "text": a.Text, "state": string(a.State), "why": a.Resolution.Why},
	})
}

// alertView gathers what rules look at.
func (k *control) alertView(ctx context.Context, began time.Time, g *guesses, f *faults, settle *settling, h *handshakes) (alert.View, error) {
	v := alert.View{Now: time.Now().UTC(), Health: k.ledger.List(), Began: began, Expiries: k.expiries(), Guesses: g.now(time.Now())}
	sources, err := k.store.SourceTable().List(ctx)
	if err != nil {
		return v, err
	}
	v.Sources = map[string]quarantine.Source{}
	for _, it := range sources {
		v.Sources[it.Name] = it.Value
	}
	conduct, err := k.store.Conduct(ctx)
	if err != nil {
		return v, err
	}
	v.Conduct = conduct.Value
	health, err := k.store.Health(ctx)
	if err != nil {
		return v, err
	}
	v.Machine = k.machineHealth(ctx)
	v.Store = &alert.StoreHealth{Alarm: health.Alarm, Size: health.Size, Quota: health.Quota}
	if _, err := k.store.SigningTime(ctx); err != nil {
		v.Store.Clock = err.Error()
	}
	all, err := k.streams.List(ctx)
	if err != nil {
		return v, err
	}
	v.Streams = []alert.StreamHealth{}
	for _, r := range all {
		v.Streams = append(v.Streams, alert.StreamHealth{Name: r.Health.Name, Problem: r.Health.Problem, Parked: r.Health.Parked})
	}
	v.Certificate = k.certificateHealth(ctx)
	v.Pools, _ = k.gate.Pools()
	if v.Now.Sub(began) >= settleTime {
		v.Names = nameHealth(v.Pools, k.names)
	}
	status := k.gate.Status()
	v.Gate = settle.look(v.Now, status)
	if status.Planned {
		v.Devices = k.gate.Devices()
		f.look(v.Devices, k.gate.Explain)
		if err := h.hear(ctx, v.Devices, v.Conduct, v.Now); err != nil {
			v.Deaf = !errors.Is(err, errNoted)
			k.log.Warn("asking who shook hands with the tunnel", "deaf", v.Deaf, "err", err)
		}
	}
	return v, nil
}

// nameHealth is what the names that pools reach lead to.
func nameHealth(pools map[string]quarantine.Pool, names func(quarantine.Pool) []api.Name) []alert.NameHealth {
	out := []alert.NameHealth{}
	for _, p := range pools {
		for _, n := range names(p) {
			h := alert.NameHealth{Pool: p.Name, Name: n.Name, Quarantine: p.Quarantine, Problem: n.Problem, Asked: n.Problem != notAsked && (n.Problem != "" || !n.Answered.IsZero())}
			for _, a := range n.Addresses {
				if a.Refused == "" {
					h.Usable++
				} else if h.Problem == "" {
					h.Problem = a.Refused
				}
			}
			out = append(out, h)
		}
	}
	return out
}

// settling keeps what lasts a moment, as at every start, from being told: enforcement that is
// not well is looked at once it has not been for settleTime.
type settling struct{ since time.Time }

const settleTime = time.Minute

// look returns the status if it is to be looked at.
func (s *settling) look(now time.Time, status quarantine.Status) *quarantine.Status {
	if status.Planned && status.Fresh {
		s.since = time.Time{}
		return &status
	}
	if s.since.IsZero() {
		s.since = now
	}
	if now.Sub(s.since) < settleTime {
		return nil
	}
	return &status
}

// faults remembers which rules cannot be evaluated for which devices. Asking for all devices
// each time would cost more than it tells, so each round asks for some: of those in
// quarantine, and of those that some rule fails for, though they are routed, as while a grace
// or a waiver runs.
type faults struct {
	next  int
	known map[quarantine.ID][]quarantine.Reason
}

// mostAsked is how many devices one round asks for.
const mostAsked = 2000

// mayHaveFault says whether a rule that cannot be evaluated may concern a device: it fails.
func mayHaveFault(r quarantine.Record) bool {
	return r.Stage == quarantine.Quarantined || r.Stage == quarantine.Routed && len(r.Failing) > 0
}

// look puts what is known of rules' faults into devices, after asking for some more.
func (f *faults) look(devices []quarantine.Record, explain func(string) (quarantine.Explanation, error)) {
	held := map[quarantine.ID][]quarantine.Reason{}
	asked, first := 0, f.next
	for n := range devices {
		i := (first + n) % len(devices)
		d := &devices[i]
		if !mayHaveFault(*d) {
			continue
		}
		if asked == mostAsked {
			held[d.ID] = f.known[d.ID]
			continue
		}
		if asked++; asked == mostAsked {
			f.next = i + 1
		}
		if x, err := explain(string(d.ID)); err == nil {
			held[d.ID] = slices.DeleteFunc(x.Decided.Reasons, func(r quarantine.Reason) bool { return !r.Fault })
		}
	}
	f.known = held
	for i := range devices {
		devices[i].Reasons = held[devices[i].ID]
	}
}

// expiries are the certificates that the gateway rests on.
func (k *control) expiries() []alert.Expiry {
	out := []alert.Expiry{
		{What: "root certificate", NotAfter: k.ca.Root().NotAfter},
		{What: "server certificate of this gateway", NotAfter: k.listener.Certificate().NotAfter, Renewed: true},
	}
	for kind, what := range map[pki.Kind]string{pki.Device: "devices", pki.Server: "servers", pki.Administrator: "administrators"} {
		if c := k.ca.Issuing(kind); c != nil {
			out = append(out, alert.Expiry{What: "certificate of the issuing CA for " + what, NotAfter: c.NotAfter})
		}
	}
	return out
}

// guesses counts refused enrollments of the last while, as the audit log tells them.
type guesses struct {
	window time.Duration

	mu   sync.Mutex
	seen []guess
}

type guess struct {
	at   time.Time
	from string
}

// mostGuesses bounds what is counted: more than any rule asks for.
const mostGuesses = 20_000

// follow counts until ctx ends. It begins with what is chained from now on.
func (g *guesses) follow(ctx context.Context, s *store.Store) error {
	last, err := s.AuditLog().Last(ctx)
	if err != nil {
		return endOf(ctx, err)
	}
	tail := s.AuditLog().Tail(last)
	defer tail.Close()
	for {
		some, err := tail.Next(ctx, 500)
		if err != nil {
			return endOf(ctx, fmt.Errorf("counting refused enrollments: %w", err))
		}
		for _, e := range some {
			if e.Action == "enroll.refuse" {
				g.add(e.Time, e.Actor.Address)
			}
		}
	}
}

// endOf is nil where err only says that ctx ended.
func endOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (g *guesses) add(at time.Time, from string) {
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.seen) == mostGuesses {
		g.seen = append(g.seen[:0], g.seen[mostGuesses/2:]...)
	}
	g.seen = append(g.seen, guess{at, from})
}

func (g *guesses) now(now time.Time) *alert.Guesses {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &alert.Guesses{Window: g.window, By: map[string]int{}}
	for _, x := range g.seen {
		if now.Sub(x.at) <= g.window {
			out.All++
			out.By[x.from]++
		}
	}
	return out
}

// alerts is the book and the outlets as the console knows them.
type alerts struct {
	store   *store.Store
	book    *alert.Book
	gateway string
}

var _ console.Alerts = (*alerts)(nil)

const outletPrefix = "outlet/"

func showAlert(a alert.Alert) api.Alert {
	out := api.Alert{ID: a.ID, Kind: string(a.Kind), Subject: a.Subject, Severity: string(a.Severity), Text: a.Text, Remedy: a.Remedy,
		State: string(a.State), First: a.First, Since: a.Since, Count: a.Count}
	for _, d := range []quarantine.Decision{a.Acknowledgement, a.Resolution} {
		if d.Set() {
			out.By, out.At, out.Why = d.By.Name, d.At, d.Why
		}
	}
	return out
}

// Alerts implements console.Alerts.
func (a *alerts) Alerts(context.Context) ([]api.Alert, error) {
	var out []api.Alert
	for _, x := range a.book.List() {
		out = append(out, showAlert(x))
	}
	return out, nil
}

// Act implements console.Alerts.
func (a *alerts) Act(ctx context.Context, by quarantine.Actor, q api.AlertAction) (api.Alert, error) {
	act := a.book.Resolve
	if q.Action == "acknowledge" {
		act = a.book.Acknowledge
	}
	x, err := act(ctx, by, q.ID, q.Why, time.Now().UTC())
	switch {
	case errors.Is(err, alert.ErrUnknown):
		return api.Alert{}, fmt.Errorf("%w (%w)", console.ErrNotFound, err)
	case errors.Is(err, alert.ErrOver):
		return api.Alert{}, fmt.Errorf("%w (%w)", console.ErrInvalid, err)
	}
	return showAlert(x), err
}

// kept returns the outlets' settings, with their revisions.
func (a *alerts) kept(ctx context.Context) ([]store.Item[alert.OutletSettings], error) {
	all, err := a.store.Settings().ListPrefix(ctx, outletPrefix)
	if err != nil {
		return nil, err
	}
	var out []store.Item[alert.OutletSettings]
	for _, it := range all {
		s, err := alert.ParseOutlet(it.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, store.Item[alert.OutletSettings]{Name: s.Name, Value: s, Revision: it.Revision})
	}
	return out, nil
}

// password returns an outlet's password, or none.
func (a *alerts) password(ctx context.Context, name string) (string, bool, error) {
	p, err := a.store.Secrets().Get(ctx, outletPrefix+name)
	if errors.Is(err, store.ErrNotFound) {
		return "", false, nil
	}
	return string(p), err == nil, err
}

// outlets makes the outlets that there are. One that cannot be made keeps no other.
func (a *alerts) outlets(ctx context.Context) ([]alert.Outlet, error) {
	kept, err := a.kept(ctx)
	if err != nil {
		return nil, err
	}
	var out []alert.Outlet
	var faults []error
	for _, it := range kept {
		o, err := a.outlet(ctx, it.Value)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out = append(out, o)
	}
	return out, errors.Join(faults...)
}

func (a *alerts) outlet(ctx context.Context, s alert.OutletSettings) (alert.Outlet, error) {
	password, _, err := a.password(ctx, s.Name)
	if err != nil {
		return nil, err
	}
	s.Gateway = a.gateway
	return alert.NewOutlet(s, password)
}

// Outlets implements console.Alerts.
func (a *alerts) Outlets(ctx context.Context) ([]api.Outlet, error) {
	kept, err := a.kept(ctx)
	if err != nil {
		return nil, err
	}
	var out []api.Outlet
	for _, it := range kept {
		_, has, err := a.password(ctx, it.Name)
		if err != nil {
			return nil, err
		}
		out = append(out, showOutlet(it, has))
	}
	return out, nil
}

func showOutlet(it store.Item[alert.OutletSettings], password bool) api.Outlet {
	s := it.Value
	least := s.Least
	if least == "" {
		least = alert.Warning
	}
	return api.Outlet{Name: s.Name, URL: s.URL, From: s.From, To: append([]string{}, s.To...), User: s.User, Least: string(least),
		Roots: s.RootsPEM, Password: password, Revision: it.Revision}
}

// PutOutlet implements console.Alerts. A password that is not given stays, unless it would go
// elsewhere: whoever may say where a secret goes could have it otherwise. The old one goes
// before the settings change and a new one comes after, so that neither meets the wrong server.
func (a *alerts) PutOutlet(ctx context.Context, by quarantine.Actor, name string, q api.OutletRequest) (api.Outlet, error) {
	s := alert.OutletSettings{V: 1, Name: name, URL: q.URL, From: q.From, To: q.To, User: q.User, Least: alert.Severity(q.Least), RootsPEM: q.Roots}
	if err := s.Check(); err != nil {
		return api.Outlet{}, fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return api.Outlet{}, err
	}
	if err := a.partPassword(ctx, s, q.Revision); err != nil {
		return api.Outlet{}, err
	}
	it, err := a.store.Settings().Put(ctx, by, store.Item[json.RawMessage]{Name: outletPrefix + name, Value: text, Revision: q.Revision})
	if err != nil {
		return api.Outlet{}, translate(err)
	}
	if q.Password != nil {
		if err := a.store.Secrets().Put(ctx, outletPrefix+name, []byte(*q.Password)); err != nil {
			return api.Outlet{}, err
		}
	}
	_, has, err := a.password(ctx, name)
	return showOutlet(store.Item[alert.OutletSettings]{Name: name, Value: s, Revision: it.Revision}, has), err
}

// partPassword deletes the password of an outlet that is about to become now, unless now sends
// it where it went before. quarantine.ErrConflict where the outlet has another revision.
func (a *alerts) partPassword(ctx context.Context, now alert.OutletSettings, revision int64) error {
	it, err := a.store.Settings().Get(ctx, outletPrefix+now.Name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if revision != store.Any && it.Revision != revision {
		return quarantine.ErrConflict
	}
	was, err := alert.ParseOutlet(it.Value)
	if err == nil && was.URL == now.URL && was.User == now.User && was.RootsPEM == now.RootsPEM {
		return nil
	}
	return secrets{a.store.Secrets()}.Delete(ctx, outletPrefix+now.Name)
}

// DeleteOutlet implements console.Alerts.
func (a *alerts) DeleteOutlet(ctx context.Context, by quarantine.Actor, name string) error {
	if err := a.store.Settings().Delete(ctx, by, outletPrefix+name, store.Any); err != nil {
		return translate(err)
	}
	if err := a.store.Secrets().Delete(ctx, outletPrefix+name); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

// TestOutlet implements console.Alerts.
func (a *alerts) TestOutlet(ctx context.Context, name string) error {
	it, err := a.store.Settings().Get(ctx, outletPrefix+name)
	if err != nil {
		return translate(err)
	}
	s, err := alert.ParseOutlet(it.Value)
	if err != nil {
		return err
	}
	o, err := a.outlet(ctx, s)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	err = o.Send(ctx, []alert.Notice{{Alert: alert.Alert{ID: "test", Severity: alert.Info, Text: "this is a test of outlet " + name, Since: now, Count: 1}, What: alert.Raised}})
	if err != nil {
		return fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	return nil
}
