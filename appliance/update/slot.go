package update

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"lazaret/appliance"
)

const (
	slotPrefix = "lazaret_"
	slotSuffix = ".efi"
	tmpSuffix  = ".tmp" // the boot loader does not look at such files
	// Tries is how often a new slot is started before the boot loader prefers others.
	Tries = 3
)

// SlotName is the file of a slot that has passed its health check.
func SlotName(version string) string { return slotPrefix + version + slotSuffix }

// countedName is the file of a slot that has not: left tries are left of it, and done were
// made (Automatic Boot Assessment, UAPI.1 and systemd's BOOT_COMPLETE).
func countedName(version string, left, done int) string {
	name := slotPrefix + version + "+" + strconv.Itoa(left)
	if done > 0 {
		name += "-" + strconv.Itoa(done)
	}
	return name + slotSuffix
}

// ParseSlot reads a slot from the name of its file; Booted is for the caller to say.
func ParseSlot(name string) (appliance.Slot, bool) {
	s := appliance.Slot{File: name}
	body, ok := strings.CutPrefix(name, slotPrefix)
	if !ok {
		return s, false
	}
	if body, ok = strings.CutSuffix(body, slotSuffix); !ok {
		return s, false
	}
	version, count, counted := strings.Cut(body, "+")
	if s.Version = version; !ValidVersion(version) {
		return s, false
	}
	if !counted {
		s.Blessed = true
		return s, true
	}
	left, done, tried := strings.Cut(count, "-")
	var err, err2 error
	s.Left, err = strconv.Atoi(left)
	if tried {
		s.Tried, err2 = strconv.Atoi(done)
	}
	return s, errors.Join(err, err2) == nil && s.Left >= 0 && s.Left <= 99 && s.Tried >= 0
}

// sortSlots puts the newest first; of one version, the blessed one.
func sortSlots(all []appliance.Slot) {
	slices.SortFunc(all, func(a, b appliance.Slot) int {
		if c := CompareVersions(b.Version, a.Version); c != 0 {
			return c
		}
		return cmp.Or(bit(b.Blessed)-bit(a.Blessed), b.Left-a.Left, a.Tried-b.Tried)
	})
}

// layout is what an ESP holds of ours.
type layout struct {
	slots []appliance.Slot // the newest first
	// files are all names of a version. A file system without a journal may, after a loss
	// of power in a rename, have a file under both names; who removes one then takes from
	// the other what it consists of. So all names of a version go together, or none.
	files map[string][]string
}

// look reads the layout; running is the version that runs.
func look(esp ESP, running string) (layout, error) {
	l := layout{files: map[string][]string{}}
	all, err := esp.List()
	if err != nil {
		return l, fmt.Errorf("listing slots: %w", err)
	}
	for name := range all {
		s, ok := ParseSlot(strings.TrimSuffix(name, tmpSuffix))
		if !ok {
			continue // somebody else's
		}
		l.files[s.Version] = append(l.files[s.Version], name)
		if s.File == name {
			l.slots = append(l.slots, s)
		}
	}
	sortSlots(l.slots)
	if i := slices.IndexFunc(l.slots, func(s appliance.Slot) bool { return s.Version == running }); i >= 0 {
		l.slots[i].Booted = true
	}
	return l, nil
}

// booted returns the slot that runs.
func (l layout) booted() (appliance.Slot, bool) {
	i := slices.IndexFunc(l.slots, func(s appliance.Slot) bool { return s.Booted })
	if i < 0 {
		return appliance.Slot{}, false
	}
	return l.slots[i], true
}

// best returns the slot of a version that the boot loader would start first.
func (l layout) best(version string) (appliance.Slot, bool) {
	i := slices.IndexFunc(l.slots, func(s appliance.Slot) bool { return s.Version == version })
	if i < 0 {
		return appliance.Slot{}, false
	}
	return l.slots[i], true
}

// torn reports whether a version was being written when the power was cut, and never started.
func (l layout) torn(version string) bool {
	s, ok := l.best(version)
	if !ok {
		return len(l.files[version]) > 0
	}
	return !s.Blessed && s.Tried == 0 && slices.ContainsFunc(l.files[version], func(name string) bool { return strings.HasSuffix(name, tmpSuffix) })
}

// BootPathVariable is the EFI variable in which the boot loader leaves the path of the
// counted slot that it started.
const BootPathVariable = "LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// ParseBootPath reads BootPathVariable as efivarfs has it (4 bytes of attributes, then
// UTF-16LE with a zero at its end) and returns the name of the slot's file.
func ParseBootPath(variable []byte) (string, error) {
	if len(variable) < 6 || len(variable) > 1024 || len(variable)%2 != 0 {
		return "", fmt.Errorf("reading which slot was started: the variable has %d bytes", len(variable))
	}
	text := make([]uint16, 0, len(variable)/2)
	for b := variable[4:]; len(b) > 0; b = b[2:] {
		text = append(text, binary.LittleEndian.Uint16(b))
	}
	whole := strings.TrimSuffix(string(utf16.Decode(text)), "\x00")
	dir, name := path.Split(strings.ReplaceAll(whole, `\`, "/"))
	if !strings.EqualFold(strings.Trim(dir, "/"), appliance.SlotDir) {
		return "", fmt.Errorf("reading which slot was started: %q is not in %s", whole, appliance.SlotDir)
	}
	if _, ok := ParseSlot(name); !ok {
		return "", fmt.Errorf("reading which slot was started: %q is no slot", name)
	}
	return name, nil
}
