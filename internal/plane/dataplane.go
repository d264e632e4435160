package plane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// publicKeyFile lies beside the control socket: the link's public key, which the control
// plane tells devices. The private key never leaves the data plane's own directory.
const publicKeyFile = "wireguard.pub"

// PublicKeyPath is where the data plane of a configuration publishes the link's public key,
// a line of base64.
func PublicKeyPath(c config.Config) string {
	return filepath.Join(filepath.Dir(c.Dataplane.Socket), publicKeyFile)
}

// hostRecordFile lies in the data plane's own directory: the host rules confirmed last.
const hostRecordFile = "host.json"

// Run runs the privileged process until ctx ends: the table first, then the link,
// then the public key's file and the socket, forwarding last. What it enforces stays when
// it ends. Where another one runs it fails, and touches nothing of that one's.
func Run(ctx context.Context, c config.Config, log *slog.Logger, ready func()) error {
	if err := preflight(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Dataplane.State, 0o700); err != nil {
		return fmt.Errorf("making the data plane's directory: %w", err)
	}
	key, err := tunnel.LoadOrCreateKey(filepath.Join(c.Dataplane.State, "wireguard.key"))
	if err != nil {
		return err
	}
	table, err := firewall.Open(firewall.Config{Log: log})
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	defer table.Close()
	flows, err := firewall.OpenFlows(0)
	if err != nil {
		return err
	}
	defer flows.Close()
	if err := firewall.Harden(); err != nil {
		log.Warn("some settings of the kernel could not be made; lazaretd stig names them", "error", err)
	}
	guard := newHostGuard(filepath.Join(c.Dataplane.State, hostRecordFile), hostRules(c), log)
	plane, err := dataplane.New(dataplane.Config{
		Table: table,
		OpenLink: func(ctx context.Context) (dataplane.Link, error) {
			return tunnel.Open(ctx, tunnel.Config{
				Name: c.Tunnel.Interface, PrivateKey: key, ListenPort: c.Tunnel.Port, MTU: c.Tunnel.MTU,
				ForceUserspace: c.Tunnel.Userspace, Grow: true, Log: log,
			})
		},
		Host: guard.rules(),
		Listen: func() (*net.UnixListener, error) {
			if err := publish(c.Dataplane.Socket, key.Public()); err != nil {
				return nil, err
			}
			return dataplane.Listen(c.Dataplane.Socket, -1)
		},
		UIDs:  c.Dataplane.ControlUser,
		Flows: flows,
		Log:   log,
	})
	if err != nil {
		return err
	}
	guard.apply = plane.SetHost
	door := hostDoor{guard: guard, held: table.Held, look: c.Dataplane.ControlUser, log: log}
	return runWithDoor(ctx, plane, door, hostSocket(c), ready)
}

// runWithDoor runs the plane, and beside it the administrative socket from the moment when
// the table is this process's own. What is being tried when ctx ends is taken back first.
func runWithDoor(ctx context.Context, plane *dataplane.Plane, door hostDoor, path string, ready func()) error {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, running := errgroup.WithContext(running)
	defer stop()
	group.Go(func() error {
		defer stop() // the door goes with it
		if err := plane.Run(running); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		select {
		case <-plane.Ready():
		case <-running.Done():
			return nil
		}
		l, err := dataplane.Listen(path, -1)
		if err != nil {
			return err
		}
		ready()
		return door.serve(running, l)
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
			door.guard.end()
			stop()
		case <-running.Done():
		}
		return nil
	})
	return group.Wait()
}

// hostRules is the table without pools: the gateway's own services and nothing else.
func hostRules(c config.Config) firewall.Ruleset {
	r := firewall.Ruleset{
		Table: "lazaret", Tunnel: c.Tunnel.Interface, ListenPort: c.Tunnel.Port,
		Inside: append([]firewall.Service{{Protocol: "tcp", Port: c.Tunnel.AgentPort}}, c.Inside()...),
		Out:    append(c.Outgoing(), c.Upstream()...), Freshness: c.Quarantine.Freshness, QuarantineLife: c.Quarantine.Alive,
	}
	for _, a := range c.Enroll.Listen {
		r.Outside = addService(r.Outside, firewall.Service{Protocol: "tcp", Port: a.Port()})
	}
	for _, a := range c.API.Listen {
		if !a.Addr().IsLoopback() {
			r.Outside = addService(r.Outside, firewall.Service{Protocol: "tcp", Port: a.Port(), From: c.API.From})
		}
	}
	for _, s := range c.In {
		r.Outside = addService(r.Outside, s)
	}
	return r
}

// addService adds s; where its port is there already, who may reach it are those of both.
func addService(list []firewall.Service, s firewall.Service) []firewall.Service {
	i := slices.IndexFunc(list, func(o firewall.Service) bool { return o.Port == s.Port && o.Protocol == s.Protocol })
	switch {
	case i < 0:
		return append(list, s)
	case len(list[i].From) == 0:
	case len(s.From) == 0:
		list[i].From = nil
	default:
		list[i].From = append(slices.Clip(list[i].From), s.From...)
	}
	return list
}

// MakeSocketDir makes the directory of a control socket, where there is none.
func MakeSocketDir(socket string) error {
	dir := filepath.Dir(socket)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil // who listens there says what is wrong with it
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil { // whatever the umask: the control plane is another user
		return fmt.Errorf("making the socket's directory: %w", err)
	}
	return nil
}

// publish writes the link's public key for the control plane, whole or not at all.
func publish(socket string, key tunnel.Key) error {
	dir := filepath.Dir(socket)
	if err := MakeSocketDir(socket); err != nil {
		return err
	}
	path := filepath.Join(dir, publicKeyFile)
	err := os.WriteFile(path+".new", []byte(key.String()+"\n"), 0o644)
	if err == nil {
		err = errors.Join(os.Chmod(path+".new", 0o644), os.Rename(path+".new", path))
	}
	if err != nil {
		return fmt.Errorf("publishing the tunnel's public key: %w", err)
	}
	return nil
}
