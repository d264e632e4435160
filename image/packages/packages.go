// Package packages names the Debian packages an image is made of, each pinned to one
// version and hash, and brings them: from a directory, else from Debian's archive.
package packages

import (
	"bufio"
	_ "embed"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed table.txt
var table string

// Taken is when the table was written: the snapshot of that time has all that is in it,
// also once newer versions have replaced it in the archive.
var Taken = takenAt(table)

// Day is Taken as a time: what is made of these packages is not older.
func Day() (time.Time, error) {
	at, err := time.Parse(takenForm, Taken)
	if err != nil {
		return time.Time{}, fmt.Errorf("package table, when it was taken: %w", err)
	}
	return at, nil
}

// takenForm is how a table says when it was taken, in UTC.
const takenForm = "20060102T150405Z"

// Package is one version of one Debian package.
type Package struct {
	Name, Version string
	Arch          string // Debian's: amd64, arm64, all
	Path          string // below the archive's host, like debian/pool/main/...
	Size          int64  // bytes
	SHA256        string // hexadecimal
}

// File is the name apt-get download gives the package's file.
func (p Package) File() string { return path.Base(p.Path) }

// Pinned returns the table of packages this source was written for.
func Pinned() ([]Package, error) { return parse(table) }

// Find returns the package of a name for an architecture.
func Find(list []Package, name, arch string) (Package, error) {
	for _, p := range list {
		if p.Name == name && (p.Arch == arch || p.Arch == "all") {
			return p, nil
		}
	}
	return Package{}, fmt.Errorf("no package %s for %s is pinned", name, arch)
}

// Kernel returns the one kernel pinned for an architecture and flavour.
func Kernel(list []Package, arch, flavour string) (Package, error) {
	for _, p := range list {
		rest, ok := strings.CutPrefix(p.Name, "linux-image-")
		cloud := strings.Contains(rest, "-cloud-")
		if ok && p.Arch == arch && cloud == (flavour == "cloud") {
			return p, nil
		}
	}
	return Package{}, fmt.Errorf("no kernel for %s, flavour %s, is pinned", arch, flavour)
}

func parse(text string) ([]Package, error) {
	var list []Package
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if len(f) != 6 || len(f[5]) != 64 {
			return nil, fmt.Errorf("package table, line %d: not six fields", n)
		}
		size, err := strconv.ParseInt(f[4], 10, 64)
		if err != nil || size <= 0 {
			return nil, fmt.Errorf("package table, line %d: size %q", n, f[4])
		}
		list = append(list, Package{Name: f[0], Version: f[1], Arch: f[2], Path: f[3], Size: size, SHA256: f[5]})
	}
	return list, lines.Err()
}

// takenAt finds the line "# taken TIME".
func takenAt(text string) string {
	for line := range strings.Lines(text) {
		if at, ok := strings.CutPrefix(line, "# taken "); ok {
			return strings.TrimSpace(at)
		}
	}
	return ""
}
