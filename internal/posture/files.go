package posture

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// Bounds of what is read: a whole file, and the end of a log.
const (
	maxFile = 256 << 10
	maxTail = 1 << 20
)

// readFile reads a small file of the device; a larger one is an error, not cut.
func readFile(root fs.FS, name string) (string, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("reading /%s: %w", name, err)
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("reading /%s: it is larger than %d bytes", name, maxFile)
	}
	return string(b), nil
}

// readWord reads a file of one line, as the kernel's are; what is not there is empty.
func readWord(root fs.FS, name string) string {
	text, err := readFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(text, "\x00"))
}

// readTail reads the end of a log, from the first whole line on.
func readTail(root fs.FS, name string) (string, error) {
	f, err := root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading /%s: %w", name, err)
	}
	cut := false
	if s, ok := f.(io.Seeker); ok && info.Size() > maxTail {
		if _, err := s.Seek(-maxTail, io.SeekEnd); err != nil {
			return "", fmt.Errorf("reading /%s: %w", name, err)
		}
		cut = true
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTail))
	if err != nil {
		return "", fmt.Errorf("reading /%s: %w", name, err)
	}
	text := string(b)
	if cut {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text, nil
}

// absent says that an error is a file's absence.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// exists says whether a file is there; an error other than absence is returned.
func exists(root fs.FS, name string) (bool, error) {
	_, err := fs.Stat(root, name)
	if absent(err) {
		return false, nil
	}
	return err == nil, err
}

// section reads the keys of one section of an INI file; an empty name reads those before
// the first section. Comments begin with # or ;.
func section(text, name string) map[string]string {
	out, in := map[string]string{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' && line[len(line)-1] == ']' {
			in = line[1 : len(line)-1]
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok && in == name {
			out[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return out
}
