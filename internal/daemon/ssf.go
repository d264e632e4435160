package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
	"lazaret/quarantine/source/ssf"
)

// makeSSF receives Shared Signals: what is pushed on the enrollment listener, and what is
// polled from transmitters.
func (k *control) makeSSF(context.Context) (part, error) {
	p := part{name: "shared signals"}
	r, err := ssf.New(ssf.Config{
		Store: streams{k.store}, Gate: k.gate, Ledger: k.ledger, Auditor: refusals{k.store}, Dir: filepath.Join(k.config.State, "ssf"),
		Proxy: k.config.Firewall.HTTPProxy, Log: k.log,
	})
	if err != nil {
		return p, err
	}
	k.signals = r
	p.run, p.public = r.Run, map[string]http.Handler{ssf.PushPattern: r.Handler()}
	return p, nil
}

const (
	streamPrefix  = "ssf/"          // of settings and secrets
	accountPrefix = "ssf-accounts/" // of settings
)

func streamSecret(stream string, s ssf.Secret) string {
	return streamPrefix + stream + "/" + string(s)
}

// streams is the store for the receiver of shared signals.
type streams struct{ store *store.Store }

// Streams lists the settings of sources that are of kind ssf now.
func (s streams) Streams(ctx context.Context) (map[string]json.RawMessage, error) {
	sources, err := s.store.SourceTable().List(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]json.RawMessage{}
	for _, it := range sources {
		if it.Value.Kind != quarantine.SourceSSF {
			continue
		}
		raw, _, err := settings(s).Get(ctx, streamPrefix+it.Name)
		if err != nil {
			return nil, err
		}
		if raw != nil {
			out[it.Name] = raw
		}
	}
	return out, nil
}

func (s streams) Secret(ctx context.Context, stream string, kind ssf.Secret) (string, error) {
	b, err := s.store.Secrets().Get(ctx, streamSecret(stream, kind))
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	return string(b), err
}

func (s streams) Accounts(ctx context.Context, stream string) (json.RawMessage, int64, error) {
	return settings(s).Get(ctx, accountPrefix+stream)
}

func (s streams) PutAccounts(ctx context.Context, by quarantine.Actor, stream string, v json.RawMessage, revision int64) error {
	return settings(s).Put(ctx, by, accountPrefix+stream, v, revision)
}

// signals is the streams as the console shows and changes them.
type signals struct {
	store    *store.Store
	receiver *ssf.Receiver
	url      string // of the enrollment listener
}

var _ console.Signals = signals{}

func (s signals) Stream(ctx context.Context, source string) (api.Signals, error) {
	raw, revision, err := settings{s.store}.Get(ctx, streamPrefix+source)
	if err != nil {
		return api.Signals{}, err
	}
	if raw == nil {
		return api.Signals{}, fmt.Errorf("stream of source %s: %w", source, console.ErrNotFound)
	}
	out := api.Signals{Source: source, Secrets: []string{}, Accounts: []api.SignalsAccount{}, Revision: revision}
	if err := json.Unmarshal(raw, &out.Settings); err != nil {
		return out, fmt.Errorf("reading stream of source %s: %w", source, err)
	}
	for _, kind := range ssf.Secrets {
		text, err := streams{s.store}.Secret(ctx, source, kind)
		if err != nil {
			return out, err
		}
		if text != "" {
			out.Secrets = append(out.Secrets, string(kind))
		}
	}
	if out.Settings.Delivery == string(ssf.Push) {
		out.Endpoint = s.url + ssf.PushPath + source
	}
	return out, s.live(ctx, source, &out)
}

// live adds what the receiver knows of a stream, if it has taken it up.
func (s signals) live(ctx context.Context, source string, out *api.Signals) error {
	st, err := s.receiver.Status(ctx, source)
	if errors.Is(err, ssf.ErrUnknownStream) || errors.Is(err, ssf.ErrNotReady) {
		return nil
	}
	if err != nil {
		return err
	}
	out.Status = &api.SignalsStatus{
		Stream: st.Stream, Reason: st.Reason, StreamAt: st.StreamAt, StreamID: st.StreamID, AskedAt: st.AskedAt, VerifiedAt: st.VerifiedAt,
		PolledAt: st.PolledAt, Problem: st.Problem, Accepted: st.Accepted, Repeated: st.Repeated, Postponed: st.Postponed, Refused: map[string]uint64{},
		Moved: st.Moved, Late: st.Late, Noted: st.Noted, Unknown: st.Unknown, Remembered: st.Remembered, Floor: st.Floor,
	}
	for code, n := range st.Refused {
		out.Status.Refused[string(code)] = n
	}
	standing, err := s.receiver.Standing(ctx, source)
	for _, w := range standing {
		out.Accounts = append(out.Accounts, api.SignalsAccount(w))
	}
	return err
}

