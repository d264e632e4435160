package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/manage"
	"lazaret/internal/store"
	"lazaret/pki"
	"lazaret/quarantine"
)

// secretManager is the management signer, which every gateway of the organization has.
const secretManager = "manage/signer"

// managerLife is the life of its certificate; a new one is made when two thirds of it are over.
const managerLife = 365 * 24 * time.Hour

// manager is the management signer at present.
type manager struct {
	k *control

	mu   sync.Mutex // guards pair
	pair pki.KeyPair
}

// makeManage makes the desk for commands.
func (k *control) makeManage(ctx context.Context) (part, error) {
	p := part{name: "commands"}
	s := &manager{k: k}
	if err := s.renew(ctx, time.Now()); err != nil {
		return p, err
	}
	m, err := manage.New(ctx, manage.Config{
		Store: namedSettings{k.store.Settings()}, Gate: k.gate, Signer: s.signer, Name: k.config.Name, Log: k.log,
		Audit: func(ctx context.Context, e manage.Event) error {
			return k.store.Audit(ctx, audit.Entry{
				Actor:  audit.Actor{Kind: e.By.Kind, Name: e.By.Name, Address: e.By.Address},
				Action: e.Action, Device: string(e.Device), Subject: e.ID, Detail: e.Detail,
			})
		},
	})
	k.manage = m
	p.run = func(ctx context.Context) error {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.keep(ctx)
		}()
		err := m.Run(ctx)
		<-ended
		return err
	}
	return p, err
}

// signer returns the key and its chain, leaf first.
func (s *manager) signer() (crypto.Signer, []*x509.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pair.Key, []*x509.Certificate{s.pair.Certificate, s.k.ca.Issuing(pki.Manager)}
}

// renew takes the signer that the organization has, or makes one: the first, or one that
// takes over from one that nears its end.
func (s *manager) renew(ctx context.Context, now time.Time) error {
	secrets := s.k.store.Secrets()
	pair, err := loadPair(ctx, secrets, secretManager)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	have := err == nil
	if cert := pair.Certificate; !have || !now.Before(cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore)*2/3)) {
		if pair, err = s.k.ca.NewManager(ctx, managerLife); err != nil {
			return fmt.Errorf("renewing the management signer: %w", err)
		}
		if err := s.save(ctx, pair, have); errors.Is(err, enroll.ErrExists) { // another gateway's
			if pair, err = loadPair(ctx, secrets, secretManager); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pair = pair
	return nil
}

func (s *manager) save(ctx context.Context, pair pki.KeyPair, replace bool) error {
	secrets := s.k.store.Secrets()
	if replace {
		return savePair(ctx, secrets, secretManager, pair)
	}
	key, err := pki.MarshalKey(pair.Key)
	if err != nil {
		return fmt.Errorf("keeping the management signer: %w", err)
	}
	blob, err := json.Marshal(keyPair{Version: 1, Certificate: pair.Certificate.Raw, Key: key})
	if err != nil {
		return fmt.Errorf("keeping the management signer: %w", err)
	}
	return secrets.Create(ctx, secretManager, blob)
}

// keep looks after the signer once a day.
func (s *manager) keep(ctx context.Context) {
	day := time.NewTicker(24 * time.Hour)
	defer day.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-day.C:
		}
		if err := s.renew(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.k.log.Error("management signer", "err", err)
		}
	}
}

// namedSettings is the store's settings as the command desk wants them.
type namedSettings struct{ *store.Table[json.RawMessage] }

func (n namedSettings) List(ctx context.Context, prefix string) ([]manage.Item, error) {
	all, err := n.ListPrefix(ctx, prefix)
	if err != nil {
		return nil, err
	}
	out := make([]manage.Item, len(all))
	for i, it := range all {
		out[i] = manage.Item{Name: it.Name, Value: it.Value, Revision: it.Revision}
	}
	return out, nil
}

func (n namedSettings) Get(ctx context.Context, name string) (manage.Item, error) {
	it, err := n.Table.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w (%w)", manage.ErrNotFound, err)
	}
	return manage.Item{Name: it.Name, Value: it.Value, Revision: it.Revision}, err
}

func (n namedSettings) Put(ctx context.Context, by quarantine.Actor, it manage.Item) (manage.Item, error) {
	out, err := n.Table.Put(ctx, by, store.Item[json.RawMessage]{Name: it.Name, Value: it.Value, Revision: it.Revision})
	if errors.Is(err, enroll.ErrExists) || errors.Is(err, store.ErrNotFound) { // it came, or went, meanwhile
		err = fmt.Errorf("%w (%w)", quarantine.ErrConflict, err)
	}
	return manage.Item{Name: out.Name, Value: out.Value, Revision: out.Revision}, err
}

func (n namedSettings) Delete(ctx context.Context, by quarantine.Actor, name string) error {
	err := n.Table.Delete(ctx, by, name, store.Any)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
