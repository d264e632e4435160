// Package pkg writes Debian packages (deb(5)), the same bytes from the same files. It
// reads none; package deb does.
package pkg

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Package is what goes into one .deb. All but the lists are required.
type Package struct {
	Name, Version, Architecture  string
	Maintainer, Section, Summary string
	Description                  string // further lines, without the blanks in front that the format wants
	Depends, Recommends          []string
	Files                        []File
	Scripts                      map[string][]byte // maintainer scripts, by name (postinst, prerm, postrm, preinst)
	Time                         time.Time         // of all files
}

// File is one file of a package, root's. Directories above it need not be named.
type File struct {
	Path      string      // absolute
	Mode      fs.FileMode // permissions; with fs.ModeDir a directory
	Body      []byte      // what is in it
	From      string      // or the path it is read from; only if Body is nil
	Conffile  bool        // changes of the administrator's are kept
	directory bool
}

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionForm = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~]*(-[A-Za-z0-9.+~]+)?$`)
)

// Filename is what the package's file is called.
func (p Package) Filename() string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, p.Version, p.Architecture)
}

// Write writes the package to w. The packed files go to scratch first, which must be
// empty, because their length stands in front of them.
func (p Package) Write(w io.Writer, scratch io.ReadWriteSeeker) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("writing package %s: %w", p.Name, err)
	}
	if err := p.write(w, scratch); err != nil {
		return fmt.Errorf("writing package %s: %w", p.Name, err)
	}
	return nil
}

func (p Package) check() error {
	var faults []error
	if !nameForm.MatchString(p.Name) {
		faults = append(faults, fmt.Errorf("name %q: lower-case letters, digits and +.-", p.Name))
	}
	if !versionForm.MatchString(p.Version) {
		faults = append(faults, fmt.Errorf("version %q: it begins with a digit", p.Version))
	}
	for what, s := range map[string]string{"architecture": p.Architecture, "maintainer": p.Maintainer, "section": p.Section, "summary": p.Summary} {
		if s == "" || strings.ContainsAny(s, "\n\r") {
			faults = append(faults, fmt.Errorf("%s %q: one line is required", what, s))
		}
	}
	if p.Time.IsZero() {
		faults = append(faults, errors.New("no time is given"))
	}
	seen := make(map[string]bool)
	for _, f := range p.Files {
		if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || seen[f.Path] || strings.ContainsAny(f.Path, "\n") {
			faults = append(faults, fmt.Errorf("file %q: an absolute path, once", f.Path))
		}
		seen[f.Path] = true
	}
	return errors.Join(faults...)
}

func (p Package) write(w io.Writer, scratch io.ReadWriteSeeker) error {
	sums, size, err := p.data(scratch)
	if err != nil {
		return err
	}
	length, err := scratch.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = scratch.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("reading the packed files back: %w", err)
	}
	control, err := p.control(sums, size)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, "!<arch>\n"); err != nil {
		return err
	}
	for _, m := range []struct {
		name string
		size int64
		r    io.Reader
	}{{"debian-binary", 4, strings.NewReader("2.0\n")}, {"control.tar.gz", int64(len(control)), bytes.NewReader(control)}, {"data.tar.zst", length, scratch}} {
		if err := p.member(w, m.name, m.size, m.r); err != nil {
			return err
		}
	}
	return nil
}

// member writes one member of an ar archive.
func (p Package) member(w io.Writer, name string, size int64, r io.Reader) error {
	if _, err := fmt.Fprintf(w, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, p.Time.Unix(), 0, 0, "100644", size); err != nil {
		return err
	}
	n, err := io.Copy(w, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %d of %d bytes", name, n, size)
	}
	if err == nil && size%2 == 1 {
		_, err = io.WriteString(w, "\n")
	}
	return err
}

// all are the package's files with every directory above them, sorted.
func (p Package) all() []File {
	by := make(map[string]File)
	for _, f := range p.Files {
		f.directory = f.Mode.IsDir()
		by[f.Path] = f
		for dir := path.Dir(f.Path); dir != "/"; dir = path.Dir(dir) {
			if _, there := by[dir]; !there {
				by[dir] = File{Path: dir, Mode: 0o755, directory: true}
			}
		}
	}
	by["/"] = File{Path: "/", Mode: 0o755, directory: true}
	return slices.SortedFunc(maps.Values(by), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
}

// data writes data.tar.zst; it returns the text of md5sums and the size installed in KiB.
func (p Package) data(w io.Writer) (sums []byte, kib int64, err error) {
	// One goroutine and a fixed window: the output must not depend on the machine.
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, 0, err
	}
	t := tar.NewWriter(z)
	for _, f := range p.all() {
		kib++ // as dpkg counts directories and ends of files
		if f.directory {
			err = p.header(t, f, 0)
		} else {
			var sum []byte
			var n int64
			sum, n, err = p.file(t, f)
			sums = fmt.Appendf(sums, "%x  %s\n", sum, f.Path[1:])
			kib += n / 1024
		}
		if err != nil {
			return nil, 0, errors.Join(fmt.Errorf("packing %s: %w", f.Path, err), z.Close())
		}
	}
	return sums, kib, errors.Join(t.Close(), z.Close())
}

func (p Package) header(t *tar.Writer, f File, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "." + f.Path, Size: size, Mode: int64(f.Mode.Perm()), ModTime: p.Time.UTC().Truncate(time.Second), Uname: "root", Gname: "root", Format: tar.FormatGNU}
	if f.directory {
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
	}
	return t.WriteHeader(h)
}

// file packs one file and returns its MD5 sum, which is what dpkg --verify compares.
func (p Package) file(t *tar.Writer, f File) ([]byte, int64, error) {
	var r io.Reader = bytes.NewReader(f.Body)
	size := int64(len(f.Body))
	if f.Body == nil {
		in, err := os.Open(f.From)
		if err != nil {
			return nil, 0, err
		}
		defer in.Close()
		at, err := in.Stat()
		if err != nil {
			return nil, 0, err
		}
		r, size = in, at.Size()
	}
	if err := p.header(t, f, size); err != nil {
		return nil, 0, err
	}
	h := md5.New() // the format's; it protects from nobody
	n, err := io.Copy(io.MultiWriter(t, h), r)
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes", n, size)
	}
	return h.Sum(nil), size, err
}

// control makes control.tar.gz.
func (p Package) control(sums []byte, kib int64) ([]byte, error) {
	var text, conf strings.Builder
	fmt.Fprintf(&text, "Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: %s\nInstalled-Size: %d\n", p.Name, p.Version, p.Architecture, p.Maintainer, kib)
	if len(p.Depends) > 0 {
		fmt.Fprintf(&text, "Depends: %s\n", strings.Join(p.Depends, ", "))
	}
	if len(p.Recommends) > 0 {
		fmt.Fprintf(&text, "Recommends: %s\n", strings.Join(p.Recommends, ", "))
	}
	fmt.Fprintf(&text, "Section: %s\nPriority: optional\nDescription: %s\n", p.Section, p.Summary)
	for line := range strings.Lines(strings.TrimSpace(p.Description)) {
		if line = strings.TrimSpace(line); line == "" {
			line = "."
		}
		fmt.Fprintf(&text, " %s\n", line)
	}
	for _, f := range p.all() {
		if f.Conffile {
			fmt.Fprintln(&conf, f.Path)
		}
	}
	files := []File{{Path: "/", Mode: 0o755, directory: true}}
	if conf.Len() > 0 {
		files = append(files, File{Path: "/conffiles", Mode: 0o644, Body: []byte(conf.String())})
	}
	files = append(files, File{Path: "/control", Mode: 0o644, Body: []byte(text.String())}, File{Path: "/md5sums", Mode: 0o644, Body: sums})
	for _, name := range slices.Sorted(maps.Keys(p.Scripts)) {
		files = append(files, File{Path: "/" + name, Mode: 0o755, Body: p.Scripts[name]})
	}
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, f := range files {
		err := error(nil)
		if f.directory {
			err = p.header(t, f, 0)
		} else {
			_, _, err = p.file(t, f)
		}
		if err != nil {
			return nil, fmt.Errorf("packing control file %s: %w", f.Path, err)
		}
	}
	err := errors.Join(t.Close(), z.Close())
	return out.Bytes(), err
}
