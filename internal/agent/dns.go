package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
)

// resolver is where the device keeps its DNS servers.
type resolver interface {
	// set makes these the servers that are asked; none: those that the device had.
	set([]netip.Addr) error
	// restore brings back what the device had, and forgets that there was anything else.
	restore() error
}

// openResolver takes systemd-resolved where it runs, else the file.
func openResolver(ctx context.Context, device, file string, log *slog.Logger) (resolver, error) {
	r, err := openResolved(ctx, device)
	if err == nil {
		return r, nil
	}
	if !errors.Is(err, errNoResolved) {
		return nil, err
	}
	return &resolvConf{path: file, log: log}, nil
}

// CleanUp takes back what an agent that was killed left in the device's resolver file and
// routing rules; restored says that there was something of the kind in the file. It must
// not be called while an agent runs.
func CleanUp(c Config) (restored bool, err error) {
	f := &resolvConf{path: c.resolvConf(), log: c.Log}
	if restored, err = f.left(); err != nil || !restored {
		return false, err
	}
	return true, errors.Join(f.restore(), dropRules())
}
