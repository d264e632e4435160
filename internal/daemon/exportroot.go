package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"lazaret/internal/config"
	"lazaret/internal/durable"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// ExportRoot writes the root's private key, PKCS#8 in PEM, to a new file of mode 0600,
// and with remove forgets it here: also what the store's files still hold of it cannot be
// opened any more. The control plane must be stopped.
func ExportRoot(ctx context.Context, c config.Config, path string, remove bool, log *slog.Logger) (err error) {
	s, ring, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	cert, pair, err := loadCertificate(ctx, s.Secrets(), secretRoot)
	if err != nil {
		return err
	}
	if len(pair.Key) == 0 {
		gone := errors.New("the root's key was removed from this gateway before: use the copy that was exported then")
		if remove { // perhaps it was stopped half way
			gone = errors.Join(gone, retireKeys(ctx, s, ring))
		}
		return gone
	}
	text := append(pemBlock("CERTIFICATE", cert.Raw), pemBlock("PRIVATE KEY", pair.Key)...)
	if err := durable.Create(path, text, 0o600); err != nil {
		return err
	}
	if !remove {
		return nil
	}
	if err := saveBlob(ctx, s.Secrets(), secretRoot, keyPair{Version: 1, Certificate: pair.Certificate}); err != nil {
		return err
	}
	if err := retireKeys(ctx, s, ring); err != nil {
		return fmt.Errorf("the root's key is in %s and forgotten here, but the store's files may still hold it sealed (give the command once more): %w", path, err)
	}
	return nil
}

// retireKeys makes what the store sealed before and has overwritten or deleted since
// unreadable: etcd's database and write-ahead log keep the old bytes, so the keys that
// open them go.
func retireKeys(ctx context.Context, s *store.Store, ring *seal.Ring) error {
	old := ring.Keys()
	if _, err := ring.Add(); err != nil {
		return fmt.Errorf("making a new sealing key: %w", err)
	}
	if err := s.Rewrap(ctx); err != nil {
		return err
	}
	for _, id := range old {
		if err := ring.Drop(id); err != nil {
			return err
		}
	}
	return s.Compact(ctx)
}

// ResetClock mends a stored time that is ahead of the clock. The control plane must be stopped.
func ResetClock(ctx context.Context, c config.Config, log *slog.Logger) (err error) {
	s, _, err := openStore(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.ResetClock(ctx, quarantine.Actor{Kind: "gateway", Name: c.Name})
}
