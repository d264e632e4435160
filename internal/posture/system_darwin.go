package posture

import (
	"os"
	"strings"
)

// system are the collectors of a Mac.
func system() []Collector {
	executable, _ := os.Executable() // empty: the collector says so
	return mac{run: run, root: os.DirFS("/"), own: process{executable: strings.TrimPrefix(executable, "/"), env: os.Environ(), owner: owner}}.collectors()
}
