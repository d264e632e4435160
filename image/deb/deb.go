// Package deb reads the files of Debian packages (deb(5)) without dpkg.
package deb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxUnpacked bounds what one package may unpack to: a kernel of Debian's is under 700 MB.
const maxUnpacked = 2 << 30

// Visit is called with each file of a package, in the package's order. The path has no
// leading slash or "./". Only regular files (type tar.TypeReg) and symbolic links
// (tar.TypeSymlink, with Linkname in the header) are shown. What is not read is skipped.
type Visit func(name string, h *tar.Header, r io.Reader) error

// ErrEnough is returned by a Visit that has seen all it needs; Walk then returns nil.
var ErrEnough = errors.New("seen enough")

// WalkFile walks the package at a path.
func WalkFile(name string, visit Visit) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("opening package: %w", err)
	}
	defer f.Close()
	if err := Walk(f, visit); err != nil {
		return fmt.Errorf("reading package %s: %w", name, err)
	}
	return nil
}

// Walk visits the files in the data.tar of a package.
func Walk(r io.Reader, visit Visit) error {
	in := bufio.NewReaderSize(r, 1<<20)
	magic := make([]byte, 8)
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != "!<arch>\n" {
		return errors.New("no ar archive")
	}
	for {
		name, size, err := member(in)
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, "data.tar") {
			body, err := decompress(name, io.LimitReader(in, size))
			if err != nil {
				return fmt.Errorf("unpacking %s: %w", name, err)
			}
			err = files(io.LimitReader(body, maxUnpacked), visit)
			if c, ok := body.(io.Closer); ok {
				c.Close()
			}
			return err
		}
		if _, err := io.CopyN(io.Discard, in, size+size&1); err != nil {
			return fmt.Errorf("skipping %s: %w", name, err)
		}
	}
}

// member reads the header of the next member of an ar archive.
func member(in io.Reader) (name string, size int64, err error) {
	h := make([]byte, 60)
	if _, err := io.ReadFull(in, h); err != nil {
		return "", 0, fmt.Errorf("finding data.tar: %w", err)
	}
	if string(h[58:]) != "`\n" {
		return "", 0, errors.New("broken ar header")
	}
	name = strings.TrimSuffix(strings.TrimSpace(string(h[:16])), "/")
	size, err = strconv.ParseInt(strings.TrimSpace(string(h[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("broken size of member %q", name)
	}
	return name, size, nil
}

func decompress(name string, r io.Reader) (io.Reader, error) {
	switch path.Ext(name) {
	case ".xz":
		return xz.NewReader(r)
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxUnpacked))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case ".tar":
		return r, nil
	}
	return nil, fmt.Errorf("unknown compression %q", path.Ext(name))
}

func files(r io.Reader, visit Visit) error {
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading data.tar: %w", err)
		}
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeSymlink {
			continue
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if err := visit(name, h, t); errors.Is(err, ErrEnough) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
}
