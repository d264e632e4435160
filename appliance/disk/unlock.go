package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lazaret/appliance/disk/luks"
	"lazaret/appliance/disk/tpm"
)

// unlock gets the volume key of the header: from the TPM, from the key file, else from a
// person. It changes nothing on the disk.
func (d *Data) unlock(ctx context.Context) error {
	for _, s := range d.head.Slots() {
		kind := s.Kind
		var err error
		switch s.Kind {
		case byTPM:
			kind, err = d.unlockTPM(ctx, s)
		case byFile:
			err = d.unlockFile(s)
		default:
			continue
		}
		if err == nil {
			d.opened = kind
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
		}
		d.c.Log.Warn("a key of the data partition does not open it", "kind", s.Kind, "error", err)
		d.closedBy = err
	}
	return d.unlockTyped(ctx)
}

// attempts is how often a PIN is asked for, before the TPM is given up at this start.
const attempts = 10

// errInstead is why the TPM did not open the data where a person had it so.
var errInstead = errors.New("the recovery passphrase was given in place of the PIN")

// unlockTPM has the TPM give the key, for its PIN if it has one; kind is the keyslot's that
// opened the data.
func (d *Data) unlockTPM(ctx context.Context, s luks.Slot) (kind string, err error) {
	var b tpm.Blob
	if err := json.Unmarshal(s.Data, &b); err != nil {
		return "", fmt.Errorf("reading sealed key: %w", err)
	}
	if !b.PIN {
		return byTPM, d.unseal(ctx, s, b, nil)
	}
	if d.c.Ask == nil {
		return "", errors.New("nobody is there to give the PIN")
	}
	if _, err := withTPM(ctx, &d.c, func(t *tpm.TPM) (any, error) { return nil, t.Sealed(b) }); err != nil {
		return "", err // no PIN would help
	}
	const ask = "PIN, or recovery passphrase, of this machine's data"
	said := ask
	for attempt := 1; ; attempt++ {
		typed, err := d.c.Ask(ctx, said, attempt)
		if err != nil {
			return "", fmt.Errorf("asking for the PIN: %w", err)
		}
		if len(typed) == 0 {
			return "", errors.New("no PIN was given")
		}
		var wrong string
		if kind, wrong, err = d.typedForTPM(ctx, s, b, typed); wrong == "" {
			return kind, err
		}
		said = wrong + " " + ask
		if attempt == attempts {
			return "", err
		}
		d.c.sleep(ctx, pause(attempt))
	}
}

// typedForTPM takes what was typed where a PIN is asked for; wrong says that another answer
// may do. What looks like a recovery passphrase is tried as that first, and then as PIN only
// if the PIN may look like that: the TPM counts what is wrong, and locks.
func (d *Data) typedForTPM(ctx context.Context, s luks.Slot, b tpm.Blob, typed []byte) (kind, wrong string, err error) {
	_, recovery := recoveryTyped(typed)
	if recovery {
		if kind, err = d.try(typed); err == nil {
			d.closedBy = errInstead
			return kind, "", nil
		}
		if b.PINOnly || !errors.Is(err, luks.ErrPassphrase) {
			return "", "That is wrong.", err
		}
	}
	switch err = d.unseal(ctx, s, b, typed); {
	case errors.Is(err, tpm.ErrPIN) && recovery:
		wrong = "That is wrong."
	case errors.Is(err, tpm.ErrPIN):
		wrong = "That PIN is wrong."
	}
	return byTPM, wrong, err
}

// unseal has the TPM give the keyslot's secret.
func (d *Data) unseal(ctx context.Context, s luks.Slot, b tpm.Blob, pin []byte) error {
	secret, err := withTPM(ctx, &d.c, func(t *tpm.TPM) ([]byte, error) { return t.Unseal(b, pin) })
	if err != nil {
		return err
	}
	d.key, err = d.head.Unlock(d.part, s.ID, secret)
	return err
}

func (d *Data) unlockFile(s luks.Slot) error {
	secret, err := d.c.on.ReadKey()
	if err != nil {
		return fmt.Errorf("reading key file: %w", err)
	}
	d.key, err = d.head.Unlock(d.part, s.ID, secret)
	return err
}

// pause is what an attempt costs that failed.
func pause(attempt int) time.Duration { return min(time.Second<<min(attempt-1, 5), 30*time.Second) }

// unlockTyped asks until what is typed opens a keyslot, or ctx ends.
func (d *Data) unlockTyped(ctx context.Context) error {
	ask := d.prompt()
	if d.c.Ask == nil || ask == "" {
		return fmt.Errorf("%w: %w", ErrLocked, errors.Join(d.closedBy, errors.New("and there is no passphrase to ask for, or nobody to ask")))
	}
	said := ask
	for attempt := 1; ; attempt++ {
		typed, err := d.c.Ask(ctx, said, attempt)
		if err != nil {
			return fmt.Errorf("%w: asking for a passphrase: %w", ErrLocked, err)
		}
		kind, err := d.try(typed)
		if err == nil {
			d.opened = kind
			return nil
		}
		if !errors.Is(err, luks.ErrPassphrase) {
			return fmt.Errorf("%w: %w", ErrLocked, err)
		}
		said = "That is wrong. " + ask
		d.c.sleep(ctx, pause(attempt))
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrLocked, ctx.Err())
		}
	}
}

// prompt asks for what there is; empty: nothing that can be typed.
func (d *Data) prompt() string {
	var pass, recovery, sealed bool
	for _, s := range d.head.Slots() {
		pass = pass || s.Kind == byPassphrase || s.Kind == ""
		recovery = recovery || s.Kind == byRecovery
		sealed = sealed || s.Kind == byTPM
	}
	why := ""
	if sealed && d.closedBy != nil {
		why = "The TPM does not give the key (" + sentence(d.closedBy) + "). "
	}
	switch {
	case pass && recovery:
		return why + "Passphrase, or recovery passphrase, of this machine's data"
	case recovery:
		return why + "Recovery passphrase of this machine's data"
	case pass:
		return why + "Passphrase of this machine's data"
	}
	return ""
}

// sentence is the meaning of a TPM's refusal without its codes.
func sentence(err error) string {
	for _, is := range []error{tpm.ErrNone, tpm.ErrOther, tpm.ErrChanged, tpm.ErrPIN, tpm.ErrLockout} {
		if errors.Is(err, is) {
			return is.Error()
		}
	}
	return err.Error()
}

// try tries what was typed at the keyslots it may be for.
func (d *Data) try(typed []byte) (kind string, err error) {
	recovery, isRecovery := recoveryTyped(typed)
	for _, s := range d.head.Slots() {
		secret := typed
		switch {
		case s.Kind == byRecovery && isRecovery:
			secret = []byte(recovery)
		case s.Kind == byPassphrase || s.Kind == "":
		default:
			continue
		}
		key, err := d.head.Unlock(d.part, s.ID, secret)
		if err == nil {
			d.key = key
			return s.Kind, nil
		}
		if !errors.Is(err, luks.ErrPassphrase) {
			return "", err
		}
	}
	return "", luks.ErrPassphrase
}

// hasPIN reports whether the TPM wants a PIN for the key.
func (d *Data) hasPIN() bool {
	for _, s := range d.head.Slots() {
		var b tpm.Blob
		if s.Kind == byTPM && json.Unmarshal(s.Data, &b) == nil && b.PIN {
			return true
		}
	}
	return false
}

func withTPMMeasured(ctx context.Context, c *Config) (bool, error) {
	return withTPM(ctx, c, func(t *tpm.TPM) (bool, error) { return t.Measured(c.PCRs) })
}
