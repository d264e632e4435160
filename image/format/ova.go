package format

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"text/template"
	"time"
)

// Machine is the virtual machine that an OVA describes.
type Machine struct {
	Name    string    // of the machine, and of the files within; required: letters, digits, '.', '_', '-'
	Version string    // shown at import; required
	CPUs    int       // 0: 2
	Memory  int       // MiB; 0: 1024
	Time    time.Time // of the files within; zero: the epoch
}

//go:embed machine.ovf.tmpl
var ovfText embed.FS

var ovf = template.Must(template.New("machine.ovf.tmpl").Option("missingkey=error").ParseFS(ovfText, "machine.ovf.tmpl"))

// checked gives m its defaults, or says what is wrong with it.
func (m Machine) checked() (Machine, error) {
	for _, s := range []string{m.Name, m.Version} {
		if s == "" || len(s) > 64 {
			return m, fmt.Errorf("the machine's name %q and version %q: each must have 1 to 64 characters", m.Name, m.Version)
		}
		for _, c := range []byte(s) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' || c == '+' || c == '~') {
				return m, fmt.Errorf("%q: only letters, digits and .-_+~ may stand in a machine's name or version", s)
			}
		}
	}
	if m.CPUs == 0 {
		m.CPUs = 2
	}
	if m.Memory == 0 {
		m.Memory = 1024
	}
	if m.Time.IsZero() {
		m.Time = time.Unix(0, 0)
	}
	m.Time = m.Time.UTC().Truncate(time.Second)
	return m, nil
}

// OVA writes d as an OVA (DSP0243): descriptor, manifest, and the vmdk that is made at
// scratch first, because both tell of it. scratch must be empty.
func OVA(ctx context.Context, w io.Writer, d *Disk, m Machine, scratch io.ReadWriteSeeker) error {
	m, err := m.checked()
	if err == nil {
		err = writeOVA(ctx, w, d, m, scratch)
	}
	if err != nil {
		return fmt.Errorf("writing ova: %w", err)
	}
	return nil
}

func writeOVA(ctx context.Context, w io.Writer, d *Disk, m Machine, scratch io.ReadWriteSeeker) error {
	disk := m.Name + "-disk1.vmdk"
	h := sha256.New()
	if err := VMDK(io.MultiWriter(contextWriter{ctx, scratch}, h), d, disk); err != nil {
		return err
	}
	size, err := scratch.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = scratch.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("reading the vmdk back: %w", err)
	}
	var text bytes.Buffer
	err = ovf.Execute(&text, struct {
		Machine
		File       string
		Size, MiBs int64
	}{m, disk, size, d.size / MiB})
	if err != nil {
		return err
	}
	// One line per file, each ended once, and nothing behind the last: importers stumble
	// over more.
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s)= %x\n", m.Name, sha256.Sum256(text.Bytes()), disk, h.Sum(nil))
	t := tar.NewWriter(contextWriter{ctx, w})
	for _, f := range []struct {
		name string
		size int64
		r    io.Reader
	}{{m.Name + ".ovf", int64(text.Len()), &text}, {m.Name + ".mf", int64(len(manifest)), bytes.NewReader([]byte(manifest))}, {disk, size, scratch}} {
		head := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: f.size, Mode: 0o644, ModTime: m.Time, Format: tar.FormatUSTAR}
		if err := t.WriteHeader(head); err != nil {
			return err
		}
		if n, err := io.Copy(t, f.r); err != nil || n != f.size {
			return errors.Join(err, fmt.Errorf("%s: %d of %d bytes", f.name, n, f.size))
		}
	}
	return t.Close()
}

// contextWriter ends with its context.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

// WriteAt is for files that are not written in order.
func (c contextWriter) WriteAt(b []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.(*os.File).WriteAt(b, at)
}