func (s signals) PutStream(ctx context.Context, by quarantine.Actor, source string, q api.SignalsRequest) error {
	raw, err := json.Marshal(q.Settings)
	if err != nil {
		return fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	next, err := ssf.ParseSettings(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", console.ErrInvalid, err)
	}
	if err := s.alone(ctx, source, next); err != nil {
		return err
	}
	given := map[ssf.Secret]*string{ssf.Authorization: q.Authorization, ssf.Bearer: q.Bearer, ssf.ClientSecret: q.ClientSecret}
	for kind, text := range given {
		if text != nil && (len(*text) > ssf.MaxSecret || strings.ContainsAny(*text, "\r\n")) {
			return fmt.Errorf("%w: %s is longer than %d bytes, or more than a line", console.ErrInvalid, kind, ssf.MaxSecret)
		}
	}
	if err := s.moved(ctx, source, next, q.Revision, given); err != nil {
		return err
	}
	if err := (settings{s.store}).Put(ctx, by, streamPrefix+source, raw, q.Revision); err != nil {
		return err
	}
	defer s.receiver.Changed()
	for kind, text := range given {
		if text == nil {
			continue
		}
		if err := s.keepSecret(ctx, streamSecret(source, kind), *text); err != nil {
			return err
		}
	}
	return nil
}

// alone refuses a second stream of one issuer and audience: each would take the other's
// tokens, with other rights.
func (s signals) alone(ctx context.Context, source string, next ssf.Settings) error {
	all, err := streams{s.store}.Streams(ctx)
	if err != nil {
		return err
	}
	for name, raw := range all {
		other, err := ssf.ParseSettings(raw)
		if name == source || err != nil || other.Issuer != next.Issuer {
			continue
		}
		if i := slices.IndexFunc(next.Audience, func(a string) bool { return slices.Contains(other.Audience, a) }); i >= 0 {
			return fmt.Errorf("%w: stream %s is of the same issuer and of audience %.80q: agree on another audience", console.ErrInvalid, name, next.Audience[i])
		}
	}
	return nil
}

// moved guards the secrets that are sent to a transmitter where a change leads elsewhere:
// each that is kept must be given anew, and goes before the settings change, so that it
// reaches none but whom it was given for.
func (s signals) moved(ctx context.Context, source string, next ssf.Settings, revision int64, given map[ssf.Secret]*string) error {
	raw, at, err := settings{s.store}.Get(ctx, streamPrefix+source)
	if err != nil {
		return err
	}
	before, err := ssf.ParseSettings(raw)
	if at != revision || err == nil && before.SameServers(next) {
		return nil // a conflict, which is told when it is saved; or it stays where it was
	}
	var drop []string
	for _, kind := range []ssf.Secret{ssf.Bearer, ssf.ClientSecret} {
		text, err := streams{s.store}.Secret(ctx, source, kind)
		if err != nil {
			return err
		}
		if text == "" {
			continue
		}
		if given[kind] == nil {
			return fmt.Errorf("%w: give %s again, or empty: the stream leads elsewhere now, or trusts others", console.ErrInvalid, kind)
		}
		drop = append(drop, streamSecret(source, kind))
	}
	for _, name := range drop {
		if err := s.keepSecret(ctx, name, ""); err != nil {
			return err
		}
	}
	return nil
}

func (s signals) keepSecret(ctx context.Context, name, text string) error {
	if text == "" {
		return secrets{s.store.Secrets()}.Delete(ctx, name)
	}
	return s.store.Secrets().Put(ctx, name, []byte(text))
}

func (s signals) VerifyStream(ctx context.Context, source string) (bool, error) {
	back, err := s.receiver.Verify(ctx, source)
	return back, signalError(err)
}

func (s signals) SetStreamStatus(ctx context.Context, by quarantine.Actor, source string, q api.SignalsStatusRequest) error {
	if err := s.receiver.SetStatus(ctx, source, q.Status, q.Reason); err != nil {
		return signalError(err)
	}
	return s.store.Audit(ctx, audit.Entry{
		Actor: audit.Actor{Kind: by.Kind, Name: by.Name, Address: by.Address}, Action: "ssf.status",
		Subject: source, Detail: map[string]string{"status": q.Status, "why": q.Reason},
	})
}

func (s signals) LiftAccount(ctx context.Context, by quarantine.Actor, source, account string) error {
	return signalError(s.receiver.Lift(ctx, by, source, account))
}

// signalError names the receiver's errors as the console knows them.
func signalError(err error) error {
	_, refused := errors.AsType[*set.Error](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ssf.ErrUnknownStream), errors.Is(err, ssf.ErrNothingStands):
		return fmt.Errorf("%w: %w", err, console.ErrNotFound)
	case refused:
		return fmt.Errorf("%w: %w", err, console.ErrInvalid)
	case errors.Is(err, ssf.ErrTransmitter):
		return fmt.Errorf("%w: %w", err, console.ErrUpstream)
	}
	return err
}

// streamTable is the table of sources. With a source its stream goes, so that another of its
// name does not begin with it.
type streamTable struct {
	console.Table[quarantine.Source]
	signals signals
}

// Delete implements console.Table, in the order of sourceTable.
func (t streamTable) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	if err := atRevision(ctx, t.Table, name, revision); err != nil {
		return err
	}
	defer t.signals.receiver.Changed()
	s := settings{t.signals.store}
	errs := []error{s.Delete(ctx, by, streamPrefix+name), s.Delete(ctx, by, accountPrefix+name)}
	for _, kind := range ssf.Secrets {
		errs = append(errs, t.signals.keepSecret(ctx, streamSecret(name, kind), ""))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return t.Table.Delete(ctx, by, name, revision)
}
