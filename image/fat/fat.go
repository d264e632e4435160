// Package fat writes fresh FAT32 file systems (Microsoft, "FAT: General Overview of
// On-Disk Format", version 1.03; ECMA-107 for names). The same files make the same bytes.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	sector   = 512
	cluster  = 8 * sector
	reserved = 32 // sectors before the first table
	tables   = 2
	// least is how many clusters make it FAT32; fewer and readers take it for FAT16.
	least   = 65525
	endMark = 0x0fffffff
	attrDir = 0x10
)

var le = binary.LittleEndian

// Config says what to write.
type Config struct {
	Size   int64             // of the volume, in bytes; 260 MB at least
	Label  string            // at most 11 upper-case characters; required
	Serial uint32            // of the volume
	Time   time.Time         // of every file, in UTC; 1980 at the earliest
	Files  map[string][]byte // by path, like EFI/BOOT/BOOTX64.EFI; directories appear by themselves
}

// Write writes the file system at the beginning of w, which must read as zeros there.
func Write(w io.WriterAt, c Config) error {
	v, err := lay(c)
	if err != nil {
		return fmt.Errorf("laying out FAT32: %w", err)
	}
	root := v.tree()
	if v.root = root.cluster; v.root != 2 {
		return errors.New("laying out FAT32: the root does not come first")
	}
	if v.next-2 > v.clusters {
		return fmt.Errorf("laying out FAT32: %d clusters of files, %d there are", v.next-2, v.clusters)
	}
	boot := v.boot()
	out := &writer{w: w}
	for _, at := range []int64{0, 6} { // the boot sectors and their copy
		out.at(at*sector, boot)
		out.at((at+1)*sector, v.info())
		out.at((at+2)*sector, ending(make([]byte, sector)))
	}
	table := make([]byte, 4*len(v.table))
	for i, n := range v.table {
		le.PutUint32(table[4*i:], n)
	}
	for i := range int64(tables) {
		out.at((reserved+i*v.tableSectors)*sector, table)
	}
	v.write(out, root)
	if out.err != nil {
		return fmt.Errorf("writing FAT32: %w", out.err)
	}
	return nil
}

type writer struct {
	w   io.WriterAt
	err error
}

func (w *writer) at(offset int64, b []byte) {
	if w.err == nil {
		_, w.err = w.w.WriteAt(b, offset)
	}
}

type volume struct {
	Config
	sectors, tableSectors, clusters int64
	table                           []uint32
	next, root                      int64
	stamp                           [4]byte // time, date
}

type node struct {
	name     string
	data     []byte // a file's
	children []*node
	dir      bool
	cluster  int64
	parent   int64 // a directory's parent's cluster; 0: the root
}

func lay(c Config) (*volume, error) {
	v := &volume{Config: c, sectors: c.Size / sector, next: 2, table: []uint32{0x0ffffff8, endMark}}
	if c.Size%sector != 0 || v.sectors > 0xffffffff {
		return nil, fmt.Errorf("a size of %d bytes cannot be", c.Size)
	}
	perCluster := int64(cluster / sector)
	v.tableSectors = ((v.sectors-reserved)/perCluster*4 + sector - 1 + 8) / sector // some entries more than needed
	v.clusters = (v.sectors - reserved - tables*v.tableSectors) / perCluster
	if v.clusters < least {
		return nil, fmt.Errorf("%d clusters are too few, FAT32 has %d or more", v.clusters, least)
	}
	for p := range c.Files {
		if p != path.Clean(p) || strings.HasPrefix(p, "/") || strings.HasPrefix(p, ".") {
			return nil, fmt.Errorf("path %q is not of the form EFI/BOOT", p)
		}
	}
	if c.Label == "" || len(c.Label) > 11 || c.Label != strings.ToUpper(c.Label) {
		return nil, fmt.Errorf("label %q is not of 1 to 11 upper-case characters", c.Label)
	}
	t := c.Time.UTC()
	if t.Year() < 1980 {
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if t.Year() > 2107 {
		return nil, fmt.Errorf("the year %d is past what it can hold", t.Year())
	}
	le.PutUint16(v.stamp[:], uint16(t.Hour()<<11|t.Minute()<<5|t.Second()/2))
	le.PutUint16(v.stamp[2:], uint16((t.Year()-1980)<<9|int(t.Month())<<5|t.Day()))
	return v, nil
}

// tree makes nodes of the paths and gives each its clusters: directories first to last by
// path, as they are met.
func (v *volume) tree() *node {
	root := &node{dir: true}
	dirs := map[string]*node{".": root}
	var mkdir func(string) *node
	mkdir = func(p string) *node {
		if d := dirs[p]; d != nil {
			return d
		}
		d := &node{name: path.Base(p), dir: true}
		dirs[p] = d
		up := mkdir(path.Dir(p))
		up.children = append(up.children, d)
		return d
	}
	for _, p := range slices.Sorted(maps.Keys(v.Files)) {
		d := mkdir(path.Dir(p))
		d.children = append(d.children, &node{name: path.Base(p), data: v.Files[p]})
	}
	v.allocate(root)
	return root
}

func (v *volume) allocate(n *node) {
	size := int64(len(n.data))
	if n.dir {
		size = int64(v.entriesOf(n)) * 32
		size = max(size, 1)
	}
	if size > 0 {
		n.cluster = v.next
		count := (size + cluster - 1) / cluster
		for i := range count {
			link := uint32(v.next + i + 1)
			if i == count-1 {
				link = endMark
			}
			v.table = append(v.table, link)
		}
		v.next += count
	}
	for _, c := range n.children {
		v.allocate(c)
	}
}

// entriesOf counts the entries of a directory: with the label in the root, "." and ".."
// elsewhere, and an end.
func (v *volume) entriesOf(n *node) int {
	count := 3
	for _, c := range n.children {
		count += len(longParts(c.name)) + 1
	}
	return count
}

func (v *volume) offset(c int64) int64 {
	return (reserved+tables*v.tableSectors)*sector + (c-2)*cluster
}

func (v *volume) write(out *writer, n *node) {
	if !n.dir {
		if len(n.data) > 0 {
			out.at(v.offset(n.cluster), n.data)
		}
		return
	}
	out.at(v.offset(n.cluster), v.directory(n))
	for _, c := range n.children {
		if n.cluster != v.root {
			c.parent = n.cluster
		}
		v.write(out, c)
	}
}

func (v *volume) directory(n *node) []byte {
	var b []byte
	if n.cluster == v.root {
		b = append(b, v.entry(fmt.Sprintf("%-11s", v.Label), 0x08, 0, 0)...)
	} else {
		b = append(b, v.entry(".          ", attrDir, n.cluster, 0)...)
		b = append(b, v.entry("..         ", attrDir, n.parent, 0)...)
	}
	taken := map[string]bool{}
	for _, c := range n.children {
		short := shortName(c.name, taken)
		b = append(b, longEntries(c.name, short)...)
		attr, size := byte(0x20), len(c.data)
		if c.dir {
			attr, size = attrDir, 0
		}
		b = append(b, v.entry(short, attr, c.cluster, size)...)
	}
	return b
}

func (v *volume) entry(short string, attr byte, cluster int64, size int) []byte {
	e := make([]byte, 32)
	copy(e, short)
	e[11] = attr
	copy(e[14:18], v.stamp[:])  // made
	copy(e[18:20], v.stamp[2:]) // read
	copy(e[22:26], v.stamp[:])  // written
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], uint32(size))
	return e
}
