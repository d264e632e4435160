package supervise

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"lazaret/appliance"
)

// run keeps one part running.
type run struct {
	s     *Supervisor
	part  Part
	stop  context.CancelFunc
	done  chan struct{} // closed when the part's last process is gone
	again chan struct{} // asks for a restart

	mu      sync.Mutex
	ready   chan struct{} // closed while the part is ready
	is      appliance.Part
	problem string
}

func (r *run) isReady() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

func (r *run) state() appliance.Part {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.is
}

func (r *run) trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

// keep starts the part again and again until ctx ends, and is its only user.
func (r *run) keep(ctx context.Context) {
	defer close(r.done)
	log := r.s.c.Log.With("part", r.part.Name)
	pause := shortPause
	for ctx.Err() == nil {
		started := time.Now()
		why, said, wanted := r.once(ctx)
		if time.Since(started) >= goodMinute {
			pause = shortPause
		}
		r.ended(why, said, wanted || ctx.Err() != nil)
		if ctx.Err() != nil {
			log.Info("part ended", "how", why)
			return
		}
		if wanted {
			log.Info("part is started again as asked", "how", why)
			continue
		}
		log.Error("part ended by itself; it is started again", "how", why, "after", time.Since(started).Round(time.Millisecond).String(), "pause", pause.String())
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-r.again:
		case <-ctx.Done():
		}
		t.Stop()
		pause = min(2*pause, longPause)
	}
}

// once runs the part a single time, and returns how it ended, what it said last, and whether
// its end was asked for.
func (r *run) once(ctx context.Context) (why, said string, wanted bool) {
	p, err := r.s.launch(r.part, launch{})
	if err != nil {
		return err.Error(), "", false
	}
	why, wanted = r.until(ctx, p)
	p.close() // by then all it said was read
	return why, p.words.told(), wanted
}

// until waits for the end of a process of the part's, or brings it about.
func (r *run) until(ctx context.Context, p *process) (why string, wanted bool) {
	select { // what was asked before it ran has been done
	case <-r.again:
	default:
	}
	r.s.c.Log.Info("part started", "part", r.part.Name, "pid", p.pid)
	late := time.NewTimer(r.part.ReadyWithin)
	defer late.Stop()
	isReady := p.ready
	silent := time.NewTimer(r.part.Watchdog)
	silent.Stop()
	defer silent.Stop()
	for {
		select {
		case how := <-p.ended:
			return describe(how), false
		case <-isReady:
			isReady = nil
			late.Stop()
			r.becameReady()
			if r.part.Watchdog > 0 && r.part.Notify {
				silent.Reset(r.part.Watchdog)
			}
		case <-p.notice.beats():
			if isReady == nil && r.part.Watchdog > 0 {
				silent.Reset(r.part.Watchdog)
			}
		case <-silent.C:
			how := r.s.terminate(p, r.part.StopWithin)
			return fmt.Sprintf("no sign of life for %s, and ended: %s", r.part.Watchdog, describe(how)), false
		case <-late.C:
			how := r.s.terminate(p, r.part.StopWithin)
			return fmt.Sprintf("not ready within %s, and ended: %s", r.part.ReadyWithin, describe(how)), false
		case <-r.again:
			return describe(r.s.terminate(p, r.part.StopWithin)), true
		case <-ctx.Done():
			return describe(r.s.terminate(p, r.part.StopWithin)), true
		}
	}
}

func (r *run) becameReady() {
	r.mu.Lock()
	r.is.Ready, r.is.Since, r.problem = true, time.Now(), ""
	close(r.ready)
	r.mu.Unlock()
	r.s.c.Log.Info("part ready", "part", r.part.Name)
	r.s.tell()
}

func (r *run) ended(why, said string, wanted bool) {
	r.mu.Lock()
	if r.is.Ready {
		r.ready = make(chan struct{})
	}
	r.is.Ready, r.is.Since, r.is.Last = false, time.Now(), why
	r.is.Restarts++
	if said != "" {
		why += " (" + said + ")"
	}
	if !wanted {
		r.problem = fmt.Sprintf("%s does not run: %s.", r.part.Name, why)
	}
	r.mu.Unlock()
	r.s.tell()
}

// terminate asks a process to end, and ends it when it does not, with all it started.
func (s *Supervisor) terminate(p *process, within time.Duration) syscall.WaitStatus {
	p.signal(syscall.SIGTERM)
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case how := <-p.ended:
		return how
	case <-t.C:
		s.c.Log.Warn("part does not end; it is killed", "part", p.name)
		p.signal(syscall.SIGKILL)
		return <-p.ended
	}
}

// describe says how a process ended.
func describe(s syscall.WaitStatus) string {
	switch {
	case s.Exited():
		return fmt.Sprintf("exit status %d", s.ExitStatus())
	case s.Signaled() && s.Signal() == syscall.SIGSYS:
		return "killed for a call to the kernel that it may not make"
	case s.Signaled():
		return "signal " + s.Signal().String()
	}
	return fmt.Sprintf("wait status %#x", int(s))
}
