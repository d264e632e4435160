package disk

import (
	"context"
	"errors"

	"lazaret/appliance"
)

type system interface{}

// Data is the data partition, open and mounted.
type Data struct{}

// Open finds the data partition, makes it at the first boot, and mounts it. It ends with
// ErrNoDisk, ErrForeign, ErrLocked or ErrDamaged, having changed nothing that matters, or
// when ctx ends.
func Open(ctx context.Context, c Config) (*Data, error) { return nil, errors.New("not built") }

// Reset destroys all keys of the data partition, so that its data are lost at once; the
// next Open makes it anew. It is for a partition that Open would not have.
func Reset(ctx context.Context, c Config) error { return errors.New("not built") }

// Made says whether the partition was made by this Open.
func (d *Data) Made() bool { return false }

// Status is how much room there is, and what keeps the key.
func (d *Data) Status() appliance.Disk { return appliance.Disk{} }

// Problems are sentences for administrators, the gravest first.
func (d *Data) Problems() []string { return nil }

// SetPassphrase makes a passphrase keep the key from now on, in place of what did.
func (d *Data) SetPassphrase(ctx context.Context, passphrase []byte) error {
	return errors.New("not built")
}

// Reseal seals the key anew to the TPM as the machine is booted now; pin is empty for none.
// The first time, it returns the recovery passphrase to be shown.
func (d *Data) Reseal(ctx context.Context, pin []byte) (recovery string, err error) {
	return "", errors.New("not built")
}

// NewRecovery makes a new recovery passphrase in place of the one before.
func (d *Data) NewRecovery(ctx context.Context) (string, error) { return "", errors.New("not built") }

// Reset destroys all keys, so that the data are lost at once; the machine must reboot then,
// and makes the partition anew.
func (d *Data) Reset(ctx context.Context) error { return errors.New("not built") }

// Close unmounts the partition and takes its key out of the kernel.
func (d *Data) Close() error { return errors.New("not built") }
