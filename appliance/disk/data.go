package disk

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/gpt"
	"lazaret/appliance/disk/luks"
	"lazaret/appliance/disk/mapper"
)

// Data is the data partition, open and mounted. Its methods may be called concurrently.
type Data struct {
	c      Config
	drive  drive
	part   block.Device
	made   bool
	opened string // kind of the keyslot that opened it

	turn sync.Mutex // held by who changes keys, which takes as long as a passphrase costs; before mu

	mu       sync.Mutex   // guards what follows, for a moment; what there is changes with turn held, too
	head     *luks.Header // replaced as a whole
	key      []byte       // of the volume; the kernel has it too
	closedBy error        // why the TPM or the key file did not open it
	problems []string
}

// complete checks a Config and fills in what is optional.
func (c *Config) complete() error {
	if c.Log == nil {
		return errors.New("disk: Config.Log is required")
	}
	switch c.Protection {
	case "", appliance.ByTPM, appliance.ByPassphrase, appliance.ByFile:
	default:
		return fmt.Errorf("disk: no such protection: %q", c.Protection)
	}
	for _, s := range []struct {
		at    *string
		else_ string
	}{{&c.Mount, appliance.DataDir}, {&c.ESP, appliance.ESPDir}, {&c.Sys, "/sys"}, {&c.Dev, "/dev"}} {
		if *s.at == "" {
			*s.at = s.else_
		}
	}
	if c.Wait == 0 {
		c.Wait = 30 * time.Second
	}
	if c.PCRs == nil {
		c.PCRs = []uint{7}
	}
	if c.sleep == nil {
		c.sleep = wait
	}
	if c.on == nil {
		c.on = &kernel{sys: c.Sys, dev: c.Dev, mount: c.Mount, esp: c.ESP, shared: c.WithESP, log: c.Log}
	}
	return nil
}

// wait waits for a while, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Open finds the data partition, makes it at the first boot, and mounts it. It ends with
// ErrNoDisk, ErrForeign, ErrLocked or ErrDamaged, having changed nothing that matters, or
// when ctx ends. The kernel's Modules must be there.
func Open(ctx context.Context, c Config) (*Data, error) {
	if c.Tell == nil && c.TPM != "none" {
		return nil, errors.New("disk: Config.Tell is required where a TPM may protect")
	}
	d, what, err := locate(ctx, c)
	if err != nil {
		return nil, err
	}
	switch what {
	case blank, marked:
		err = d.make(ctx, what)
	case encrypted:
		err = d.open(ctx)
	}
	if !c.quick {
		debug.FreeOSMemory() // Argon2's
	}
	if err != nil {
		return nil, errors.Join(err, d.let())
	}
	return d, nil
}

// Reset destroys all keys of the data partition, so that its data are lost at once; the
// next Open makes it anew. It is for a partition that Open would not have, and asks and
// tells nobody.
func Reset(ctx context.Context, c Config) error {
	d, _, err := locate(ctx, c)
	if err != nil && !errors.Is(err, ErrForeign) {
		return err
	}
	return errors.Join(d.Reset(ctx), d.let())
}

// locate finds and grows the partition. With ErrForeign there is a Data too, to be reset.
func locate(ctx context.Context, c Config) (*Data, content, error) {
	if err := c.complete(); err != nil {
		return nil, foreign, err
	}
	d := &Data{c: c}
	var err error
	if d.drive, err = find(ctx, &d.c); err != nil {
		return nil, foreign, err
	}
	if err := d.grow(nil); err != nil {
		return nil, foreign, errors.Join(err, d.let())
	}
	what, like, err := inspect(d.part)
	if err != nil {
		return nil, foreign, errors.Join(fmt.Errorf("reading data partition: %w", err), d.let())
	}
	if what == foreign {
		return d, foreign, fmt.Errorf("%w (it looks like %s)", ErrForeign, like)
	}
	return d, what, nil
}

