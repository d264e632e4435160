package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lazaret/firewall"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

// freshness is how long routing outlives the control plane, in tests that do not wait for
// its end; the others set freshVariable.
const freshness = 20 * time.Second

const freshVariable = "LAZARET_CHAOS_FRESH"

// freshFor is the freshness of this process and of those it starts.
func freshFor() time.Duration {
	if d, err := time.ParseDuration(os.Getenv(freshVariable)); err == nil {
		return d
	}
	return freshness
}

var host = firewall.Ruleset{
	Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: freshFor(), QuarantineLife: time.Hour,
	Inside: []firewall.Service{{Protocol: "tcp", Port: 8443}},
}

// planeOrder is an order to the data plane's process.
type planeOrder struct {
	Die   string        // step to die at from now on
	Fail  *failure      // what the kernel refuses once
	Small bool          // the sockets of nftables have next to no room for answers
	Step  time.Duration // the wall clock is ahead by this
	Host  uint16        // the gateway has a service at this TCP port
}

// runPlane is the data plane: the product's, over the real table and a stand-in link.
func runPlane(dir string) error {
	f, fails := newFate(), new(failures)
	var ahead atomic.Int64
	log := logTo(dir, "plane")
	table, err := firewall.Open(firewall.Config{Log: log})
	if err != nil {
		return err
	}
	plane, err := dataplane.New(dataplane.Config{
		Table: failingTable{mortalTable{table, f}, fails}, Host: host, Log: log,
		Clock: func() dataplane.Times {
			now := dataplane.SystemTimes()
			now.Wall = now.Wall.Add(time.Duration(ahead.Load()))
			return now
		},
		OpenLink: func(context.Context) (dataplane.Link, error) {
			f.step("before open")
			defer f.step("after open")
			return failingLink{mortalLink{&standIn{filepath.Join(dir, "peers")}, f}, fails}, nil
		},
		Listen: func() (*net.UnixListener, error) {
			f.step("before listen")
			defer f.step("after listen")
			return dataplane.Listen(filepath.Join(dir, "control"), -1)
		},
		Forward: func() error { return around(f, "forward", func() error { return forward("1") }) },
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- plane.Run(context.Background()) }() // ends with the process
	go func() {
		ended <- obey(func(o planeOrder) any {
			f.seal(o.Die)
			fails.next(o.Fail)
			ahead.Store(int64(o.Step))
			if o.Host != 0 {
				r := host
				r.Outside = []firewall.Service{{Protocol: "tcp", Port: o.Host}}
				if err := plane.SetHost(r); err != nil {
					return failed{Err: err.Error()}
				}
			}
			if o.Small {
				return shrinking(300 * time.Millisecond)
			}
			return fails.met()
		})
	}()
	return <-ended
}

func forward(value string) error {
	return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte(value), 0))
}

// logTo is the log of a process, in a file beside everything else.
func logTo(dir, name string) *slog.Logger {
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	return slog.New(slog.NewTextHandler(f, nil))
}

// standIn keeps the books of a link that outlives the process, as the kernel's does: its
// interface is the judge's, and its peers are in a file. It filters nothing.
type standIn struct{ path string }

func (s *standIn) load() (map[string][]netip.Prefix, error) {
	peers := make(map[string][]netip.Prefix)
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return peers, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &peers)
	}
	return peers, err
}

func (s *standIn) Apply(changes []tunnel.PeerChange) error {
	peers, err := s.load()
	if err != nil {
		return err
	}
	for _, c := range changes { // one after the other: a kill may fall between any two
		delete(peers, c.Peer.Key.String())
		if !c.Remove {
			for k, have := range peers {
				peers[k] = slices.DeleteFunc(have, func(p netip.Prefix) bool { return slices.Contains(c.Peer.AllowedIPs, p) })
			}
			peers[c.Peer.Key.String()] = c.Peer.AllowedIPs
		}
		b, err := json.Marshal(peers)
		if err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(s.path+".new", b, 0o600), os.Rename(s.path+".new", s.path)); err != nil {
			return err
		}
	}
	return nil
}

func (s *standIn) Peers() ([]tunnel.PeerStatus, error) {
	peers, err := s.load()
	var out []tunnel.PeerStatus
	for text, allowed := range peers {
		k, e := tunnel.ParseKey(text)
		err = errors.Join(err, e)
		out = append(out, tunnel.PeerStatus{Peer: tunnel.Peer{Key: k, AllowedIPs: allowed}})
	}
	return out, err
}

func (s *standIn) Handshakes([]tunnel.Key) (map[tunnel.Key]time.Time, error) { return nil, nil }

func (s *standIn) SetAddresses(own []netip.Prefix) error {
	link, err := netlink.LinkByName(host.Tunnel)
	if err != nil {
		return err
	}
	for _, p := range own {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, a); err != nil {
			return fmt.Errorf("adding address %s: %w", p, err)
		}
	}
	return netlink.LinkSetUp(link)
}

func (s *standIn) Close() error { return nil }
