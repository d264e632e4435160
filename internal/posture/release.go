package posture

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// release names a Linux system: os-release(5), the point release where Debian keeps it
// apart, and the running kernel.
func release(root fs.FS) (map[string]string, error) {
	text, err := readFile(root, "etc/os-release")
	if absent(err) {
		text, err = readFile(root, "usr/lib/os-release")
	}
	facts := map[string]string{"os.build": readWord(root, "proc/sys/kernel/osrelease")}
	if err != nil {
		return facts, fmt.Errorf("naming the system: %w", err)
	}
	keys := section(text, "")
	id, version := unquote(keys["ID"]), unquote(keys["VERSION_ID"])
	if point := readWord(root, "etc/debian_version"); id == "debian" && strings.HasPrefix(point, version+".") {
		version = point
	}
	facts["os.name"], facts["os.version"] = id, version
	if version == "" {
		return facts, errors.New("this system has no version number (VERSION_ID)")
	}
	return facts, nil
}

func unquote(s string) string { return strings.Trim(s, `"'`) }

// patched finds when an update was last installed, in the package manager's own log. A
// newly installed package is no update, and neither is a changed package database.
func patched(root fs.FS, zone *time.Location) (map[string]string, error) {
	logs := []struct {
		names []string
		read  func(line string, zone *time.Location) (time.Time, bool)
	}{
		{[]string{"var/log/dpkg.log", "var/log/dpkg.log.1"}, dpkgUpgrade},
		{[]string{"var/log/dnf.rpm.log", "var/log/dnf.rpm.log.1"}, dnfUpgrade},
		{[]string{"var/log/pacman.log"}, pacmanUpgrade},
	}
	for _, l := range logs {
		for _, name := range l.names {
			text, err := readTail(root, name)
			if absent(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			var newest time.Time
			for line := range strings.Lines(text) {
				if at, ok := l.read(strings.TrimSpace(line), zone); ok && at.After(newest) {
					newest = at
				}
			}
			if !newest.IsZero() {
				return one("os.patched_at", newest.UTC().Format(time.RFC3339)), nil
			}
		}
	}
	return nil, errors.New("no log of dpkg, dnf or pacman tells of an update")
}

// dpkgUpgrade reads "2026-11-20 10:11:12 upgrade libc6:amd64 2.36-9 2.36-10" (dpkg(1),
// --log: local time without a zone).
func dpkgUpgrade(line string, zone *time.Location) (time.Time, bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[2] != "upgrade" {
		return time.Time{}, false
	}
	at, err := time.ParseInLocation(time.DateTime, f[0]+" "+f[1], zone)
	return at, err == nil
}

// dnfUpgrade reads "2026-11-20T10:11:12+0100 SUBDEBUG Upgrade: openssl-libs-3.2.2-6.el9.x86_64".
func dnfUpgrade(line string, _ *time.Location) (time.Time, bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[2] != "Upgrade:" {
		return time.Time{}, false
	}
	at, err := time.Parse("2006-01-02T15:04:05-0700", f[0])
	return at, err == nil
}

// pacmanUpgrade reads "[2026-11-20T10:11:12+0100] [ALPM] upgraded linux (6.17.7-1 -> 6.17.8-1)".
func pacmanUpgrade(line string, _ *time.Location) (time.Time, bool) {
	f := strings.Fields(line)
	if len(f) < 4 || f[1] != "[ALPM]" || f[2] != "upgraded" {
		return time.Time{}, false
	}
	at, err := time.Parse("[2006-01-02T15:04:05-0700]", f[0])
	return at, err == nil
}

// pendingAge is how old a count of pending updates may be.
const pendingAge = 7 * 24 * time.Hour

var pendingLine = regexp.MustCompile(`(?m)^(\d{1,5}) (?:updates?|packages?) can be (?:applied immediately|installed immediately|installed|updated)\b`)

// pending reads how many updates wait, where update-notifier counts them; a count of more
// than a week ago says nothing.
func pending(root fs.FS, now time.Time) (map[string]string, error) {
	const name = "var/lib/update-notifier/updates-available"
	info, err := fs.Stat(root, name)
	if err != nil {
		return nil, errors.New("nothing on this system counts pending updates in a file")
	}
	if age := now.Sub(info.ModTime()); age > pendingAge {
		return nil, fmt.Errorf("pending updates were last counted %d days ago", int(age.Hours()/24))
	}
	text, err := readFile(root, name)
	if err != nil {
		return nil, err
	}
	m := pendingLine.FindStringSubmatch(text)
	if m == nil {
		return nil, fmt.Errorf("/%s is of another form", name)
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return nil, err
	}
	return one("os.updates_pending", strconv.Itoa(n)), nil
}
