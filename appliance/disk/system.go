package disk

import (
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/gpt"
	"lazaret/appliance/disk/mapper"
)

// system is what the kernel and the firmware do for this package. Of mappings and mounts
// there is one at a time.
type system interface {
	Disks() ([]drive, error)
	Booted() string   // GUID of the EFI partition the loader was read from; empty: not known
	SecureBoot() bool // it is on
	// Partition tells the kernel how large a partition is, and opens it.
	Partition(d drive, t *gpt.Table, p gpt.Partition) (block.Device, error)
	Files(d drive, t *gpt.Table) error // where ReadKey and WriteKey find the EFI partition
	Map(part block.Device, m mapper.Crypt) (block.Device, error)
	Unmap() error
	Mount(mapping block.Device) error
	Unmount() error
	Stat() (ext4.State, error)
	keyFile
}

// keyFile is the key file on the EFI partition.
type keyFile interface {
	ReadKey() ([]byte, error)
	WriteKey(key []byte) error // durable when it returns
	RemoveKey() error
}
