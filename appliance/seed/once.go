package seed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxRecord bounds the record of seeds, in entries; older ones are forgotten.
const maxRecord = 64

// Record remembers which seeds were applied, in a file on the data partition.
type Record struct{ Path string }

// Seen says whether the seed of that instance was applied before.
func (r Record) Seen(instance string) (bool, error) {
	list, err := r.list()
	return slices.Contains(list, instance), err
}

// Done writes down that it was. Call it after everything is applied: what was cut off is
// then applied again.
func (r Record) Done(instance string) error {
	list, err := r.list()
	if err != nil || slices.Contains(list, instance) {
		return err
	}
	list = append(list, instance)
	list = list[max(len(list)-maxRecord, 0):]
	if err := r.write(strings.Join(list, "\n") + "\n"); err != nil {
		return fmt.Errorf("recording a seed: %w", err)
	}
	return nil
}

func (r Record) list() ([]string, error) {
	text, err := os.ReadFile(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of seeds: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func (r Record) write(text string) error {
	f, err := os.CreateTemp(filepath.Dir(r.Path), ".seed-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), r.Path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(r.Path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
