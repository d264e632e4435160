package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"lazaret/enroll"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/store"
	"lazaret/internal/stream"
	"lazaret/quarantine"
)

// makeStreams tells others what happens to devices.
func (k *control) makeStreams(ctx context.Context) (part, error) {
	p := part{name: "streams"}
	log := k.store.AuditLog()
	c := stream.Config{
		Settings: settings{k.store}, Secrets: secrets{k.store.Secrets()}, Notes: k.store.Notes(), Last: log.Last,
		Follow: func(after uint64) stream.Tail { return log.Tail(after) }, Gateway: k.config.Name, Issuer: k.enrollURL(), Log: k.log,
	}
	if k.config.Firewall.Proxy != nil {
		c.Proxy = k.config.Firewall.HTTPProxy
	}
	var err error
	if k.streams, err = stream.New(ctx, c); err != nil {
		return p, err
	}
	p.run, p.public = k.streams.Run, k.streams.Handlers()
	return p, nil
}

func (s settings) List(ctx context.Context, prefix string) (map[string]json.RawMessage, error) {
	all, err := s.store.Settings().ListPrefix(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := map[string]json.RawMessage{}
	for _, it := range all {
		out[it.Name] = it.Value
	}
	return out, nil
}

// Get returns nothing where there is no such secret.
func (s secrets) Get(ctx context.Context, name string) ([]byte, error) {
	b, err := s.Secrets.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

// receivers is the streams as the console shows them.
type receivers struct{ m *stream.Manager }

var _ console.Streams = receivers{}

func (s receivers) List(ctx context.Context) ([]api.Stream, error) {
	all, err := s.m.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.Stream, len(all))
	for i, v := range all {
		out[i] = showStream(v)
	}
	return out, nil
}

func showStream(v stream.State) api.Stream {
	r, h := v.Receiver, v.Health
	out := api.Stream{
		Name: r.Name, Kind: string(r.Kind), URL: r.URL, Events: append([]string{}, r.Events...), Addresses: r.Addresses,
		Allow: append([]netip.Prefix{}, r.Allow...), CA: r.CA, Audience: r.Audience, StreamID: r.StreamID, Status: string(r.Status),
		Keys: []api.HookKey{}, Created: r.Created, By: r.By,
		Health: api.StreamHealth{Cursor: h.Cursor, Waiting: h.Waiting, Delivered: h.Delivered, Last: h.Last, Failures: h.Failures,
			Since: h.Since, Next: h.Next, Problem: h.Problem, Parked: h.Parked},
	}
	for _, k := range r.Keys {
		out.Keys = append(out.Keys, api.HookKey{ID: k.ID, Created: k.Created, By: k.By})
	}
	return out
}

func (s receivers) Add(ctx context.Context, by quarantine.Actor, q api.StreamRequest) (api.Stream, error) {
	r, secret, err := s.m.Add(ctx, by, stream.Receiver{
		Name: q.Name, Kind: stream.Kind(q.Kind), URL: q.URL, Events: q.Events, Addresses: q.Addresses, Allow: q.Allow, CA: q.CA, Audience: q.Audience,
	}, q.Push)
	if err != nil {
		return api.Stream{}, streamError(err)
	}
	out := showStream(stream.State{Receiver: r})
	out.Secret = secret
	return out, nil
}

func (s receivers) Update(ctx context.Context, by quarantine.Actor, name string, q api.StreamChange) error {
	_, err := s.m.Update(ctx, by, name, stream.Change{URL: q.URL, Audience: q.Audience, CA: q.CA, Events: q.Events, Addresses: q.Addresses, Allow: q.Allow})
	return streamError(err)
}

func (s receivers) Remove(ctx context.Context, by quarantine.Actor, name string) error {
	return streamError(s.m.Remove(ctx, by, name))
}

func (s receivers) AddKey(ctx context.Context, by quarantine.Actor, name string) (api.HookKey, error) {
	k, secret, err := s.m.AddKey(ctx, by, name)
	return api.HookKey{ID: k.ID, Created: k.Created, By: k.By, Secret: secret}, streamError(err)
}

func (s receivers) RemoveKey(ctx context.Context, by quarantine.Actor, name, key string) error {
	return streamError(s.m.RemoveKey(ctx, by, name, key))
}

func (s receivers) Do(ctx context.Context, by quarantine.Actor, name, what string) (string, error) {
	switch what {
	case "resume":
		return "", streamError(s.m.Resume(ctx, by, name))
	case "test":
		why, err := s.m.Test(ctx, name)
		return why, streamError(err)
	case "token":
		token, err := s.m.NewToken(ctx, by, name)
		return token, streamError(err)
	case "signer":
		return "", streamError(s.m.RotateSigner(ctx, by))
	}
	return "", fmt.Errorf("doing %q: %w", what, console.ErrNotFound)
}

// streamError names the errors of streams as the console knows them.
func streamError(err error) error {
	for from, to := range map[error]error{stream.ErrNotFound: console.ErrNotFound, stream.ErrInvalid: console.ErrInvalid, stream.ErrExists: enroll.ErrExists} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w (%w)", err, to)
		}
	}
	return err
}
