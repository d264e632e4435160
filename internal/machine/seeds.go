package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/seed"
)

// readSeed looks for a seed disk that was not applied yet.
func (m *Machine) readSeed() (seed.Seed, error) {
	if err := m.loader.Load("isofs"); err != nil {
		m.log.Warn("reading seed disks", "error", err)
	}
	list, err := filepath.Glob("/sys/class/block/*")
	if err != nil {
		return seed.Seed{}, err
	}
	for i, p := range list {
		list[i] = filepath.Join("/dev", filepath.Base(p))
	}
	d, err := seed.Find(list, func(path string) (io.ReaderAt, io.Closer, error) {
		f, err := os.Open(path)
		return f, f, err
	})
	if err != nil {
		return seed.Seed{}, err
	}
	const at = "/run/seed"
	if err := os.MkdirAll(at, 0o700); err != nil {
		return seed.Seed{}, fmt.Errorf("mounting the seed disk: %w", err)
	}
	if err := unix.Mount(d.Path, at, d.FS, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return seed.Seed{}, fmt.Errorf("mounting the seed disk %s: %w", d.Path, err)
	}
	s, err := seed.Read(os.DirFS(at))
	return s, errors.Join(err, unix.Unmount(at, 0))
}

// applied notes which seeds were applied, by their instance-id.
var applied = seed.Record{Path: filepath.Join(appliance.MachineDir, "seeds")}

// findSeed is a seed that was not applied before, or the zero Seed. What is wrong with one is
// for the screen, until there is a good one or none; nothing of it holds.
func (m *Machine) findSeed() seed.Seed {
	s, err := m.readSeed()
	return m.judgeSeed(s, err, applied)
}

// judgeSeed is findSeed for what readSeed found.
func (m *Machine) judgeSeed(s seed.Seed, err error, applied seed.Record) seed.Seed {
	switch {
	case errors.Is(err, seed.ErrNone):
		m.seedProblems()
		return seed.Seed{}
	case err != nil:
		m.seedProblems(fmt.Sprintf("it cannot be read: %v", err))
		return seed.Seed{}
	case len(s.Faults) > 0:
		m.seedProblems(s.Faults...)
		return seed.Seed{}
	}
	seen, err := applied.Seen(s.Instance)
	if err != nil {
		m.seedProblems(fmt.Sprintf("it cannot be told whether it was applied before: %v", err))
		return seed.Seed{}
	}
	m.seedProblems()
	if seen {
		m.log.Info("the seed was applied before", "instance", s.Instance)
		return seed.Seed{}
	}
	m.log.Info("a seed is applied", "instance", s.Instance)
	return s
}

// maxSeedProblems bounds what the screen shows of a seed's faults.
const maxSeedProblems = 50

// seedProblems shows what is wrong with a seed disk, each fault by itself: a sentence that is
// too long is cut. None take those back that are shown.
func (m *Machine) seedProblems(faults ...string) {
	m.noteFaults(faults)
	subject := func(i int) string { return fmt.Sprintf("seed %d", i) }
	m.show(func(st *state) {
		for i := range maxSeedProblems + 1 {
			delete(st.problems, subject(i))
		}
		for i, fault := range faults {
			if i < maxSeedProblems {
				st.problems[subject(i)] = "The seed disk is not used: " + fault + "."
			}
		}
		if more := len(faults) - maxSeedProblems; more > 0 {
			st.problems[subject(maxSeedProblems)] = fmt.Sprintf("The seed disk is not used: %d more faults are in the log.", more)
		}
	})
}

// maxNoted bounds how many seeds with faults are remembered.
const maxNoted = 64

// noteFaults logs the faults of a seed, once however often it is looked at.
func (m *Machine) noteFaults(faults []string) {
	sum := sha256.Sum256([]byte(strings.Join(faults, "\n")))
	if len(faults) == 0 || slices.Contains(m.noted, sum) {
		return
	}
	m.noted = append(m.noted[max(len(m.noted)-maxNoted+1, 0):], sum)
	for _, fault := range faults {
		m.log.Warn("a fault of the seed disk, which is not used", "fault", fault)
	}
}
