package agent

import (
	"context"
	"errors"
	"fmt"
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
// routing rules; cleaned says that there was something of the kind. It refuses while an
// agent runs on c.Dir, wherever its control socket is; where nobody enrolled, it does
// nothing.
func CleanUp(c Config) (cleaned bool, err error) {
	s, err := openStore(c.Dir)
	if errors.Is(err, ErrNotEnrolled) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	unlock, err := s.lock()
	if errors.Is(err, errInUse) {
		return false, fmt.Errorf("%s is %w, which listens on another control socket: name it with --socket", c.Dir, errInUse)
	}
	if err != nil {
		return false, err
	}
	defer unlock()
	f := &resolvConf{path: c.resolvConf(), log: c.Log}
	left, fault := f.left()
	if left {
		fault = f.restore()
	}
	dropped, err := dropRules()
	return left || dropped > 0, errors.Join(fault, err)
}
