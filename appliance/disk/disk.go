// Package disk keeps the data partition of an appliance: it finds the disk the machine
// booted from, grows the partition to the disk's end, makes it at the first boot, opens it
// by the TPM, a passphrase or a key file, mounts it, and destroys it on a factory reset. It
// never makes a partition anew that holds anything, unless a factory reset was asked for.
package disk

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"lazaret/appliance"
)

// What Open may end with; test with errors.Is.
var (
	ErrNoDisk  = errors.New("the disk that this machine booted from is not there")
	ErrForeign = errors.New("the data partition holds something that is not this machine's: nothing was changed; a factory reset destroys it")
	ErrLocked  = errors.New("the data partition could not be opened: nothing was changed")
	ErrDamaged = errors.New("the data partition's file system cannot be used: nothing was changed; a factory reset destroys it")
)

// Config says where the disk is sought, and who is asked.
type Config struct {
	Log *slog.Logger // required

	// Ask shows a prompt on the machine's screen and returns what was typed; attempt counts
	// from 1 for each question. Optional: nil, and empty answers, mean that nobody is there.
	Ask func(ctx context.Context, prompt string, attempt int) ([]byte, error)
	// Tell shows the recovery passphrase, once. Open requires it where a TPM may protect.
	Tell func(recovery string)
	// Changed wakes the search when a device has come. Optional: then nothing is waited for.
	Changed <-chan struct{}
	// Wait bounds the search for the disk. Optional: 30 seconds.
	Wait time.Duration

	// Protection is what is wanted at the first boot. Optional: the best there is, which
	// is a TPM, else a passphrase, if someone types one, else a key file.
	Protection appliance.Protection
	PIN        bool   // the TPM asks for a PIN at every boot; chosen at the first. Optional
	PCRs       []uint // of the TPM; what they measure must not change. Optional: 7
	TPM        string // device or socket. Optional: /dev/tpmrm0; "none": no TPM

	Mount string // where the data go. Optional: appliance.DataDir
	ESP   string // where the EFI partition goes while a key file is written. Optional: appliance.ESPDir
	// WithESP runs do with the directory where the EFI partition, which is on that device, is
	// mounted; it may be read-only there unless change is set. Whoever else mounts it must do
	// so by the same function. Optional: then it is mounted at ESP.
	WithESP func(device string, change bool, do func(dir string) error) error
	Sys     string // optional: /sys
	Dev     string // optional: /dev

	on    system                                     // what the kernel does; tests bring their own
	quick bool                                       // tests: passphrases cost little
	sleep func(ctx context.Context, d time.Duration) // throttles passphrases; tests bring their own
}
