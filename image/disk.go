package image

import (
	"io"
	"os"
	"path"

	"lazaret/appliance"
	"lazaret/image/fat"
	"lazaret/image/gpt"
	"lazaret/image/packages"
)

// GUIDs of every image are the same, or no two builds would be. A machine may give its disk
// others when it first boots; it finds its partitions by name.
const (
	diskGUID = "6c617a61-7265-4074-8000-000000000001"
	espGUID  = "6c617a61-7265-4074-8000-000000000002"
	dataGUID = "6c617a61-7265-4074-8000-000000000003"
	espID    = 0x6c617a61 // the FAT volume's
)

// loaderConf is systemd-boot's (loader.conf(5)): the newest slot that has attempts left,
// at once, and nobody edits its command line.
const loaderConf = "timeout 0\neditor no\nauto-entries no\nauto-firmware no\n"

// esp returns the files of the EFI system partition. The first slot counts no attempts:
// there is none before it to go back to.
func (c *Config) esp(in *inputs, slot []byte) map[string][]byte {
	return map[string][]byte{
		"EFI/BOOT/" + targets[c.Arch].boot:                        in.loader,
		"loader/loader.conf":                                      []byte(loaderConf),
		path.Join(appliance.SlotDir, "lazaret_"+c.Version+".efi"): slot,
	}
}

func espParts(in *inputs, files map[string][]byte) []Part {
	var parts []Part
	for name, data := range files {
		if path.Dir(name) == "EFI/BOOT" {
			parts = append(parts, part(in.bootPkg, "esp:"+name, data))
		}
	}
	return parts
}

// disk writes the whole disk, leaving holes where nothing is.
func (c *Config) disk(f *os.File, files map[string][]byte) error {
	if err := f.Truncate(c.Size); err != nil {
		return err
	}
	err := gpt.Write(f, c.Size, diskGUID, []gpt.Partition{
		{Type: gpt.TypeESP, GUID: espGUID, Name: appliance.ESPName, Start: gap, Size: ESPSize},
		{Type: gpt.TypeData, GUID: dataGUID, Name: appliance.DataName, Start: gap + ESPSize, Size: dataSize},
	})
	if err != nil {
		return err
	}
	return fat.Write(io.NewOffsetWriter(f, gap), fat.Config{
		Size: ESPSize, Label: "LAZARET-ESP", Serial: espID, Time: c.Time, Files: files,
	})
}

func part(p packages.Package, where string, data []byte) Part {
	return Part{Name: p.Name, Version: p.Version, Path: where, Source: p.Path, SHA256: p.SHA256, Size: int64(len(data))}
}
