package machine

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lazaret/appliance"
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
	if !isClaimed() {
		m.seed = m.findSeed()
	}
	if err := m.firstNetwork(ctx, m.seed); err != nil {
		return err
	}
	m.keep(ctx, "clock", m.clock.Run)
	return nil
}