// grow makes the data partition reach the disk's end, and opens it.
func (d *Data) grow(id func() (gpt.GUID, bool)) error {
	table, changed, err := gpt.Grow(d.drive, gpt.Options{Name: appliance.DataName, ID: id})
	if err != nil {
		return err
	}
	p, _ := table.Find(appliance.DataName)
	if changed {
		d.c.Log.Info("the data partition reaches the end of the disk", "disk", d.drive.Name, "sectors", p.Last-p.First+1)
	}
	if d.part != nil {
		return nil
	}
	if err := d.c.on.Files(d.drive, table); err != nil {
		return err
	}
	d.part, err = d.c.on.Partition(d.drive, table, p)
	if err != nil {
		return fmt.Errorf("opening data partition: %w", err)
	}
	if d.part.Size() < luks.DataOffset+ext4.Least {
		return fmt.Errorf("the data partition has only %d bytes: make the disk larger", d.part.Size())
	}
	return nil
}

// open opens a partition that was made before.
func (d *Data) open(ctx context.Context) error {
	var err error
	if d.head, err = luks.Read(d.part); err != nil {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if off, _ := d.head.Segment(); off+ext4.Least > d.part.Size() {
		return fmt.Errorf("%w: its data begin at %d", ErrForeign, off)
	}
	if err := d.unlock(ctx); err != nil {
		return err
	}
	if err := d.head.Heal(d.part); err != nil {
		return err
	}
	m, err := d.mapIt(d.head)
	if err != nil {
		return err
	}
	if _, err := ext4.Read(m); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := d.c.on.Mount(m); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	d.settle(ctx)
	return nil
}

// mapIt has the kernel encrypt the partition's data.
func (d *Data) mapIt(h *luks.Header) (block.Device, error) {
	off, sector := h.Segment()
	size := (d.part.Size() - off) / 4096 * 4096
	return d.c.on.Map(d.part, mapper.Crypt{Name: mapping, Offset: off, Size: size, Sector: sector, Key: d.key})
}

// let lets go of everything, in whatever state it is.
func (d *Data) let() error {
	err := d.c.on.Unmap()
	if f, ok := d.part.(interface{ Close() error }); ok {
		err = errors.Join(err, f.Close())
	}
	if d.drive.Close != nil {
		err = errors.Join(err, d.drive.Close())
	}
	clear(d.key)
	return err
}

// Close unmounts the partition and takes its key out of the kernel.
func (d *Data) Close() error {
	d.turn.Lock()
	defer d.turn.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.c.on.Unmount(); err != nil {
		return err // the mapping cannot go before
	}
	return d.let()
}

// Made says whether the partition was made by this Open.
func (d *Data) Made() bool { return d.made }

// Status is how much room there is, and what keeps the key.
func (d *Data) Status() appliance.Disk {
	s, _ := d.c.on.Stat() // Problems says what is wrong
	d.mu.Lock()
	defer d.mu.Unlock()
	return appliance.Disk{Size: s.Size, Free: s.Free, Encrypted: true, Protection: d.protection()}
}

// setProblems replaces the sentences that keys give reason for.
func (d *Data) setProblems(all []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.problems = all
}

// protection is the weakest of what keeps the key.
func (d *Data) protection() appliance.Protection {
	p := appliance.ByPassphrase
	for _, s := range d.head.Slots() {
		switch s.Kind {
		case byFile:
			return appliance.ByFile
		case byTPM:
			p = appliance.ByTPM
		}
	}
	return p
}

// Problems are sentences for administrators, the gravest first.
func (d *Data) Problems() []string {
	var all []string
	switch s, err := d.c.on.Stat(); {
	case err != nil:
		all = append(all, "The data partition cannot be asked how it does: "+err.Error()+".")
	case s.ReadOnly:
		all = append(all, "The data partition's file system is damaged and takes no more writes: save what is needed, then reset the machine to factory settings.")
	case s.Errors > 0:
		all = append(all, fmt.Sprintf("The data partition's file system met %d errors: save what is needed, then reset the machine to factory settings.", s.Errors))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.protection() == appliance.ByFile {
		all = append(all, fileProblem)
	}
	return append(all, d.problems...)
}
