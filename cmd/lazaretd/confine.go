package main

import (
	"log/slog"
	"path/filepath"

	"lazaret/appliance/update"
	"lazaret/cmd/internal/process"
	"lazaret/internal/config"
	"lazaret/internal/confine"
	"lazaret/internal/making"
)

// confineServe leaves the control plane its own directory; its configuration, the
// directory of the data plane's socket, to read, and the keys that updates are signed with.
func confineServe(c config.Config, path string, log *slog.Logger) error {
	return process.Enter(confine.Control, confine.Paths{ReadOnly: []string{path, filepath.Dir(c.Dataplane.Socket), update.KeysPath}}, c.State, log)
}

// confineMake leaves what makes a gateway the control plane's directory, which it fills, and
// to read what it is not to write over.
func confineMake(at making.Places, log *slog.Logger) error {
	return process.Enter(confine.Make, confine.Paths{ReadOnly: []string{filepath.Dir(at.Config), at.Plane}}, at.State, log)
}
