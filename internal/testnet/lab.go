package testnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Config says how to set up a lab. The zero Config works.
type Config struct {
	// Dir holds a directory for each host and the log files; optional. Without it
	// a temporary one is made, and removed by Close.
	Dir string
	// Log receives what the processes in the lab print, each line after the name
	// of its host and process; optional.
	Log io.Writer
	// UserNamespace makes the lab in a user namespace even as root; optional.
	// Other users always get one.
	UserNamespace bool
}

// logName is the file, in the lab's directory, of what the agents print.
const logName = "lab.log"

// Lab is a set of hosts that live and die together.
type Lab struct {
	dir    string
	ownDir bool
	log    *prefixLog
	root   bool // no user namespace: uids are those of the machine
	first  *caller
	exited chan struct{} // closed when the first process and so the whole lab is gone
	cmd    *exec.Cmd

	mu      sync.Mutex
	hosts   map[string]*Host
	closing bool
	watches sync.WaitGroup // of processes; nothing is added once closing
	close   sync.Once
}

// Start makes an empty lab. Where namespaces are refused the error names the
// setting that refuses them and says how to run as root. The lab ends with Close,
// with ctx, and with the calling process, however that ends.
func Start(ctx context.Context, c Config) (*Lab, error) {
	if !mainCalled {
		return nil, errors.New("starting a lab: the program must call testnet.Main first")
	}
	l := &Lab{dir: c.Dir, log: newPrefixLog(c.Log), hosts: make(map[string]*Host), exited: make(chan struct{})}
	if l.dir == "" {
		dir, err := os.MkdirTemp("", "lazaret-lab-")
		if err != nil {
			return nil, fmt.Errorf("making the lab's directory: %w", err)
		}
		l.dir, l.ownDir = dir, true
	}
	if err := l.launch(c.UserNamespace || os.Geteuid() != 0); err != nil {
		l.removeDir()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	go func() { <-l.exited; stop() }() // ends with the lab
	if err := l.first.call(ctx, opSetup, struct{}{}, nil); err != nil {
		words, _ := os.ReadFile(filepath.Join(l.dir, logName)) // only adds to the error
		l.Close()
		if len(words) > 0 {
			err = fmt.Errorf("%w (its last words: %s)", err, bytes.TrimSpace(words))
		}
		return nil, refusal(fmt.Errorf("setting up the lab: %w", err))
	}
	return l, nil
}

// Close ends every process of the lab, waits until they are gone, and removes
// the directory if the lab made it. Further calls do nothing.
func (l *Lab) Close() error {
	l.close.Do(func() {
		l.first.Close()
		<-l.exited
		l.mu.Lock()
		l.closing = true
		hosts := slices.Collect(maps.Values(l.hosts))
		l.mu.Unlock()
		for _, h := range hosts {
			h.agent.Close()
		}
		l.watches.Wait() // the log gets no line after this
		l.removeDir()
	})
	return nil
}

// Done is closed when the lab has ended.
func (l *Lab) Done() <-chan struct{} { return l.exited }

// Dir is the directory that holds the hosts' directories and logs.
func (l *Lab) Dir() string { return l.dir }

// PID is the lab's first process, as the calling process numbers it.
func (l *Lab) PID() int { return l.cmd.Process.Pid }

// Root reports whether the lab runs with the machine's own root and user ids.
func (l *Lab) Root() bool { return l.root }

// Host returns the host of that name, or nil.
func (l *Lab) Host(name string) *Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.hosts[name]
}

// AddHost starts a host: an agent in a network and mount namespace of its own,
// with loopback up, private /run and /var/run, and no other interface.
func (l *Lab) AddHost(ctx context.Context, name string) (*Host, error) {
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("adding host %s: %w", name, err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("adding host %s: %w", name, err)
	}
	defer theirs.Close()
	h := &Host{lab: l, name: name, dir: dir, agent: newCaller(ours)}
	err = l.first.call(ctx, opHost, hostRequest{Name: name, Dir: dir}, &h.inner, theirs)
	if err == nil {
		err = h.agent.call(ctx, opSetup, struct{}{}, nil)
	}
	if err != nil {
		h.agent.Close()
		return nil, fmt.Errorf("adding host %s: %w", name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hosts[name] = h
	return h, nil
}

// Link connects a host to a network, which is made when first named, by an
// interface with these addresses. Interface and network names have at most 15
// bytes.
func (l *Lab) Link(ctx context.Context, h *Host, network, device string, addrs ...netip.Prefix) error {
	var port string
	err := l.first.call(ctx, opLink, linkRequest{PID: h.inner, Network: network, Device: device}, &port)
	if err == nil {
		err = h.Configure(ctx, NetConfig{Links: []LinkConfig{{Name: device, Addrs: addrs}}})
	}
	if err == nil {
		err = h.agent.call(ctx, opAwaitUp, device, nil)
	}
	if err == nil {
		err = l.first.call(ctx, opAwaitUp, port, nil)
	}
	if err != nil {
		return fmt.Errorf("linking %s to network %s: %w", h.name, network, err)
	}
	return nil
}

// track counts one more process to wait for in Close, until the function it
// returns is called.
func (l *Lab) track() func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return func() {}
	}
	l.watches.Add(1)
	return l.watches.Done
}

func (l *Lab) removeDir() {
	if l.ownDir {
		_ = os.RemoveAll(l.dir) // a leftover in the temporary directory harms nothing
	}
}

// Host is one machine of the lab.
type Host struct {
	lab   *Lab
	name  string
	dir   string
	inner int // the agent's process id inside the lab
	agent *caller
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Dir is a directory of the host's own, which the calling process sees too.
func (h *Host) Dir() string { return h.dir }

// PID is the host's agent as the calling process numbers it: a handle on its
// namespaces, for nsenter(1) and the like.
func (h *Host) PID() (int, error) {
	found, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	parent := fmt.Sprintf("\nPPid:\t%d\n", h.lab.PID())
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), parent) {
			continue // not ours, or gone by now
		}
		_, ids, _ := strings.Cut(string(b), "\nNSpid:")
		ids, _, _ = strings.Cut(ids, "\n")
		if f := strings.Fields(ids); len(f) > 1 && f[len(f)-1] == strconv.Itoa(h.inner) {
			return strconv.Atoi(filepath.Base(filepath.Dir(path)))
		}
	}
	return 0, fmt.Errorf("finding the agent of %s: %w", h.name, errGone)
}
