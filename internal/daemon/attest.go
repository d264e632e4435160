package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"lazaret/enroll"
	"lazaret/internal/attest"
	"lazaret/internal/console"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// Names among the settings: which TPMs are believed, and what is known of each device's.
const (
	trustSetting = "attestation/trust"
	tpmSetting   = "attest/"
)

// attestation is the gateway's judge of TPMs over its store.
type attestation struct {
	*attest.Verifier
	tpms
}

func newAttestation(s *store.Store, gateway string, log *slog.Logger) attestation {
	t := tpms{settings: s.Settings(), self: quarantine.Actor{Kind: "gateway", Name: gateway}}
	return attestation{attest.NewVerifier(attest.Config{Store: t, Log: log}), t}
}

// tpms keeps what is known of TPMs among the settings.
type tpms struct {
	settings *store.Table[json.RawMessage]
	self     quarantine.Actor
}

// get reads one setting; ok is false where there is none.
func (t tpms) get(ctx context.Context, name string, out any) (revision int64, ok bool, err error) {
	it, err := t.settings.Get(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if err := json.Unmarshal(it.Value, out); err != nil {
		return 0, false, fmt.Errorf("reading setting %s: %w", name, err)
	}
	return it.Revision, true, nil
}

func (t tpms) put(ctx context.Context, by quarantine.Actor, name string, revision int64, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = t.settings.Put(ctx, by, store.Item[json.RawMessage]{Name: name, Value: text, Revision: revision})
	if errors.Is(err, enroll.ErrExists) || errors.Is(err, store.ErrNotFound) { // it came, or went, meanwhile
		err = fmt.Errorf("%w (%w)", quarantine.ErrConflict, err)
	}
	return err
}

// Trust implements attest.Store: nothing is believed that nobody said to believe.
func (t tpms) Trust(ctx context.Context) (out attest.Trust, err error) {
	_, _, err = t.get(ctx, trustSetting, &out)
	return out, err
}

func (t tpms) SetTrust(ctx context.Context, by quarantine.Actor, v attest.Trust) error {
	var old attest.Trust
	revision, _, err := t.get(ctx, trustSetting, &old)
	if err != nil {
		return err
	}
	return t.put(ctx, by, trustSetting, revision, v)
}

// State implements attest.Store.
func (t tpms) State(ctx context.Context, device string) (out attest.State, err error) {
	revision, ok, err := t.get(ctx, tpmSetting+device, &out)
	if err == nil && !ok {
		err = attest.ErrNone
	}
	out.Revision = revision
	return out, err
}

// Save implements attest.Store.
func (t tpms) Save(ctx context.Context, device string, s attest.State) error {
	return t.put(ctx, t.self, tpmSetting+device, s.Revision, s)
}

func (t tpms) Accept(ctx context.Context, by quarantine.Actor, device string) error {
	s, err := t.State(ctx, device)
	if err == nil {
		err = s.Accept()
	}
	if errors.Is(err, attest.ErrNone) {
		return fmt.Errorf("%w (%w)", console.ErrNotFound, err)
	}
	if err != nil {
		return err
	}
	return t.put(ctx, by, tpmSetting+device, s.Revision, s)
}

func (t tpms) Forget(ctx context.Context, by quarantine.Actor, device string) error {
	err := t.settings.Delete(ctx, by, tpmSetting+device, store.Any)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w (%w)", console.ErrNotFound, attest.ErrNone)
	}
	return err
}
