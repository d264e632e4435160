package disk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/gpt"
	"lazaret/appliance/disk/luks"
)

// make makes the partition anew. Until its last write, that of the header's first copy,
// the mark stands: a machine whose power is cut begins again.
func (d *Data) make(ctx context.Context, what content) error {
	choice, err := d.c.choose(ctx)
	if err != nil {
		return fmt.Errorf("making data partition: %w", err)
	}
	if what == marked {
		err = destroy(d.part)
	} else {
		err = putMark(d.part)
	}
	if err == nil {
		err = d.grow(fresh)
	}
	if err == nil && choice.file != nil {
		err = d.c.on.WriteKey(choice.file)
	}
	if err == nil {
		err = d.fill(choice)
	}
	if err != nil {
		return fmt.Errorf("making data partition: %w", err)
	}
	d.problems = choice.problems
	d.made, d.opened = true, choice.slots[0].Kind
	d.c.Log.Info("the data partition was made", "protection", d.protection())
	return nil
}

// fresh makes GUIDs.
func fresh() (g gpt.GUID, ok bool) {
	rand.Read(g[:])
	g[7], g[8] = g[7]&0x0f|0x40, g[8]&0x3f|0x80 // version 4, its third field little-endian
	return g, true
}

// fill writes keyslots, header and file system, and mounts it.
func (d *Data) fill(choice choice) error {
	h, key := luks.New(d.part.SectorSize())
	h, err := h.Prepare(d.part, key, nil, choice.slots...)
	if err != nil {
		return err
	}
	d.head, d.key = h, key
	if err := h.WriteSecond(d.part); err != nil {
		return fmt.Errorf("writing LUKS2 header: %w", err)
	}
	m, err := d.mapIt(h)
	if err != nil {
		return err
	}
	if err := ext4.Make(m, time.Now()); err != nil {
		return err
	}
	if err := d.c.on.Mount(m); err != nil {
		return err
	}
	if choice.recovery != "" { // before the last write: it is never too late to show it
		d.c.Tell(choice.recovery)
	}
	if err := h.WriteFirst(d.part); err != nil {
		return errors.Join(fmt.Errorf("writing LUKS2 header: %w", err), d.c.on.Unmount())
	}
	return nil
}

// settle sees to a key for a TPM that does not give it any more.
func (d *Data) settle(ctx context.Context) {
	if !slices.ContainsFunc(d.head.Slots(), func(s luks.Slot) bool { return s.Kind == byTPM }) {
		return
	}
	if d.opened == byTPM {
		if measured, err := withTPMMeasured(ctx, &d.c); err == nil {
			d.problems = append(d.problems, d.c.bootProblems(measured)...)
		}
		return
	}
	if errors.Is(d.closedBy, errInstead) {
		d.problems = append(d.problems, "The recovery passphrase opened the data in place of the PIN, which is asked for again at the next start: if it is lost, seal the key anew with another one.")
		return
	}
	why := sentence(d.closedBy)
	if _, err := d.reseal(ctx, nil, true); err != nil {
		d.problems = append(d.problems, fmt.Sprintf("The TPM did not give the key of the data (%s), and could not take it again: %s. The recovery passphrase will be asked for at every start.", why, sentence(err)))
		return
	}
	d.problems = append(d.problems, fmt.Sprintf("The TPM did not give the key of the data (%s). The recovery passphrase did, and the key is sealed again to how the machine started now: make sure that nobody changed it.", why))
}

// SetPassphrase makes a passphrase keep the key from now on, in place of what did; a
// recovery passphrase stays. Whenever the power is cut, what kept it does, or this does.
func (d *Data) SetPassphrase(_ context.Context, passphrase []byte) error {
	if len(passphrase) < least {
		return fmt.Errorf("setting passphrase: it is too short: %d bytes at least", least)
	}
	d.turn.Lock()
	defer d.turn.Unlock()
	err := d.change(func(kind string) bool { return kind != byRecovery }, luks.NewSlot{Secret: passphrase, Cost: d.c.typed(), Kind: byPassphrase})
	if err != nil {
		return fmt.Errorf("setting passphrase: %w", err)
	}
	d.setProblems(nil)
	return nil
}

// Reseal seals the key anew to the TPM as the machine is booted now; pin is empty for none.
// What else kept the key goes, but for passphrases. The first time, it returns the recovery
// passphrase to be shown. A PIN that looks like one is refused.
func (d *Data) Reseal(ctx context.Context, pin []byte) (recovery string, err error) {
	if err := checkPIN(pin); err != nil {
		return "", err
	}
	d.turn.Lock()
	defer d.turn.Unlock()
	return d.reseal(ctx, pin, false)
}

// reseal, if same, keeps things as they are: a key that wanted a PIN is not sealed without.
// The caller holds turn, or nobody else has d.
func (d *Data) reseal(ctx context.Context, pin []byte, same bool) (recovery string, err error) {
	if same && d.hasPIN() {
		return "", errors.New("it wants a PIN, which must be chosen again")
	}
	slot, measured, err := d.c.tpmSlot(ctx, pin)
	if err != nil {
		return "", err
	}
	slots := []luks.NewSlot{slot}
	if !slices.ContainsFunc(d.head.Slots(), func(s luks.Slot) bool { return s.Kind == byRecovery }) {
		recovery = newRecovery()
		slots = append(slots, luks.NewSlot{Secret: []byte(recovery), Cost: luks.Random, Kind: byRecovery})
	}
	if err := d.change(func(kind string) bool { return kind == byTPM || kind == byFile }, slots...); err != nil {
		return "", fmt.Errorf("sealing key to the TPM: %w", err)
	}
	d.setProblems(d.c.bootProblems(measured))
	return recovery, nil
}

// NewRecovery makes a new recovery passphrase in place of the one before, and returns it.
func (d *Data) NewRecovery(_ context.Context) (string, error) {
	d.turn.Lock()
	defer d.turn.Unlock()
	if d.protection() == appliance.ByFile {
		return "", errors.New("making recovery passphrase: the key file opens the data to anybody")
	}
	recovery := newRecovery()
	err := d.change(func(kind string) bool { return kind == byRecovery }, luks.NewSlot{Secret: []byte(recovery), Cost: luks.Random, Kind: byRecovery})
	if err != nil {
		return "", fmt.Errorf("making recovery passphrase: %w", err)
	}
	return recovery, nil
}

// change puts keyslots in the place of others, as one. The caller holds turn; those who only
// look see the header before or the one after, and do not wait.
func (d *Data) change(goes func(kind string) bool, add ...luks.NewSlot) error {
	var drop []int
	file := false
	for _, s := range d.head.Slots() {
		if goes(s.Kind) {
			drop = append(drop, s.ID)
			file = file || s.Kind == byFile
		}
	}
	next := d.head.Clone()
	err := next.Change(d.part, d.key, drop, add...)
	d.mu.Lock()
	d.head = next // after an error, what is on the disk as far as it is known
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if !file {
		return nil
	}
	if err := d.c.on.RemoveKey(); err != nil { // it opens nothing any more
		d.c.Log.Warn("the key file that opens nothing any more is still there", "error", err)
	}
	return nil
}

// Reset destroys all keys, so that the data are lost at once; the machine must reboot then,
// and makes the partition anew.
func (d *Data) Reset(_ context.Context) error {
	d.turn.Lock() // a change of keys that is under way would write a header again
	defer d.turn.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.key)
	if err := destroy(d.part); err != nil {
		return fmt.Errorf("resetting: %w", err)
	}
	d.c.Log.Warn("all keys of the data partition were destroyed: it is made anew at the next start")
	return nil
}
