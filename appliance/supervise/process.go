package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process is one run of a part.
type process struct {
	name   string
	pid    int
	ended  <-chan syscall.WaitStatus
	ready  <-chan struct{} // closed when it has told so
	notice *notice         // nil: nobody listens
	group  *group          // nil: no cgroup
	ours   []*os.File      // our ends of its pipes
	words  words           // what it said last
	copies sync.WaitGroup
}

// launch is what one run has that others have not.
type launch struct {
	in  []byte
	out io.Writer // of standard output; nil: as the other output
}

// pipes is what a process reads and writes, and what is left to do here for each.
type pipes struct {
	theirs, ours []*os.File
	copying      []func()
}

func (p *pipes) close() {
	for _, f := range append(p.theirs, p.ours...) {
		f.Close()
	}
}

func (s *Supervisor) connect(name string, l launch, said *words) (p pipes, err error) {
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("making the pipes of %s: %w", name, err)
		}
	}()
	in, err := os.Open(os.DevNull)
	if len(l.in) > 0 {
		var w *os.File
		if in, w, err = os.Pipe(); err == nil {
			p.ours = append(p.ours, w)
			p.copying = append(p.copying, func() { _, _ = w.Write(l.in); w.Close() }) // who does not read it ends without
		}
	}
	if err != nil {
		return p, err
	}
	p.theirs = append(p.theirs, in)
	r, w, err := os.Pipe()
	if err != nil {
		return p, err
	}
	p.ours = append(p.ours, r)
	p.copying = append(p.copying, func() { s.c.Output(name, io.TeeReader(r, said)); r.Close() })
	out := w
	if l.out != nil {
		r, o, err := os.Pipe()
		if err != nil {
			w.Close()
			return p, err
		}
		out = o
		p.ours = append(p.ours, r)
		p.copying = append(p.copying, func() { _, _ = io.Copy(l.out, r); r.Close() })
	}
	p.theirs = append(p.theirs, out, w)
	return p, nil
}

// launch starts a process of part.
func (s *Supervisor) launch(part Part, l launch) (_ *process, err error) {
	p := &process{name: part.Name}
	defer func() {
		if err != nil {
			p.close()
			err = fmt.Errorf("starting %s: %w", part.Name, err)
		}
	}()
	attr := &syscall.ProcAttr{Dir: "/", Env: part.Env, Sys: &syscall.SysProcAttr{Setsid: true, AmbientCaps: part.AmbientCaps}}
	if part.User != os.Geteuid() || part.Group != os.Getegid() {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(part.User), Gid: uint32(part.Group)}
	}
	if part.Notify {
		path := filepath.Join(s.c.Dir, part.Name+".notify")
		if p.notice, err = listenNotice(path, part.User); err != nil {
			return nil, err
		}
		attr.Env = append(append([]string(nil), part.Env...), "NOTIFY_SOCKET="+path)
		if part.Watchdog > 0 {
			attr.Env = append(attr.Env, "WATCHDOG_USEC="+strconv.FormatInt(part.Watchdog.Microseconds(), 10))
		}
	}
	if s.c.Cgroups != "" {
		if p.group, err = makeGroup(s.c.Cgroups, part); err != nil {
			return nil, err
		}
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(p.group.dir.Fd())
	}
	pipes, err := s.connect(part.Name, l, &p.words)
	if err != nil {
		return nil, err
	}
	if part.Inherit != nil {
		more, err := part.Inherit()
		if err != nil {
			pipes.close()
			return nil, err
		}
		pipes.theirs = append(pipes.theirs, more...)
	}
	for _, f := range pipes.theirs {
		attr.Files = append(attr.Files, f.Fd())
	}
	argv := append([]string{prefix + part.Name}, part.Args...)
	p.pid, p.ended, err = s.family.bear(func() (int, error) { return fork(s.c.Program, argv, attr) })
	if err != nil {
		pipes.close()
		return nil, err
	}
	for _, f := range pipes.theirs {
		f.Close()
	}
	p.ours, p.ready = pipes.ours, p.notice.follow(p.pid)
	if err := p.limit(part); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) { // it has ended already
		s.c.Log.Error("a part runs without a limit", "part", part.Name, "error", err)
	}
	for _, c := range pipes.copying {
		p.copies.Go(c)
	}
	return p, nil
}

// signal tells the process alone to end, or ends it with all that it started.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(p.pid, sig) // it may have ended by now
	if sig == syscall.SIGKILL {
		p.killAll()
	}
}

// killAll ends what runs in the process's session and cgroup.
func (p *process) killAll() {
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // there may be none
	p.group.kill()
}

// lastWords is how long output is still read when its process is gone and someone else has
// the pipe.
const lastWords = time.Second

// close ends all that is left of a process that has ended, or was never started.
func (p *process) close() {
	if p.pid > 0 {
		p.killAll()
	}
	p.notice.close()
	for _, f := range p.ours {
		_ = f.SetDeadline(time.Now().Add(lastWords)) // closed by now: the better
	}
	p.copies.Wait()
	p.group.close()
}

// limit sets the limits of a process that has just started, before it is given its input.
// They hold for what it asks from then on.
func (p *process) limit(part Part) error {
	if part.Files > 0 {
		if err := unix.Prlimit(p.pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: part.Files, Max: part.Files}, nil); err != nil {
			return fmt.Errorf("limiting open files: %w", err)
		}
	}
	if part.OOMScore != 0 {
		score := []byte(strconv.Itoa(part.OOMScore))
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid), score, 0); err != nil {
			return fmt.Errorf("setting the order in which processes end for want of memory: %w", err)
		}
	}
	return nil
}

// childOf is the process that waitid found; 0: none. On 64-bit systems the number stands
// after three words and padding (siginfo_t in asm-generic/siginfo.h).
func childOf(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}

// inputMost bounds what Once takes in.
const inputMost = 16 << 20

// Once runs p a single time to its end, with in as its input (16 MiB at most) and its
// standard output written to out; both may be nil. It ends by SIGKILL when ctx does. An
// error says how it ended.
func (s *Supervisor) Once(ctx context.Context, p Part, in io.Reader, out io.Writer) error {
	if err := p.check(); err != nil {
		return err
	}
	var text bytes.Buffer
	if in != nil {
		if n, err := io.Copy(&text, io.LimitReader(in, inputMost+1)); err != nil || n > inputMost {
			return errors.Join(fmt.Errorf("reading the input of %s: %d bytes", p.Name, n), err)
		}
	}
	if out == nil {
		out = io.Discard
	}
	p.Notify = false
	run, err := s.launch(p, launch{in: text.Bytes(), out: out})
	if err != nil {
		return err
	}
	defer run.close()
	var how syscall.WaitStatus
	select {
	case how = <-run.ended:
	case <-ctx.Done():
		run.signal(syscall.SIGKILL)
		how = <-run.ended
		return fmt.Errorf("running %s: %w; %s", p.Name, ctx.Err(), describe(how))
	}
	if how != 0 {
		return fmt.Errorf("running %s: %s", p.Name, describe(how))
	}
	return nil
}
