package seed

import (
	"errors"
	"io"
	"io/fs"

	"lazaret/appliance"
)

// Seed is what a seed disk says. It is whole or, with Faults, to be left alone.
type Seed struct {
	Instance string             // instance-id: a seed is applied once for each
	Hostname string             // local-hostname
	Setup    appliance.Setup    // without Network
	Code     string             // claim_code: who knows it may claim the machine; empty: the machine makes one
	Network  *appliance.Network // network-config; nil: none
	Faults   []string           // everything that is wrong, as "file:line: sentence", for the screen
}

// Device is a block device that may hold a seed.
type Device struct {
	Path string // like /dev/sr0
	FS   string // vfat or iso9660
}

// ErrNone is returned where no device is labelled CIDATA.
var ErrNone = errors.New("no seed disk")

// Find returns the first of the block devices with a file system labelled CIDATA, in any case.
func Find(paths []string, open func(path string) (io.ReaderAt, io.Closer, error)) (Device, error) {
	return Device{}, ErrNone
}

// Read reads a seed. An error means that it could not be read at all; what is wrong with its
// contents is in Faults.
func Read(files fs.FS) (Seed, error) { return Seed{}, errors.ErrUnsupported }

// Files are the contents of a seed disk.
type Files struct {
	MetaData, UserData, NetworkConfig []byte // NetworkConfig may be nil
}

// Write writes a seed disk: an ISO 9660 image labelled CIDATA.
func Write(w io.Writer, f Files) error { return errors.ErrUnsupported }
