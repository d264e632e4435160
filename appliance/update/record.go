package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lazaret/appliance"
	"lazaret/internal/durable"
)

// recordName is the file below appliance.MachineDir that keeps what is known of updates.
const recordName = "update.json"

// record is what outlives a restart.
type record struct {
	V        int               `json:"v"` // 1
	Settings appliance.Updates `json:"settings"`
	Place    int               `json:"place"`  // 0 to 99, drawn once
	Schema   int               `json:"schema"` // of the data on the disk
	Pending  *attempt          `json:"pending,omitempty"`
	Blessed  []known           `json:"blessed,omitempty"` // here, once; the newest last
	Left     string            `json:"left,omitempty"`    // the version that a person rolled back from, until the next start
	Failed   string            `json:"failed,omitempty"`  // the version that was tried last and came back
	Last     string            `json:"last,omitempty"`
	LastAt   time.Time         `json:"last_at,omitzero"`
	Trouble  bool              `json:"trouble,omitempty"` // Last is a failure
	Heard    heard             `json:"heard"`
}

// attempt is an update that was staged and is not decided.
type attempt struct {
	Version string    `json:"version"`
	From    string    `json:"from"`
	At      time.Time `json:"at"`
}

// known is a version that was blessed, and the schema of its data.
type known struct {
	Version string `json:"version"`
	Schema  int    `json:"schema"`
}

type heard struct {
	Checked   time.Time `json:"checked,omitzero"`
	Available string    `json:"available,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Problem   string    `json:"problem,omitempty"`
	Listed    time.Time `json:"listed,omitzero"` // when the newest list was made
}

// mostKnown bounds how many blessed versions are remembered.
const mostKnown = 8

// loadRecord reads the record, or begins one, which is not kept yet.
func loadRecord(dir string) (r record, kept bool, err error) {
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return record{V: 1, Place: rand.IntN(100)}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && r.V != 1 {
		err = fmt.Errorf("it is of version %d", r.V)
	}
	if err != nil {
		return record{}, false, fmt.Errorf("reading what is known of updates: %w", err)
	}
	return r, true, nil
}

// save writes the record, whole or not at all.
func (r record) save(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Write(filepath.Join(dir, recordName), text, 0o600); err != nil {
		return fmt.Errorf("keeping what is known of updates: %w", err)
	}
	return nil
}

func (r *record) say(now time.Time, trouble bool, format string, args ...any) {
	r.Last, r.LastAt, r.Trouble = fmt.Sprintf(format, args...), now, trouble
}

func (r *record) schemaOf(version string) (int, bool) {
	i := slices.IndexFunc(r.Blessed, func(k known) bool { return k.Version == version })
	if i < 0 {
		return 0, false
	}
	return r.Blessed[i].Schema, true
}

func (r *record) bless(version string, schema int) {
	r.Blessed = slices.DeleteFunc(r.Blessed, func(k known) bool { return k.Version == version })
	r.Blessed = append(r.Blessed, known{version, schema})
	if n := len(r.Blessed); n > mostKnown {
		r.Blessed = r.Blessed[n-mostKnown:]
	}
}

func syncDir(path string) error { return durable.SyncDir(path) }
