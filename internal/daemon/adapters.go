package daemon

import (
	"context"
	"errors"
	"fmt"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// auditor takes the desk's events into the audit log.
type auditor struct{ store *store.Store }

func (a auditor) Audit(ctx context.Context, e enroll.Event) error {
	detail := map[string]string{"why": e.Why}
	for k, v := range e.Detail {
		detail[k] = v
	}
	return a.store.Audit(ctx, audit.Entry{
		Actor:  audit.Actor{Kind: e.By.Kind, Name: e.By.Name, Address: e.By.Address},
		Action: e.Action, Device: string(e.Device), Subject: e.OTP, Detail: detail,
	})
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
		store.ErrNotFound: console.ErrNotFound, store.ErrInUse: console.ErrInUse, store.ErrInvalid: console.ErrInvalid,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w (%w)", to, err)
		}
	}
	return err
}

// tokens is the store's tokens as the console's table.
type tokens struct{ store *store.Store }

func (t tokens) List(ctx context.Context) ([]console.Item[console.Token], error) {
	list, err := t.store.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]console.Item[console.Token], len(list))
	for i, v := range list {
		out[i] = console.Item[console.Token]{Name: v.Name, Value: console.Token(v)}
	}
	return out, nil
}

func (t tokens) Put(ctx context.Context, by quarantine.Actor, it console.Item[console.Token]) (console.Item[console.Token], error) {
	return it, translate(t.store.PutToken(ctx, by, store.Token(it.Value)))
}

func (t tokens) Delete(ctx context.Context, by quarantine.Actor, name string, _ int64) error {
	return translate(t.store.DeleteToken(ctx, by, name))
}

func tokenBySum(s *store.Store) func(context.Context, [32]byte) (console.Token, error) {
	return func(ctx context.Context, sum [32]byte) (console.Token, error) {
		t, err := s.TokenBySum(ctx, sum)
		return console.Token(t), translate(err)
	}
}
