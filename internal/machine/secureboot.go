package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"lazaret/appliance/boot"
	"lazaret/image/sign"
)

// Variables of the firmware (UEFI 2.10, sections 3.3 and 32.4).
const (
	secureBootVariable = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	trustedVariable    = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	refusedVariable    = "dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
)

// startable says why the firmware would not start a slot. With Secure Boot off it starts
// everything; with that on, what is refused leaves the machine in the firmware's menu.
func (m *Machine) startable(slot io.ReaderAt, size int64) error {
	dir, err := m.kernel.EFIVariables()
	if errors.Is(err, boot.ErrNoEFI) {
		return nil
	}
	if err != nil {
		return err
	}
	return startableBy(dir, slot, size)
}

// startableBy is startable for the firmware whose variables are in dir.
func startableBy(dir string, slot io.ReaderAt, size int64) error {
	on, err := variable(dir, secureBootVariable)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(on) == 1 && on[0] == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	db, err := database(dir, trustedVariable)
	if err != nil {
		return err
	}
	dbx, err := database(dir, refusedVariable)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer debug.FreeOSMemory() // of a slot, which is some tens of megabytes
	program := make([]byte, size)
	if _, err := io.ReadFull(io.NewSectionReader(slot, 0, size), program); err != nil {
		return fmt.Errorf("reading the slot: %w", err)
	}
	return sign.Verify(program, db, dbx)
}

func database(dir, name string) (sign.Database, error) {
	value, err := variable(dir, name)
	if err != nil {
		return sign.Database{}, err
	}
	return sign.ParseDatabase(value)
}

// variable reads one, without its attributes.
func variable(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("asking the firmware: %w", err)
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("asking the firmware: %s is cut off", name)
	}
	return b[4:], nil
}
