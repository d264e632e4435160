package testnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Role is a function that a program runs inside a host, in a process of its own.
// ctx ends with SIGTERM or SIGINT.
type Role func(ctx context.Context, args []string) error

// Spec is a process to start inside a host. Either Role or Path is set.
type Spec struct {
	Role         string    // a name that was given to [Main]
	Path         string    // an external program
	Args         []string  // without the program's own name
	Name         string    // in logs; by default the role or the program's name
	Env          []string  // added to the calling process's environment
	Dir          string    // working directory; by default the host's directory
	Stdin        io.Reader // by default empty
	NoPrivileges bool      // empty bounding set, no capabilities, no new privileges
	UID, GID     int       // other than 0 only in a lab that runs as real root
}

// ErrExit is wrapped by the error of a process that ended badly.
var ErrExit = errors.New("process failed")

// Process runs inside a host.
type Process struct {
	host    *Host
	name    string
	started processStarted
	out     *output
	reports *json.Decoder
	copies  sync.WaitGroup // of output
	done    chan struct{}
	end     processEnd
	err     error // of the wait itself
}

type processRequest struct {
	Role         string   `json:"role,omitempty"`
	Path         string   `json:"path,omitempty"`
	Args         []string `json:"args,omitempty"`
	Env          []string `json:"env,omitempty"`
	Dir          string   `json:"dir"`
	NoPrivileges bool     `json:"no_privileges,omitempty"`
	UID          int      `json:"uid,omitempty"`
	GID          int      `json:"gid,omitempty"`
}

type processStarted struct {
	ID  uint64 `json:"id"`
	PID int    `json:"pid"` // inside the lab
}

type processEnd struct {
	Code   int    `json:"code"`   // -1 when ended by a signal
	Status string `json:"status"` // for people
}

type signalRequest struct {
	ID     uint64 `json:"id"`
	Signal int    `json:"signal"`
}

// Run starts a role inside the host.
func (h *Host) Run(ctx context.Context, role string, args ...string) (*Process, error) {
	return h.Start(ctx, Spec{Role: role, Args: args})
}

// Command starts an external program inside the host.
func (h *Host) Command(ctx context.Context, path string, args ...string) (*Process, error) {
	return h.Start(ctx, Spec{Path: path, Args: args})
}

// Start starts a process inside the host. It ends with the host at the latest;
// ctx bounds only the start.
func (h *Host) Start(ctx context.Context, s Spec) (*Process, error) {
	if s.Name == "" {
		s.Name = s.Role
		if s.Path != "" {
			s.Name = filepath.Base(s.Path)
		}
	}
	if s.Dir == "" {
		s.Dir = h.dir
	}
	p := &Process{host: h, name: s.Name, out: &output{}, done: make(chan struct{})}
	pipes, err := newStdio(s.Stdin != nil)
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.name, err)
	}
	req := processRequest{Role: s.Role, Path: s.Path, Args: s.Args, Env: s.Env, Dir: s.Dir,
		NoPrivileges: s.NoPrivileges, UID: s.UID, GID: s.GID}
	err = h.agent.call(ctx, opStart, req, &p.started, pipes.theirs...)
	closeAll(pipes.theirs)
	if err != nil {
		closeAll(pipes.ours)
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.name, err)
	}
	p.watch(pipes, s.Stdin)
	return p, nil
}

// stdio is the pipes of a process: input, both outputs, reports.
type stdio struct{ theirs, ours []*os.File }

func newStdio(input bool) (stdio, error) {
	var s stdio
	add := func(forWriting bool) error {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(s.theirs)
			closeAll(s.ours)
			return err
		}
		if forWriting {
			r, w = w, r
		}
		s.ours, s.theirs = append(s.ours, r), append(s.theirs, w)
		return nil
	}
	for _, forWriting := range []bool{true, false, false, false} {
		if err := add(forWriting); err != nil {
			return s, err
		}
	}
	if !input {
		s.ours[0].Close() // the process reads an end of file
	}
	return s, nil
}

