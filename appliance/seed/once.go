package seed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"lazaret/internal/durable"
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
	return durable.Write(r.Path, []byte(text), 0o600)
}
