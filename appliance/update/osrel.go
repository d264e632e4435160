package update

import (
	"debug/pe"
	"fmt"
	"io"
	"strings"
)

// maxRelease bounds the section with os-release in a slot's file, in bytes.
const maxRelease = 16 << 10

// imageID is what the boot loader sorts slots by before their versions (UAPI.1): one with
// another would be started before all of ours, or after them.
const imageID = "lazaret"

// machines are the architectures of slots, as PE files name them.
var machines = map[string]uint16{"amd64": pe.IMAGE_FILE_MACHINE_AMD64, "arm64": pe.IMAGE_FILE_MACHINE_ARM64}

// CheckSlot holds a slot's file, a unified kernel image of ours, to what a manifest says of
// it: the architecture, and version and flavour as its own os-release(5) has them. The boot
// loader goes by the file's name and by that section, and the machine that it starts by itself.
func CheckSlot(r io.ReaderAt, m Manifest) error {
	f, err := pe.NewFile(r)
	if err != nil {
		return refused("it is no program for UEFI: %v", err)
	}
	if want, ok := machines[m.Architecture]; !ok || f.Machine != want {
		return refused("it is for machine %#x, not for %s", f.Machine, m.Architecture)
	}
	for _, section := range []string{".linux", ".initrd", ".osrel"} {
		if f.Section(section) == nil {
			return refused("it is no unified kernel image: it has no section %s", section)
		}
	}
	release, err := releaseSection(f.Section(".osrel"))
	if err != nil {
		return err
	}
	for _, c := range []struct{ key, want string }{{"IMAGE_ID", imageID}, {"IMAGE_VERSION", m.Version}, {"VARIANT_ID", m.Flavour}} {
		if got := release[c.key]; got != c.want {
			return refused("its %s is %q, not %q", c.key, got, c.want)
		}
	}
	return nil
}

// releaseSection reads the lines of os-release.
func releaseSection(s *pe.Section) (map[string]string, error) {
	if s.Size > maxRelease {
		return nil, refused("its os-release has %d bytes", s.Size)
	}
	text := make([]byte, min(s.Size, max(s.VirtualSize, 1)))
	if _, err := s.ReadAt(text, 0); err != nil && err != io.EOF {
		return nil, fmt.Errorf("reading its os-release: %w", err)
	}
	out := map[string]string{}
	for line := range strings.Lines(strings.TrimRight(string(text), "\x00")) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[key] = strings.Trim(value, `"'`)
		}
	}
	return out, nil
}
