package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// serveUser is who serve runs as where the Debian package made that account.
const serveUser = "lazaret"

// owner is the user that serve will run as.
type owner struct {
	name     string
	uid, gid int
}

// findOwner looks up who is to run serve: name, or without one serveUser where there is
// that account and this is root. None is nil: then whoever runs this.
func findOwner(name string) (*owner, error) {
	asked := name != ""
	if !asked {
		if os.Geteuid() != 0 {
			return nil, nil
		}
		name = serveUser
	}
	u, err := user.Lookup(name)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown && !asked {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up the user that serve is to run as: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err = errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("looking up the user that serve is to run as: %w", err)
	}
	return &owner{name, uid, gid}, nil
}

// control is what dataplane.control_uids says.
func (o *owner) control() []string { return []string{strconv.Itoa(o.uid)} }

// give hands the control plane's directory and all in it to o. A link in it is handed
// over itself, and not what it points to.
func (o *owner) give(dir string) error {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, o.uid, o.gid)
	})
	if err != nil {
		return fmt.Errorf("handing %s to the user %s: %w", dir, o.name, err)
	}
	return nil
}
