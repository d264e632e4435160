package posture

import (
	"context"
	"io/fs"
	"os"
	"strings"
	"time"
)

// system are the collectors of a Linux device.
func system() []Collector {
	root := os.DirFS("/")
	executable, _ := os.Executable() // empty: the collector says so
	own := process{executable: strings.TrimPrefix(executable, "/"), env: os.Environ(), owner: owner}
	return append(linux(root, own, time.Now, time.Local), Collector{"firewall", firewallOf(root)})
}

// linux are the collectors that read files below root.
func linux(root fs.FS, own process, now func() time.Time, zone *time.Location) []Collector {
	file := func(name string, read func(fs.FS) (map[string]string, error)) Collector {
		return Collector{name, func(context.Context) (map[string]string, error) { return read(root) }}
	}
	return []Collector{
		{"agent", agent},
		file("system", release),
		file("patches", func(root fs.FS) (map[string]string, error) { return patched(root, zone) }),
		file("updates", func(root fs.FS) (map[string]string, error) { return pending(root, now()) }),
		file("disk", disk),
		file("screen", screen),
		file("passcode", passcode),
		file("boot", boot),
		file("hardware", hardware),
		file("tpm", chip),
		file("tamper", func(root fs.FS) (map[string]string, error) { return tamper(root, own) }),
	}
}
