package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"lazaret/appliance/update"
	"lazaret/internal/config"
	"lazaret/internal/confine"
	"lazaret/internal/making"
)

// confineServe leaves the control plane its own directory; its configuration, the
// directory of the data plane's socket, to read, and the keys that updates are signed with.
func confineServe(c config.Config, path string, log *slog.Logger) error {
	return enter(confine.Control, confine.Paths{ReadOnly: []string{path, filepath.Dir(c.Dataplane.Socket), update.KeysPath}}, ownDir{c.State, 0o700}, log)
}

// confinePlane leaves the data plane its own directory and that of its socket.
func confinePlane(c config.Config, path string, log *slog.Logger) error {
	sockets := filepath.Dir(c.Dataplane.Socket)
	if _, err := os.Stat(sockets); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(sockets, 0o755), os.Chmod(sockets, 0o755)); err != nil { // whatever the umask: the control plane is another user
			return fmt.Errorf("making the socket's directory: %w", err)
		}
	}
	return enter(confine.Plane, confine.Paths{ReadOnly: []string{path}, ReadWrite: []string{sockets}}, ownDir{c.Dataplane.State, 0o700}, log)
}

// confineMake leaves what makes a gateway the control plane's directory, which it fills, and
// to read what it is not to write over.
func confineMake(at making.Places, log *slog.Logger) error {
	return enter(confine.Make, confine.Paths{ReadOnly: []string{filepath.Dir(at.Config), at.Plane}}, ownDir{at.State, 0o700}, log)
}

// ownDir is a directory that must be there before the process confines itself to it.
type ownDir struct {
	path string
	mode fs.FileMode
}

func enter(p confine.Profile, paths confine.Paths, own ownDir, log *slog.Logger) error {
	if err := os.MkdirAll(own.path, own.mode); err != nil {
		return fmt.Errorf("making the process's directory: %w", err)
	}
	paths.ReadWrite = append(paths.ReadWrite, own.path)
	for _, lack := range confine.Lacks() {
		log.Warn("the process is confined less than it could be", "why", lack)
	}
	return confine.Enter(p, paths)
}
