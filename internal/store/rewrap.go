package store

import (
	"bytes"
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// mostPasses bounds Rewrap while others write.
const mostPasses = 10

// Rewrap seals every secret, and the secret of every one-time password, anew under the
// ring's newest key. When it returns nil, nothing in the store needs an older key any
// more, and it can be dropped from the ring. What does not open is an error: it would be
// lost with its key. It may be repeated.
func (s *Store) Rewrap(ctx context.Context) error {
	for range mostPasses {
		moved := 0
		for _, w := range []func(context.Context) (int, error){s.rewrapSecrets, s.rewrapOTPs} {
			n, err := w(ctx)
			if err != nil {
				return fmt.Errorf("rewrapping sealed values: %w", err)
			}
			moved += n
		}
		if moved == 0 { // a whole pass found nothing under an older key
			return nil
		}
	}
	return fmt.Errorf("rewrapping sealed values: %w, %d times in a row", quarantine.ErrConflict, mostPasses)
}

// rewrapSecrets moves the secrets, and returns how many were not under the newest key. One
// that was written meanwhile is left to the next pass.
func (s *Store) rewrapSecrets(ctx context.Context) (moved int, err error) {
	_, err = s.scan(ctx, secretPrefix, 0, func(kv *mvccpb.KeyValue) error {
		sealed, err := s.cfg.Ring.Rewrap(string(kv.Key), kv.Value)
		if err != nil || bytes.Equal(sealed, kv.Value) {
			return err
		}
		moved++
		return s.rewrapped(ctx, kv, string(sealed), audit.Entry{
			Actor: actor(s.self()), Action: "secret.rewrap", Subject: string(kv.Key[len(secretPrefix):]),
		})
	})
	return moved, err
}

// rewrapOTPs does for one-time passwords what rewrapSecrets does for secrets.
func (s *Store) rewrapOTPs(ctx context.Context) (moved int, err error) {
	_, err = s.scan(ctx, otpPrefix, 0, func(kv *mvccpb.KeyValue) error {
		o, err := decodeOTP(kv)
		if err != nil || len(o.Secret) == 0 {
			return err
		}
		sealed, err := s.cfg.Ring.Rewrap(enroll.SecretContext(o), o.Secret)
		if err != nil || bytes.Equal(sealed, o.Secret) {
			return err
		}
		moved++
		o.Secret = sealed
		value, err := encodeOTP(o)
		if err != nil {
			return err
		}
		return s.rewrapped(ctx, kv, value, otpEntry(s.self(), "otp.rewrap", o))
	})
	return moved, err
}

func (s *Store) rewrapped(ctx context.Context, kv *mvccpb.KeyValue, value string, e audit.Entry) error {
	ch := change{entry: e}
	ch.require(unchanged(string(kv.Key), kv.ModRevision))
	ch.put(string(kv.Key), value)
	_, _, err := s.commit(ctx, ch)
	return err
}

// Compact forgets all history and gives the space back to the disk, so that the database
// holds present values alone. Watches of the gate begin anew. The write-ahead log keeps
// what passed through it for a while: what must not be read there needs its key dropped.
func (s *Store) Compact(ctx context.Context) error {
	r, err := s.client.Get(ctx, timeKey)
	if err != nil {
		return fmt.Errorf("compacting: %w", err)
	}
	if _, err := s.client.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !isCompacted(err) {
		return fmt.Errorf("compacting: %w", err)
	}
	if err := s.etcd.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragmenting: %w", err)
	}
	return nil
}
