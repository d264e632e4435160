// Package supervise runs the machine's processes, each this same program with another
// command, user and few rights: it starts them, waits until they are ready, starts them
// again when they end, ends them in order, and takes in what they leave behind.
//
// Only this package may start processes in a program that takes in orphans: whoever else
// waits for a child of its own may find that it was taken in already.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/appliance"
)

// Part is one process to run.
type Part struct {
	Name        string        // required: lower-case letters, digits and hyphens
	Args        []string      // after the program's name
	User, Group int           // as which it runs
	AmbientCaps []uintptr     // capabilities it has, like unix.CAP_NET_ADMIN
	Env         []string      // all of its environment, but for NOTIFY_SOCKET
	Notify      bool          // it tells readiness by NOTIFY_SOCKET; false: it is ready once started
	ReadyWithin time.Duration // optional: default 2 minutes; then it is started again
	StopWithin  time.Duration // optional: default 10 seconds from SIGTERM to SIGKILL
	Watchdog    time.Duration // optional: once ready, it tells WATCHDOG=1 at least this often, or is started again; told as WATCHDOG_USEC
	Files       uint64        // optional: most open files (RLIMIT_NOFILE); 0: as this process
	Memory      int64         // optional: most memory in bytes, where there are cgroups
	Tasks       int           // optional: most threads and processes, where there are cgroups
	OOMScore    int           // -1000 to 1000 (oom_score_adj)

	// Inherit gives each of its processes files of its own, as descriptors 3 and up; they are
	// closed here once it has them. Optional.
	Inherit func() ([]*os.File, error)
}

// Config is what New needs.
type Config struct {
	Log     *slog.Logger                      // required
	Output  func(part string, from io.Reader) // required: reads what a part writes to its outputs, to the end
	Dir     string                            // required: directory for sockets, made with mode 0755
	Program string                            // optional: default /proc/self/exe
	Cgroups string                            // optional: where cgroup v2 is mounted; empty: none
	Orphans bool                              // process number 1: take in processes whose parents are gone
}

// Bounds of patience with parts that end. The pause doubles with each end, and is short
// again after a part has run well.
const (
	shortPause  = 100 * time.Millisecond
	longPause   = 30 * time.Second
	goodMinute  = time.Minute
	readyWithin = 2 * time.Minute
	stopWithin  = 10 * time.Second
)

// Supervisor runs parts.
type Supervisor struct {
	c       Config
	family  *family
	changed chan struct{}

	mu     sync.Mutex
	runs   map[string]*run
	order  []*run // as started
	closed bool
}

// New returns a Supervisor that runs nothing yet. Close ends what it has begun.
func New(c Config) (*Supervisor, error) {
	if c.Log == nil || c.Output == nil || c.Dir == "" {
		return nil, errors.New("supervising needs a log, a reader of output and a directory")
	}
	if c.Program == "" {
		c.Program = "/proc/self/exe"
	}
	if err := errors.Join(os.MkdirAll(c.Dir, 0o755), os.Chmod(c.Dir, 0o755)); err != nil {
		return nil, fmt.Errorf("making the directory of sockets: %w", err)
	}
	if c.Cgroups != "" {
		if err := openCgroups(c.Cgroups); err != nil {
			return nil, err
		}
	}
	return &Supervisor{c: c, family: newFamily(c.Orphans, c.Log), changed: make(chan struct{}, 1), runs: map[string]*run{}}, nil
}

var nameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`) })

func (p *Part) check() error {
	if !nameForm().MatchString(p.Name) {
		return fmt.Errorf("part %q: a name is lower-case letters, digits and hyphens", p.Name)
	}
	if p.ReadyWithin <= 0 {
		p.ReadyWithin = readyWithin
	}
	if p.StopWithin <= 0 {
		p.StopWithin = stopWithin
	}
	return nil
}

// Start has a part run from now on, until Stop or Close. It does not wait for it.
func (s *Supervisor) Start(p Part) error {
	if err := p.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("starting " + p.Name + ": everything is being ended")
	}
	if s.runs[p.Name] != nil {
		return errors.New("starting " + p.Name + ": it runs already")
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &run{s: s, part: p, stop: stop, done: make(chan struct{}), again: make(chan struct{}, 1), ready: make(chan struct{}), is: appliance.Part{Name: p.Name, Since: time.Now()}}
	s.runs[p.Name], s.order = r, append(s.order, r)
	go r.keep(ctx)
	return nil
}

func (s *Supervisor) find(name string) (*run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.runs[name]; r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("there is no part %q", name)
}

// Ready waits until the part is ready, for as long as ctx lets it.
func (s *Supervisor) Ready(ctx context.Context, name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	for {
		select {
		case <-r.isReady():
			return nil
		case <-r.done:
			return fmt.Errorf("waiting for %s: it was stopped", name)
		case <-ctx.Done():
			is := r.state()
			if is.Last != "" {
				return fmt.Errorf("waiting for %s: %w; it ended last: %s", name, ctx.Err(), is.Last)
			}
			return fmt.Errorf("waiting for %s: %w", name, ctx.Err())
		}
	}
}

// Stop ends a part, with SIGTERM first, and forgets it. It returns when its process is gone.
func (s *Supervisor) Stop(name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	s.end(r)
	return nil
}

func (s *Supervisor) end(r *run) {
	r.stop()
	<-r.done
	s.mu.Lock()
	if s.runs[r.part.Name] == r {
		delete(s.runs, r.part.Name)
	}
	s.order = slices.DeleteFunc(s.order, func(o *run) bool { return o == r })
	s.mu.Unlock()
	s.tell()
}

// Restart ends a part's process in order and starts it at once.
func (s *Supervisor) Restart(name string) error {
	r, err := s.find(name)
	if err != nil {
		return err
	}
	select {
	case r.again <- struct{}{}:
	default:
	}
	return nil
}

// Parts tells how all parts do, sorted by name.
func (s *Supervisor) Parts() []appliance.Part {
	s.mu.Lock()
	runs := slices.Clone(s.order)
	s.mu.Unlock()
	var all []appliance.Part
	for _, r := range runs {
		all = append(all, r.state())
	}
	slices.SortFunc(all, func(a, b appliance.Part) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Problems are sentences on parts that are not as they should be, sorted.
func (s *Supervisor) Problems() []string {
	s.mu.Lock()
	runs := slices.Clone(s.order)
	s.mu.Unlock()
	var all []string
	for _, r := range runs {
		if p := r.trouble(); p != "" {
			all = append(all, p)
		}
	}
	slices.Sort(all)
	return all
}

// Changed gets a value after a part became ready or ended.
func (s *Supervisor) Changed() <-chan struct{} { return s.changed }

func (s *Supervisor) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Close ends all parts, the last one started first, and everything of the Supervisor's.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	s.closed = true
	runs := slices.Clone(s.order)
	s.mu.Unlock()
	for _, r := range slices.Backward(runs) {
		s.end(r)
	}
	return s.family.close()
}
