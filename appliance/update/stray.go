package update

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// isStray reports whether the boot loader would take a file for a slot that is none of ours.
// A loss of power may tear a long name, of which the short one stays (LAZARE~1.EFI): the
// loader counts no tries of such a file, and goes by the version inside.
func isStray(name string) bool {
	_, ours := ParseSlot(name)
	return !ours && strings.HasSuffix(strings.ToLower(name), slotSuffix)
}

// sweepStrays has the boot loader see slots of ours alone. A stray may be another name of a
// slot, and its removal would take from that what it consists of: it gets a name that the
// loader does not look at, and goes with the slot.
func (m *Manager) sweepStrays(esp ESP) error {
	sizes, err := esp.List()
	if err != nil {
		return fmt.Errorf("listing strays: %w", err)
	}
	var strays []string
	for name := range sizes {
		if isStray(name) {
			strays = append(strays, name)
		}
	}
	if len(strays) == 0 {
		return nil
	}
	slices.Sort(strays)
	l, err := look(esp, m.cfg.Version)
	if err != nil {
		return err
	}
	if _, ok := l.booted(); !ok { // it may be one of these that runs
		m.cfg.Log.Warn("files that are no slots stay: which slot runs is not known", "files", strays)
		return nil
	}
	var waste []string
	var faults []error
	for _, name := range strays {
		version, err := l.twin(esp, sizes, name)
		switch {
		case err != nil:
			faults = append(faults, err)
		case version == "":
			m.cfg.Log.Warn("removing a file that is no slot", "file", name)
			waste = append(waste, name)
		default:
			m.cfg.Log.Warn("setting aside a second name of a slot", "file", name, "version", version)
			faults = append(faults, setAside(esp, sizes, name, version))
		}
	}
	return errors.Join(append(faults, remove(esp, waste))...)
}

// twin is the version that has a file with the same content; empty: none.
func (l layout) twin(esp ESP, sizes map[string]int64, name string) (string, error) {
	var sum []byte
	for version, names := range l.files {
		for _, other := range names {
			if sizes[other] != sizes[name] {
				continue
			}
			var err error
			if sum == nil {
				if sum, err = sumOf(esp, name); err != nil {
					return "", err
				}
			}
			its, err := sumOf(esp, other)
			if err != nil {
				return "", err
			}
			if string(its) == string(sum) {
				return version, nil
			}
		}
	}
	return "", nil
}

func sumOf(esp ESP, name string) ([]byte, error) {
	f, err := esp.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return h.Sum(nil), nil
}

// setAside gives a file a name among those of a version that nothing else has.
func setAside(esp ESP, sizes map[string]int64, name, version string) error {
	for n := 0; ; n++ {
		to := countedName(version, 0, n) + tmpSuffix
		if _, taken := sizes[to]; taken {
			continue
		}
		sizes[to] = sizes[name]
		if err := esp.Rename(name, to); err != nil {
			return fmt.Errorf("setting aside %s: %w", name, err)
		}
		return esp.Sync()
	}
}
