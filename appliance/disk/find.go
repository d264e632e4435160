package disk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/gpt"
)

// drive is a whole disk.
type drive struct {
	block.Device
	Name  string // vda
	Close func() error
}

// find waits for the disk that this machine booted from: the one whose EFI partition the
// boot loader names, or, where no loader says, the only one that has both partitions.
func find(ctx context.Context, c *Config) (drive, error) {
	timer := time.NewTimer(c.Wait)
	defer timer.Stop()
	for {
		d, err := choose(c.on)
		if err == nil || !errors.Is(err, ErrNoDisk) || c.Changed == nil {
			return d, err
		}
		select {
		case _, open := <-c.Changed:
			if !open {
				return drive{}, err
			}
		case <-timer.C:
			return drive{}, err
		case <-ctx.Done():
			return drive{}, fmt.Errorf("waiting for the disk: %w", ctx.Err())
		}
	}
}

// choose looks once.
func choose(on system) (drive, error) {
	drives, err := on.Disks()
	if err != nil {
		return drive{}, fmt.Errorf("looking for disks: %w", err)
	}
	booted := on.Booted()
	var ours []drive
	var seen, small []string
	for _, d := range drives {
		seen = append(seen, d.Name)
		found, err := is(d, booted)
		if errors.Is(err, gpt.ErrSmall) {
			small = append(small, d.Name)
		}
		if found {
			ours = append(ours, d)
		} else {
			d.Close()
		}
	}
	if len(ours) == 1 {
		return ours[0], nil
	}
	var names []string
	for _, d := range ours {
		names = append(names, d.Name)
		d.Close()
	}
	if len(ours) > 1 {
		return drive{}, fmt.Errorf("disks %s look the same, and which of them is this machine's cannot be told: take the others off", strings.Join(names, ", "))
	}
	if len(small) > 0 {
		return drive{}, errSmall{strings.Join(small, ", ")}
	}
	return drive{}, fmt.Errorf("%w; seen: %s", ErrNoDisk, strings.Join(seen, ", "))
}

// errSmall is an ErrNoDisk where disks are cut off, of which one may be this machine's.
type errSmall struct{ names string }

func (e errSmall) Error() string {
	return "the disk is too small: " + e.names + " ends before its partition table says; make it as large as the image, or larger"
}

func (errSmall) Is(target error) bool { return target == ErrNoDisk }

// is reports whether a disk has this machine's partitions; booted is the EFI partition's
// GUID, or empty. An error says why its table cannot be read.
func is(d drive, booted string) (bool, error) {
	t, err := gpt.Read(d)
	if err != nil {
		return false, err
	}
	esp, ok := t.Find(appliance.ESPName)
	if _, data := t.Find(appliance.DataName); !ok || !data {
		return false, nil
	}
	return booted == "" || strings.EqualFold(esp.ID.String(), booted), nil
}
