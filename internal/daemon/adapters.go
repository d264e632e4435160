package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// organization lets the desk read profiles and pools.
type organization struct{ store *store.Store }

func (o organization) Profile(ctx context.Context, name string) (quarantine.Profile, error) {
	it, err := o.store.Profiles().Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return quarantine.Profile{}, fmt.Errorf("profile %q: %w", name, enroll.ErrNoProfile)
	}
	return it.Value, err
}

func (o organization) Pools(ctx context.Context) (map[string]quarantine.Pool, error) {
	list, err := o.store.Pools().List(ctx)
	if err != nil {
		return nil, err
	}
	pools := make(map[string]quarantine.Pool, len(list))
	for _, it := range list {
		pools[it.Name] = it.Value
	}
	return pools, nil
}

// sealer binds the ring to the desk's byte contexts.
type sealer struct{ ring *seal.Ring }

func (s sealer) Seal(plain, context []byte) ([]byte, error) {
	return s.ring.Seal(string(context), plain)
}
func (s sealer) Open(sealed, context []byte) ([]byte, error) {
	return s.ring.Open(string(context), sealed)
}

// deskGate lets the desk confirm and revoke.
type deskGate struct{ gate *quarantine.Gate }

func (g deskGate) Change(ctx context.Context, c quarantine.Change) error {
	_, err := g.gate.Change(ctx, c.By, c)
	return err
}

// auditor takes the desk's events into the audit log.
type auditor struct{ store *store.Store }

func (a auditor) Audit(ctx context.Context, e enroll.Event) error {
	detail := map[string]string{"why": e.Why}
	for k, v := range e.Detail {
		detail[k] = v
	}
	return a.store.Audit(ctx, audit.Entry{
		Actor:  audit.Actor{Kind: e.By.Kind, Name: e.By.Name, Address: e.By.Address},
		Action: e.Action, Subject: e.Subject, Detail: detail,
	})
}

// auditLog reads the segments back, what is still waiting included.
type auditLog struct {
	store *store.Store
	dir   string
}

func (a auditLog) List(ctx context.Context, device string, since time.Time, limit int) ([]audit.Entry, error) {
	if err := a.store.FlushAudit(ctx); err != nil {
		return nil, err
	}
	return audit.List(a.dir, audit.Filter{Device: device, Since: since, Limit: limit})
}

func (a auditLog) Head(ctx context.Context) (audit.Head, error) {
	if err := a.store.FlushAudit(ctx); err != nil {
		return audit.Head{}, err
	}
	report, err := audit.Verify(a.dir, audit.Head{})
	return report.Last, err
}

func (a auditLog) Export(ctx context.Context, w io.Writer) error {
	if err := a.store.FlushAudit(ctx); err != nil {
		return err
	}
	return audit.Export(a.dir, w)
}

// table gives the console one of the store's tables, errors translated.
type table[T any] struct{ *store.Table[T] }

func (t table[T]) List(ctx context.Context) ([]console.Item[T], error) {
	list, err := t.Table.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]console.Item[T], len(list))
	for i, it := range list {
		out[i] = console.Item[T](it)
	}
	return out, nil
}

func (t table[T]) Put(ctx context.Context, by quarantine.Actor, it console.Item[T]) (console.Item[T], error) {
	out, err := t.Table.Put(ctx, by, store.Item[T](it))
	return console.Item[T](out), translate(err)
}

func (t table[T]) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	if revision == 0 {
		it, err := t.Table.Get(ctx, name)
		if err != nil {
			return translate(err)
		}
		revision = it.Revision
	}
	return translate(t.Table.Delete(ctx, by, name, revision))
}

// translate names the store's errors as the console knows them.
func translate(err error) error {
	for from, to := range map[error]error{
		store.ErrNotFound: console.ErrNotFound, store.ErrExists: enroll.ErrExists, store.ErrInUse: console.ErrInUse,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w (%w)", to, err)
		}
	}
	return err
}

// tokens is the store's table of tokens in the console's shape.
type tokens struct{ *store.Table[store.Token] }

func (t tokens) inner() table[store.Token] { return table[store.Token]{t.Table} }

func (t tokens) List(ctx context.Context) ([]console.Item[console.Token], error) {
	list, err := t.inner().List(ctx)
	out := make([]console.Item[console.Token], len(list))
	for i, it := range list {
		out[i] = tokenItem(it)
	}
	return out, err
}

func (t tokens) Put(ctx context.Context, by quarantine.Actor, it console.Item[console.Token]) (console.Item[console.Token], error) {
	v := it.Value
	kept := store.Token{Name: v.Name, Sum: v.Sum, Scopes: []string{v.Scope}, Source: v.Source, Created: v.Created, By: v.By}
	out, err := t.inner().Put(ctx, by, console.Item[store.Token]{Name: it.Name, Value: kept, Revision: it.Revision})
	return tokenItem(out), err
}

func (t tokens) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	return t.inner().Delete(ctx, by, name, revision)
}

func tokenItem(it console.Item[store.Token]) console.Item[console.Token] {
	return console.Item[console.Token]{Name: it.Name, Revision: it.Revision, Value: showToken(it.Value)}
}

// showToken drops a token of no or several scopes to one that may do nothing.
func showToken(t store.Token) console.Token {
	scope := ""
	if len(t.Scopes) == 1 {
		scope = t.Scopes[0]
	}
	return console.Token{Name: t.Name, Sum: t.Sum, Scope: scope, Source: t.Source, Created: t.Created, By: t.By}
}

func tokenBySum(s *store.Store) func(context.Context, [32]byte) (console.Token, error) {
	return func(ctx context.Context, sum [32]byte) (console.Token, error) {
		t, err := s.TokenBySum(ctx, sum)
		if err != nil {
			return console.Token{}, translate(err)
		}
		return showToken(t), nil
	}
}
