// Package cpio writes the archives the kernel unpacks into its first root file system: the
// "newc" form of cpio (Documentation/driver-api/early-userspace/buffer-format.rst). The
// same entries make the same bytes, whatever order they come in and whenever it is.
package cpio

import (
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// File modes (sys/stat.h).
const (
	dir     = 0o040000
	regular = 0o100000
	link    = 0o120000
	char    = 0o020000
)

type entry struct {
	mode         uint32
	data         []byte
	major, minor uint32
}

// Archive is a file system tree to be: owned by root, dated at the epoch. The zero Archive
// is empty and ready for use. Paths are absolute; parents appear by themselves.
type Archive struct{ entries map[string]entry }

// Dir adds a directory.
func (a *Archive) Dir(name string, mode uint32) { a.put(name, entry{mode: dir | mode}) }

// File adds a file; data is kept, not copied.
func (a *Archive) File(name string, mode uint32, data []byte) {
	a.put(name, entry{mode: regular | mode, data: data})
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.put(name, entry{mode: link | 0o777, data: []byte(target)})
}

// Device adds a character device.
func (a *Archive) Device(name string, mode, major, minor uint32) {
	a.put(name, entry{mode: char | mode, major: major, minor: minor})
}

func (a *Archive) put(name string, e entry) {
	if a.entries == nil {
		a.entries = map[string]entry{}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return
	}
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if _, there := a.entries[p]; !there {
			a.entries[p] = entry{mode: dir | 0o755}
		}
	}
	a.entries[name] = e
}

// WriteTo writes the archive. Parents come before what they hold.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	out := &counter{w: w}
	for i, name := range slices.Sorted(maps.Keys(a.entries)) {
		e := a.entries[name]
		links := 1
		if e.mode&dir != 0 && e.mode&regular != regular {
			links = 2
		}
		out.entry(uint32(i+1), name, uint32(links), e)
	}
	out.entry(0, "TRAILER!!!", 1, entry{})
	if out.err != nil {
		return out.n, fmt.Errorf("writing cpio archive: %w", out.err)
	}
	return out.n, nil
}

type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) write(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}

func (c *counter) pad() { c.write(make([]byte, -c.n&3)) }

func (c *counter) entry(inode uint32, name string, links uint32, e entry) {
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0))
	c.write([]byte(name + "\x00"))
	c.pad()
	c.write(e.data)
	c.pad()
}
