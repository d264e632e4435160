package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/luks"
	"lazaret/appliance/disk/tpm"
)

// Kinds of keyslots, by what makes their secret.
const (
	byTPM        = "tpm"
	byPassphrase = "passphrase"
	byRecovery   = "recovery"
	byFile       = "file"
)

// crockford is an alphabet without letters that look like others.
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// newRecovery is 160 random bits to be written down: eight groups of four.
func newRecovery() string {
	b := make([]byte, 20)
	rand.Read(b)
	return grouped(crockford.EncodeToString(b))
}

func grouped(s string) string {
	var groups []string
	for ; len(s) >= 4; s = s[4:] {
		groups = append(groups, s[:4])
	}
	return strings.Join(groups, "-")
}

// recoveryTyped is a recovery passphrase however a person typed it; false: it is none.
func recoveryTyped(typed []byte) (string, bool) {
	s := strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(string(typed)))
	b, err := crockford.DecodeString(s)
	return grouped(s), err == nil && len(b) == 20
}

// checkPIN refuses what would be taken for a recovery passphrase wherever it is typed.
func checkPIN(pin []byte) error {
	if _, is := recoveryTyped(pin); is {
		return errors.New("the PIN looks like a recovery passphrase, which has 32 letters and digits: choose a shorter or a longer one")
	}
	return nil
}

// typed is the cost of passphrases.
func (c *Config) typed() luks.Cost {
	if c.quick {
		return luks.Cheap
	}
	return luks.Typed
}

// withTPM has one conversation with the TPM, which gets a minute.
func withTPM[T any](ctx context.Context, c *Config, do func(*tpm.TPM) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	if c.TPM == "none" {
		return none, tpm.ErrNone
	}
	done := make(chan result, 1)
	go func() { // ends when the TPM has answered; a machine whose TPM never does keeps it
		t, err := tpm.Open(c.TPM)
		if err != nil {
			done <- result{none, err}
			return
		}
		v, err := do(t)
		done <- result{v, errors.Join(err, t.Close())}
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("the TPM did not answer: %w", ctx.Err())
	}
}

// tpmSlot seals a new secret to the TPM. measured says whether the firmware measured
// anything.
func (c *Config) tpmSlot(ctx context.Context, pin []byte) (slot luks.NewSlot, measured bool, err error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	b, err := withTPM(ctx, c, func(t *tpm.TPM) (tpm.Blob, error) {
		if measured, err = t.Measured(c.PCRs); err != nil {
			return tpm.Blob{}, err
		}
		b, err := t.Seal(secret, c.PCRs, pin)
		if err != nil {
			return tpm.Blob{}, err
		}
		if got, err := t.Unseal(b, pin); err != nil || !bytes.Equal(got, secret) {
			return tpm.Blob{}, fmt.Errorf("trying the sealed key: %w", errors.Join(err, errors.New("the TPM does not give back what it sealed")))
		}
		return b, nil
	})
	if err != nil {
		return luks.NewSlot{}, false, fmt.Errorf("sealing key to the TPM: %w", err)
	}
	b.PINOnly = b.PIN && checkPIN(pin) == nil
	data, err := json.Marshal(b)
	return luks.NewSlot{Secret: secret, Cost: luks.Random, Kind: byTPM, Data: data}, measured, err
}

// choice is what is to keep the key of a partition that is made.
type choice struct {
	slots    []luks.NewSlot
	recovery string // to be shown
	file     []byte // to be written on the EFI partition
	problems []string
}

// choose decides by what is wanted and what there is: a TPM, else a passphrase, else a file.
func (c *Config) choose(ctx context.Context) (choice, error) {
	var ch choice
	if c.Protection == "" || c.Protection == appliance.ByTPM {
		pin, err := c.newPIN(ctx)
		if err != nil {
			return ch, err
		}
		slot, measured, err := c.tpmSlot(ctx, pin)
		if err == nil {
			ch.recovery = newRecovery()
			ch.slots = []luks.NewSlot{slot, {Secret: []byte(ch.recovery), Cost: luks.Random, Kind: byRecovery}}
			ch.problems = c.bootProblems(measured)
			return ch, nil
		}
		if c.Protection == appliance.ByTPM {
			return ch, err
		}
		if !errors.Is(err, tpm.ErrNone) {
			ch.problems = append(ch.problems, "The TPM could not keep the key of the data: "+err.Error()+".")
		}
	}
	if c.Protection != appliance.ByFile {
		pass, err := c.newPassphrase(ctx, "Choose a passphrase for this machine's data; it is asked for at every start. Leave it empty to have none, which protects nothing", longEnough)
		if err != nil {
			return ch, err
		}
		if len(pass) > 0 {
			ch.slots = []luks.NewSlot{{Secret: pass, Cost: c.typed(), Kind: byPassphrase}}
			return ch, nil
		}
		if c.Protection == appliance.ByPassphrase {
			return ch, errors.New("a passphrase is wanted, and none was given")
		}
	}
	ch.file = make([]byte, 64)
	rand.Read(ch.file)
	ch.slots = []luks.NewSlot{{Secret: ch.file, Cost: luks.Random, Kind: byFile}}
	return ch, nil
}

// newPIN asks for a PIN where one is wanted.
func (c *Config) newPIN(ctx context.Context) ([]byte, error) {
	if !c.PIN {
		return nil, nil
	}
	pin, err := c.newPassphrase(ctx, "Choose a PIN, which is asked for at every start", checkPIN)
	if err == nil && len(pin) == 0 {
		err = errors.New("a PIN is wanted, and none was given")
	}
	return pin, err
}

// least is how long a passphrase must be, in bytes.
const least = appliance.MinPassphrase

// longEnough wants a passphrase's length.
func longEnough(typed []byte) error {
	if len(typed) < least {
		return fmt.Errorf("that is too short: %d characters at least", least)
	}
	return nil
}

// newPassphrase asks twice for a passphrase that check has nothing against. Empty: nobody
// gave one.
func (c *Config) newPassphrase(ctx context.Context, prompt string, check func([]byte) error) ([]byte, error) {
	if c.Ask == nil {
		return nil, nil
	}
	said := prompt
	for attempt := 1; ; attempt++ {
		one, err := c.Ask(ctx, said, attempt)
		if err != nil {
			return nil, fmt.Errorf("asking for a new passphrase: %w", err)
		}
		if len(one) == 0 {
			return nil, nil
		}
		if wrong := check(one); wrong != nil {
			text := wrong.Error()
			said = strings.ToUpper(text[:1]) + text[1:] + ". " + prompt
			continue
		}
		two, err := c.Ask(ctx, "The same once more", 1)
		if err != nil {
			return nil, fmt.Errorf("asking for a new passphrase: %w", err)
		}
		if bytes.Equal(one, two) {
			return one, nil
		}
		said = "The two were not the same. " + prompt
	}
}

// bootProblems are those of a key that the TPM keeps.
func (c *Config) bootProblems(measured bool) []string {
	switch {
	case !measured:
		return []string{"The firmware measures nothing into the TPM: it gives the key of the data to whatever system is started on this machine."}
	case !c.on.SecureBoot():
		return []string{"Secure Boot is off: the TPM gives the key of the data to whatever system is started on this machine."}
	}
	return nil
}

const fileProblem = "THE DATA ARE NOT PROTECTED: their key lies in a file on the same disk. Set a passphrase, or give the machine a TPM."
