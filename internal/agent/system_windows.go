package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// errNotHere reports what the agent cannot do safely on this system: it keeps private keys
// only where it can tell who else may read them.
var errNotHere = errors.New("not supported on Windows yet: here the agent can tell its posture and nothing else")

func ownDirectory(dir string, _ fs.FileInfo) error {
	return fmt.Errorf("telling who may enter %s: %w", dir, errNotHere)
}

func lockFile(*os.File) error { return errNotHere }
