package packages

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// header is what the table begins with.
const header = `# Debian packages an image is made of: name, version, architecture, path below the archive,
# size in bytes, SHA-256. "mkimage pin" writes this file anew for newer versions.
# taken %s
`

// maxStanza bounds a line of a description of packages, in bytes.
const maxStanza = 1 << 20

// Pin reads descriptions of packages as apt-cache show prints them (deb-control(5)), which
// apt has verified by the archive's signature: one version of each.
func Pin(r io.Reader) ([]Package, error) {
	var list []Package
	field := map[string]string{}
	end := func() error {
		if len(field) == 0 {
			return nil
		}
		p, err := described(field)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list, func(q Package) bool { return q.Name == p.Name && q.Arch == p.Arch }) {
			return fmt.Errorf("package %s for %s is there twice: give one version of it (apt-cache show --no-all-versions)", p.Name, p.Arch)
		}
		list = append(list, p)
		clear(field)
		return nil
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxStanza)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "" {
			if err := end(); err != nil {
				return nil, err
			}
			continue
		}
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && !strings.HasPrefix(key, " ") {
			field[key] = strings.TrimSpace(value)
		}
	}
	if err := errors.Join(lines.Err(), end()); err != nil {
		return nil, fmt.Errorf("reading what apt says of packages: %w", err)
	}
	slices.SortFunc(list, func(a, b Package) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch)) })
	return list, nil
}

// described is the package of a stanza.
func described(field map[string]string) (Package, error) {
	p := Package{Name: field["Package"], Version: field["Version"], Arch: field["Architecture"], SHA256: field["SHA256"]}
	var err error
	if p.Size, err = strconv.ParseInt(field["Size"], 10, 64); err != nil || p.Size <= 0 {
		return p, fmt.Errorf("package %q has the size %q", p.Name, field["Size"])
	}
	if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 {
		return p, fmt.Errorf("package %q has the SHA-256 %q", p.Name, p.SHA256)
	}
	file := field["Filename"]
	if file != path.Clean(file) || !strings.HasPrefix(file, "pool/") || !strings.HasSuffix(file, ".deb") {
		return p, fmt.Errorf("package %q is in %q, which is no place of Debian's archive", p.Name, file)
	}
	archive := "debian"
	if strings.HasPrefix(file, "pool/updates/") {
		archive = "debian-security"
	}
	p.Path = path.Join(archive, file)
	for _, word := range []string{p.Name, p.Version, p.Arch, p.Path} {
		if len(strings.Fields(word)) != 1 {
			return p, fmt.Errorf("package %q says %q of itself", p.Name, word)
		}
	}
	return p, nil
}

// Write writes a table that was taken at that time.
func Write(w io.Writer, list []Package, taken time.Time) error {
	text := fmt.Sprintf(header, taken.UTC().Format(takenForm))
	for _, p := range list {
		text += fmt.Sprintf("%s %s %s %s %d %s\n", p.Name, p.Version, p.Arch, p.Path, p.Size, p.SHA256)
	}
	_, err := io.WriteString(w, text)
	return err
}
