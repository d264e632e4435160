package machine

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"lazaret/appliance"
)

// Host is the machine, as process number 1 has it and as a Client asks for it. Whatever
// comes from the socket is a stranger's: a Host checks it itself. Errors that wrap
// ErrRefused, ErrBusy or ErrUnknown have a text for the administrator; the text of every
// other stays in the machine's log.
type Host interface {
	Watcher
	Networks
	Updates
	Power
	Protector
	Timekeeper
	Prover
}

// Watcher shows how the machine does.
type Watcher interface {
	// Status is how it does now. Status.Code is empty.
	Status(ctx context.Context) (appliance.Status, error)
	// Log returns the newest n lines (MaxLines at most) that pass the filter, the oldest first.
	Log(ctx context.Context, n int, f Filter) ([]Line, error)
}

// Networks is how the machine is connected.
type Networks interface {
	// Network is what was confirmed last, and what is tried at the moment.
	Network(ctx context.Context) (NetworkIs, error)
	// TryNetwork applies n and takes it back after a while (MinTry to MaxTry; 0: DefaultTry)
	// unless it is confirmed, and answers once it is applied. It answers until when.
	TryNetwork(ctx context.Context, n appliance.Network, trial time.Duration) (time.Time, error)
	// ConfirmNetwork keeps what is tried. ErrRefused where nothing is.
	ConfirmNetwork(ctx context.Context) error
}

// Updates is how the machine gets another version of itself.
type Updates interface {
	// StageUpdate verifies a bundle as it comes in, writes it to a slot of its own and has
	// the boot loader try it at the next start. ErrRefused says what is wrong with it.
	StageUpdate(ctx context.Context, bundle io.Reader, o Options) (Staged, error)
	// UpdateSettings are how it keeps itself up to date, and what a channel needs to know of it.
	UpdateSettings(ctx context.Context) (Settings, error)
	// SetUpdates changes them.
	SetUpdates(ctx context.Context, u appliance.Updates) error
	// Heard tells what the channel said, for the status and the screen.
	Heard(ctx context.Context, h Heard) error
}

// Power is what ends the running system.
type Power interface {
	// Rollback has the other blessed slot started, and this one no more. ErrRefused where
	// there is no other.
	Rollback(ctx context.Context) error
	Reboot(ctx context.Context) error
	PowerOff(ctx context.Context) error
	// Reset erases the data partition's keys and starts as an unclaimed machine. name is
	// the gateway's, as the person typed it; ErrRefused where it is not.
	Reset(ctx context.Context, name string) error
}

// Protector is what keeps the key of the data partition. Nothing of it is in a log. While
// one change is under way, another waits.
type Protector interface {
	// SetPassphrase makes a passphrase keep the key, in place of what does; a recovery
	// passphrase stays. It is asked for on the machine's screen at every start from then on.
	// ErrRefused where it is shorter than appliance.MinPassphrase.
	SetPassphrase(ctx context.Context, passphrase string) error
	// Seal seals the key to the TPM as the machine is started now; pin, unless it is empty, is
	// asked for at every start, and has appliance.MinPIN characters at least. recovery is
	// empty where there is a recovery passphrase already. ErrRefused where the TPM does not.
	Seal(ctx context.Context, pin string) (recovery string, err error)
	// NewRecovery makes a recovery passphrase in place of the one before. It is told once.
	NewRecovery(ctx context.Context) (string, error)
}

// Timekeeper sets the clock.
type Timekeeper interface {
	// AcceptTime has the clock set to what the time servers agree on, however far that is.
	AcceptTime(ctx context.Context) error
}

// Prover proves how the machine is.
type Prover interface {
	// SelfCheck asks the kernel whether the gateway is shut as it is configured.
	SelfCheck(ctx context.Context) (appliance.Report, error)
	// Inventory is what the machine's program is made of, as CycloneDX.
	Inventory(ctx context.Context) (json.RawMessage, error)
}

// Bounds of a trial of a network, and of the log.
const (
	MinTry     = 30 * time.Second
	DefaultTry = 2 * time.Minute
	MaxTry     = 15 * time.Minute
	MaxLines   = 5000
)

// MaxBundle bounds a bundle, in bytes.
const MaxBundle = 200 << 20

var (
	ErrRefused = appliance.ErrRefused // what the machine does not do; the text says why
	ErrBusy    = appliance.ErrBusy    // another update, trial or shutdown is under way
	// ErrUnknown reports a machine that is none: nobody listens on the socket.
	ErrUnknown = errors.New("this gateway is not an appliance")
)

// NetworkIs is the machine's network.
type NetworkIs struct {
	Confirmed appliance.Network  `json:"confirmed"`
	Trying    *appliance.Network `json:"trying,omitempty"`
	Until     time.Time          `json:"until,omitzero"` // when Confirmed comes back
}

// Options are how an update is staged.
type Options struct {
	Size      int64 `json:"size,omitempty"`      // bytes of the bundle, where it is known; 0: not
	Reboot    bool  `json:"reboot,omitempty"`    // start it as soon as it is staged
	Automatic bool  `json:"automatic,omitempty"` // nobody asked: a version that failed before is refused
	// Version and SHA256 (of the image, hexadecimal) are what the bundle must hold; empty: anything.
	Version string `json:"version,omitempty"`
	SHA256  string `json:"sha256,omitempty"`
}

// Staged is an update that is started at the next boot.
type Staged struct {
	Version   string `json:"version"`
	File      string `json:"file"` // the slot's, below appliance.SlotDir
	Notes     string `json:"notes,omitempty"`
	Rebooting bool   `json:"rebooting,omitempty"`
}

// Settings are how the machine keeps itself up to date, and who it is to a channel.
type Settings struct {
	appliance.Updates
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	Flavour      string `json:"flavour"`
	Place        int    `json:"place"`            // 0 to 99, drawn once: its turn where updates are staggered
	Failed       string `json:"failed,omitempty"` // the version that was tried last and came back
	Staged       string `json:"staged,omitempty"`
	// Listed is when the newest list of the channel was made that was ever believed: an older one is a replay.
	Listed time.Time `json:"listed,omitzero"`
}

// Heard is what the control plane learned from the channel.
type Heard struct {
	Checked   time.Time `json:"checked,omitzero"`    // when the channel answered last
	Available string    `json:"available,omitempty"` // a newer version there
	Since     time.Time `json:"since,omitzero"`      // when that was first seen
	Problem   string    `json:"problem,omitempty"`   // why nothing is known, a sentence
	Listed    time.Time `json:"listed,omitzero"`     // when the newest list that was believed was made
}

// Filter selects lines of the log; the zero Filter lets all through.
type Filter struct {
	Part     string    `json:"part,omitempty"`     // of this process alone; "kernel" and "machine" are parts, too
	Contains string    `json:"contains,omitempty"` // with this text in it
	Since    time.Time `json:"since,omitzero"`
}

// Match reports whether a line passes.
func (f Filter) Match(l Line) bool {
	return (f.Part == "" || f.Part == l.Part) && !l.At.Before(f.Since) && strings.Contains(l.Text, f.Contains)
}

// Line is one line of the machine's log.
type Line struct {
	At   time.Time `json:"at"`
	Part string    `json:"part"`
	Text string    `json:"text"`
}
