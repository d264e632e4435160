package posture

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A user's own settings lie in databases that a program of that user must be asked about,
// and a user may change them. So a screen lock counts where an administrator set it and
// locked it against change, in dconf's text files (dconf(7)); GNOME alone heeds those.
const (
	lockEnabled = "/org/gnome/desktop/screensaver/lock-enabled"
	lockDelay   = "/org/gnome/desktop/screensaver/lock-delay"
	idleDelay   = "/org/gnome/desktop/session/idle-delay"
)

// screen says whether GNOME locks the screen by an administrator's setting, and after how
// long.
func screen(root fs.FS) (map[string]string, error) {
	if err := onlyGNOME(root); err != nil {
		return nil, err
	}
	profile, err := readFile(root, "etc/dconf/profile/user")
	if err != nil {
		return nil, errors.New("no administrator set the screen lock of all users (dconf)")
	}
	settings := map[string]string{}
	for line := range strings.Lines(profile) { // the first one that locks a key decides
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "system-db:")
		if !ok || !fs.ValidPath(name) || strings.Contains(name, "/") {
			continue
		}
		db, err := lockedSettings(root, "etc/dconf/db/"+name+".d")
		if err != nil {
			return nil, err
		}
		for k, v := range db {
			settings[k] = cmp.Or(settings[k], v)
		}
	}
	switch settings[lockEnabled] {
	case "true":
	case "false":
		return one("screen.lock", "false"), nil
	default:
		return nil, errors.New("no administrator locked the screen lock of all users (dconf)")
	}
	idle, known := seconds(settings[idleDelay])
	delay, also := seconds(settings[lockDelay])
	if !known {
		return nil, errors.New("users may set how long the screen stays on")
	}
	if idle == 0 { // "0 to disable": the screen never goes blank, and never locks
		return one("screen.lock", "false"), nil
	}
	facts := one("screen.lock", "true")
	if !also {
		return facts, errors.New("users may set how long after the screen went blank it locks")
	}
	facts["screen.lock_after"] = (idle + delay).String()
	return facts, nil
}

// seconds reads a GVariant like "uint32 300" or "300".
func seconds(v string) (time.Duration, bool) {
	n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(v, "uint32")), 10, 31)
	return time.Duration(n) * time.Second, err == nil
}

// lockedSettings reads the settings of one system database that users cannot change. Of
// several files the last by name decides.
func lockedSettings(root fs.FS, dir string) (map[string]string, error) {
	files, err := fs.ReadDir(root, dir)
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", dir, err)
	}
	all := map[string]string{}
	for _, f := range files {
		if f.IsDir() {
			continue
		}
		text, err := readFile(root, dir+"/"+f.Name())
		if err != nil {
			return nil, err
		}
		for _, key := range []string{lockEnabled, lockDelay, idleDelay} {
			at := strings.LastIndexByte(key, '/')
			if v, ok := section(text, key[1:at])[key[at+1:]]; ok {
				all[key] = v
			}
		}
	}
	locks, err := lockedKeys(root, dir+"/locks")
	if err != nil {
		return nil, err
	}
	for k := range all {
		if !slices.Contains(locks, k) {
			delete(all, k)
		}
	}
	return all, nil
}

func lockedKeys(root fs.FS, dir string) ([]string, error) {
	files, err := fs.ReadDir(root, dir)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", dir, err)
	}
	var keys []string
	for _, f := range files {
		text, err := readFile(root, dir+"/"+f.Name())
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			keys = append(keys, strings.TrimSpace(line))
		}
	}
	return keys, nil
}

// onlyGNOME refuses a device on which somebody sits at another desktop, by the sessions
// that logind keeps.
func onlyGNOME(root fs.FS) error {
	list, err := fs.ReadDir(root, "run/systemd/sessions")
	if err != nil {
		return errors.New("logind's sessions are not to be seen")
	}
	for _, e := range list {
		if e.IsDir() || strings.HasSuffix(e.Name(), ".ref") || !e.Type().IsRegular() {
			continue
		}
		text, err := readFile(root, "run/systemd/sessions/"+e.Name())
		if absent(err) {
			continue // has just ended
		}
		if err != nil {
			return err
		}
		s := section(text, "")
		if s["CLASS"] != "user" || s["TYPE"] != "x11" && s["TYPE"] != "wayland" {
			continue
		}
		if d := strings.ToLower(s["DESKTOP"]); !strings.Contains(d, "gnome") && !strings.Contains(d, "ubuntu") {
			return fmt.Errorf("the screen lock of the desktop %q is not known", s["DESKTOP"])
		}
	}
	return nil
}

// First and last user id of people (login.defs(5), UID_MIN and UID_MAX).
const firstPerson, lastPerson = 1000, 60000

// passcode says whether every person with an account on this device needs a password: an
// empty one in shadow(5) lets anybody in. Accounts of a directory are not seen.
func passcode(root fs.FS) (map[string]string, error) {
	users, err := readFile(root, "etc/passwd")
	if err != nil {
		return nil, err
	}
	shadow, err := readFile(root, "etc/shadow")
	if err != nil {
		return nil, err
	}
	people := map[string]bool{"root": true}
	for line := range strings.Lines(users) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 7 {
			continue
		}
		if uid, err := strconv.Atoi(f[2]); err == nil && uid >= firstPerson && uid <= lastPerson {
			people[f[0]] = true
			if f[1] == "" { // passwd(5): no password at all
				return one("passcode.set", "false"), nil
			}
		}
	}
	if len(people) == 1 {
		return nil, errors.New("nobody has an account of their own on this device")
	}
	for line := range strings.Lines(shadow) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 2 || !people[f[0]] {
			continue
		}
		if f[1] == "" {
			return one("passcode.set", "false"), nil
		}
		delete(people, f[0])
	}
	delete(people, "root") // may have no line
	if len(people) > 0 {
		return nil, fmt.Errorf("%d accounts have no line in /etc/shadow", len(people))
	}
	return one("passcode.set", "true"), nil
}
