package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/seed"
	"lazaret/internal/durable"
)

// built is when the image was built: the time is never before.
func built() time.Time {
	text, err := os.ReadFile(appliance.BuiltPath)
	if err != nil {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(text)))
	if err != nil {
		return time.Time{}
	}
	return at
}

// pools are the tunnel's networks, from which nothing else may take.
func (m *Machine) pools() []netip.Prefix {
	if own := m.own.Load(); own != nil {
		return *own
	}
	return nil
}

// poolsPath holds the tunnel's networks as the data plane had them last, one to a line: no
// lease may take from them, from the first one on.
var poolsPath = filepath.Join(appliance.MachineDir, "pools")

func savePools(list []netip.Prefix) error {
	var text strings.Builder
	for _, p := range list {
		fmt.Fprintln(&text, p)
	}
	return durable.Write(poolsPath, []byte(text.String()), 0o600)
}

func (m *Machine) loadPools() {
	text, err := os.ReadFile(poolsPath)
	if err != nil {
		return // none were ever there
	}
	var own []netip.Prefix
	for _, word := range strings.Fields(string(text)) {
		if p, err := netip.ParsePrefix(word); err == nil {
			own = append(own, p)
		}
	}
	m.own.Store(&own)
}

// hostname is told to DHCP servers. It asks for no lock: those who ask hold their own.
func (m *Machine) hostname() string {
	if name := m.name.Load(); name != nil {
		return *name
	}
	return ""
}

// timeServersPath holds the time servers that an administrator named, one to a line.
var timeServersPath = filepath.Join(appliance.ConfigDir, "time-servers")

func (m *Machine) timeServers() []string {
	text, err := os.ReadFile(timeServersPath)
	if err == nil && len(text) > 0 {
		return strings.Fields(string(text))
	}
	return m.network.TimeServers()
}

// connect sets up links and clock: as confirmed last, else as a seed says, else by asking
// the network on every card.
func (m *Machine) connect(ctx context.Context) error {
	if err := m.clock.Floor(); err != nil {
		m.log.Warn("setting the clock to the last time known", "error", err)
	}
	m.loadPools()
	n, err := m.wantedNetwork()
	if err != nil {
		return err
	}
	if !isClaimed() {
		m.seed = m.applySeed()
		if m.seed.Network != nil {
			n = *m.seed.Network
		}
	}
	if err := m.network.Set(ctx, n); err != nil {
		m.problem("network", "Some of the network could not be set up; the log says what.")
		m.log.Error("setting up the network", "error", err)
	}
	m.keep(ctx, "clock", m.clock.Run)
	return nil
}

func (m *Machine) wantedNetwork() (appliance.Network, error) {
	text, err := os.ReadFile(appliance.NetworkPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return appliance.Automatic(), nil
	case err != nil:
		return appliance.Network{}, fmt.Errorf("reading the network's configuration: %w", err)
	}
	n, err := appliance.ParseNetwork(text)
	if err != nil {
		m.problem("network", "The network's configuration cannot be read; every card asks the network for an address instead.")
		m.log.Error("reading the network's configuration", "error", err)
		return appliance.Automatic(), nil
	}
	return n, nil
}

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

// applySeed is a seed's set-up and code, where there is a seed that was not applied before.
// What is wrong with it is for the screen, and then nothing of it holds. A network that was
// set at the screen wins over the seed's.
func (m *Machine) applySeed() seed.Seed {
	s, err := m.readSeed()
	switch {
	case errors.Is(err, seed.ErrNone):
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
	if seen {
		m.log.Info("the seed was applied before", "instance", s.Instance)
		return seed.Seed{}
	}
	m.log.Info("a seed is applied", "instance", s.Instance)
	if s.Network == nil {
		return s
	}
	if _, err := os.Stat(appliance.NetworkPath); !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("the seed's network is not used: another was set at the screen")
		s.Network = nil
	} else {
		s.Setup.Network = s.Network // kept with the claim
	}
	return s
}

// maxSeedProblems bounds what the screen shows of a seed's faults.
const maxSeedProblems = 50

// seedProblems shows what is wrong with a seed disk, each fault by itself: a sentence that is
// too long is cut. None take those back that are shown.
func (m *Machine) seedProblems(faults ...string) {
	subject := func(i int) string { return fmt.Sprintf("seed %d", i) }
	m.show(func(st *state) {
		for i := range maxSeedProblems + 1 {
			delete(st.problems, subject(i))
		}
		for i, fault := range faults {
			m.log.Warn("a fault of the seed disk, which is not used", "fault", fault)
			if i < maxSeedProblems {
				st.problems[subject(i)] = "The seed disk is not used: " + fault + "."
			}
		}
		if more := len(faults) - maxSeedProblems; more > 0 {
			st.problems[subject(maxSeedProblems)] = fmt.Sprintf("The seed disk is not used: %d more faults are in the log.", more)
		}
	})
}
