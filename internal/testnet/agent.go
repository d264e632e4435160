package testnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// runHost is the role of a host's agent. It runs whole in the host's namespaces
// and does there what the supervisor asks.
func runHost(ctx context.Context, args []string) error {
	conn, err := fileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	name := "host"
	if len(args) == 1 {
		name = args[0]
	}
	procs := &processes{running: make(map[uint64]*running)}
	traffic := newTraffic()
	captures := &captures{running: make(map[uint64]*capturing)}
	ops := map[string]handler{
		opSetup:     handle(func(context.Context, struct{}) (any, error) { return nil, setupHost(name) }),
		opAwaitUp:   handle(func(ctx context.Context, device string) (any, error) { return nil, awaitUp(ctx, device) }),
		opConfigure: handle(func(_ context.Context, r configureRequest) (any, error) { return nil, configure(r) }),
		opProbe:     handle(func(ctx context.Context, s ProbeSpec) (any, error) { return probe(ctx, s) }),
		opInject:    handle(func(_ context.Context, r injectRequest) (any, error) { return nil, inject(r) }),

		opLinkAddress: handle(func(_ context.Context, device string) (any, error) { return linkAddress(device) }),
	}
	procs.register(ops)
	traffic.register(ops)
	captures.register(ops)
	return serve(ctx, conn, ops)
}

// setupHost gives the host a /run and /var/run of its own, where wireguard-go and
// the programs keep their sockets, and interfaces that come up quietly.
func setupHost(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("naming the host: %w", err)
	}
	if err := privateRun(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return configure(configureRequest{NetConfig: NetConfig{Sysctls: map[string]string{
		// A new namespace may inherit the machine's settings.
		"net/ipv4/conf/all/rp_filter":      "0",
		"net/ipv4/conf/default/rp_filter":  "0",
		"net/ipv4/conf/all/forwarding":     "0",
		"net/ipv4/conf/default/forwarding": "0",
		// Redirects would teach hosts ways around the gateway.
		"net/ipv4/conf/all/send_redirects":       "0",
		"net/ipv4/conf/default/send_redirects":   "0",
		"net/ipv4/conf/all/accept_redirects":     "0",
		"net/ipv4/conf/default/accept_redirects": "0",
		"net/ipv6/conf/all/accept_redirects":     "0",
		"net/ipv6/conf/default/accept_redirects": "0",
		"net/ipv6/conf/all/disable_ipv6":         "0",
		"net/ipv6/conf/default/disable_ipv6":     "0",
		// No waiting for duplicate addresses, no routers that nobody named.
		"net/ipv6/conf/all/accept_dad":     "0",
		"net/ipv6/conf/default/accept_dad": "0",
		"net/ipv6/conf/all/accept_ra":      "0",
		"net/ipv6/conf/default/accept_ra":  "0",
		// ICMP errors are part of what is looked at.
		"net/ipv4/icmp_ratelimit": "0",
		"net/ipv6/icmp/ratelimit": "0",
	}}})
}

// privateRun mounts an empty /run, and the same at /var/run unless that leads
// there anyway.
func privateRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, dir := range []string{"/run", "/var/run"} {
		info, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			continue
		}
		if err := unix.Mount("run", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mounting a private %s: %w", dir, err)
		}
	}
	err := os.MkdirAll("/var/run/wireguard", 0o700)
	if err != nil && !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("making the directory of WireGuard sockets: %w", err)
	}
	return nil
}
