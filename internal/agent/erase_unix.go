//go:build linux || darwin

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// owned is what must be known of a file before it is started as root.
type owned struct {
	uid  uint32
	mode fs.FileMode
}

func lookOwned(path string) (owned, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return owned{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return owned{}, errors.New("its owner cannot be told")
	}
	return owned{st.Uid, info.Mode()}, nil
}

// checkEraseProgram says whether a program may be started as root on an order from afar: it
// and everything above it are root's, and nobody else may write there.
func checkEraseProgram(path string) error { return checkOwned(path, lookOwned) }

func checkOwned(path string, look func(string) (owned, error)) error {
	if path == "" {
		return errors.New("this device's administrator named no program that erases it (lazaret up --erase-program)")
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("the program that erases the device is to be named by its full path, not %q", path)
	}
	for at := path; ; at = filepath.Dir(at) {
		f, err := look(at)
		if err != nil {
			return fmt.Errorf("looking at the program that erases the device: %w", err)
		}
		// Nobody renames what is another's in a directory with the sticky bit, like /tmp.
		sticky := f.mode.IsDir() && f.mode&fs.ModeSticky != 0 && at != filepath.Dir(path)
		switch {
		case f.uid != 0:
			return fmt.Errorf("%s does not belong to root", at)
		case f.mode.Perm()&0o022 != 0 && !sticky:
			return fmt.Errorf("%s can be written by others", at)
		case at == path && (!f.mode.IsRegular() || f.mode.Perm()&0o100 == 0):
			return fmt.Errorf("%s is no program", at)
		case at != path && !f.mode.IsDir():
			return fmt.Errorf("%s is no directory", at)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// erase runs the program, which was checked, that erases the device, without arguments. That it ended well is
// all that can be seen of its effect from inside the device that it erases.
func erase(ctx context.Context, program string, log *slog.Logger) (string, error) {
	log.Warn("erasing this device", "program", program)
	c := exec.CommandContext(ctx, program)
	c.Dir, c.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	c.WaitDelay = 5 * time.Second
	out, err := c.CombinedOutput()
	if err != nil {
		log.Error("erasing this device", "err", err, "output", string(out[:min(len(out), 4096)]))
		return "", fmt.Errorf("running %s: %w", program, err)
	}
	return program + " ended well", nil
}