// watch owns the goroutines of a process; they end when it has ended.
func (p *Process) watch(pipes stdio, stdin io.Reader) {
	if stdin != nil {
		go func() {
			defer pipes.ours[0].Close()
			_, _ = io.Copy(pipes.ours[0], stdin) // the process need not read it all
		}()
	}
	for _, f := range pipes.ours[1:3] {
		p.copies.Go(func() { p.copyLines(f) })
	}
	p.reports = json.NewDecoder(pipes.ours[3])
	ended := p.host.lab.track()
	go func() {
		defer ended()
		defer close(p.done)
		p.err = p.host.agent.call(context.Background(), opWait, p.started.ID, &p.end)
		p.drain(pipes.ours[1:3])
		p.out.close()
	}()
}

// drain waits for the rest of the output. A grandchild that still holds the pipe
// is not waited for.
func (p *Process) drain(pipes []*os.File) {
	limit := time.AfterFunc(2*time.Second, func() { closeAll(pipes) })
	p.copies.Wait()
	limit.Stop()
	closeAll(pipes)
}

func (p *Process) copyLines(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			p.out.add(line)
			p.host.lab.log.write(p.host.name+"/"+p.name, line)
		}
		if err != nil {
			return
		}
	}
}

// Next waits for the next value that the role gave to [Report], and decodes it
// into v. One goroutine at a time may call it, and none again after an error. When
// the process ends instead, the error says how and with what last words.
func (p *Process) Next(ctx context.Context, v any) error {
	result := make(chan error, 1)
	go func() { result <- p.reports.Decode(v) }() // ends with the process at the latest
	select {
	case err := <-result:
		if !errors.Is(err, io.EOF) {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("waiting for a report of %s on %s: %w (printed: %s)", p.name, p.host.name, ctx.Err(), p.out.tail())
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w: %s on %s ended without a report (printed: %s)", ErrExit, p.name, p.host.name, p.out.tail())
}

// AwaitOutput waits until the process has printed a line that contains text, and
// returns the line.
func (p *Process) AwaitOutput(ctx context.Context, text string) (string, error) {
	line, err := p.out.await(ctx, text)
	if err != nil {
		return "", fmt.Errorf("waiting for %q from %s on %s: %w (printed: %s)", text, p.name, p.host.name, err, p.out.tail())
	}
	return line, nil
}

// Wait waits for the end of the process. The error wraps ErrExit if its status
// was not zero.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s on %s: %w", p.name, p.host.name, ctx.Err())
	}
	if p.err != nil {
		return p.err
	}
	if p.end.Code != 0 {
		return fmt.Errorf("%w: %s on %s: %s (printed: %s)", ErrExit, p.name, p.host.name, p.end.Status, p.out.tail())
	}
	return nil
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the status the process ended with: -1 for a signal. It may be
// called once Done is closed.
func (p *Process) ExitCode() int { return p.end.Code }

// Signal sends the process a signal. One that has ended is left alone.
func (p *Process) Signal(ctx context.Context, sig syscall.Signal) error {
	if err := p.host.agent.call(ctx, opSignal, signalRequest{ID: p.started.ID, Signal: int(sig)}, nil); err != nil {
		return fmt.Errorf("signalling %s on %s: %w", p.name, p.host.name, err)
	}
	return nil
}

// Kill ends the process at once (SIGKILL) and waits until it is gone.
func (p *Process) Kill(ctx context.Context) error { return p.finish(ctx, syscall.SIGKILL) }

// Stop asks the process to end (SIGTERM) and waits until it is gone.
func (p *Process) Stop(ctx context.Context) error { return p.finish(ctx, syscall.SIGTERM) }

func (p *Process) finish(ctx context.Context, sig syscall.Signal) error {
	if err := p.Signal(ctx, sig); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("ending %s on %s: %w", p.name, p.host.name, ctx.Err())
	}
}

// Output returns what the process printed so far, both streams in order of
// arrival; of a long output, the end.
func (p *Process) Output() string { return p.out.String() }
