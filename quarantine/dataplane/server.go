package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lazaret/internal/peer"
	"lazaret/quarantine"
)

// Listen makes the socket at path, whole or not at all. Whatever is there is replaced,
// so only the owner of the table may call it: see Config.Listen. The socket stays when
// the listener closes.
//
// With a negative group its mode is 0666, else 0660 for that group. Everybody may
// connect then, and that is safe: the kernel says whose each connection is
// (SO_PEERCRED), the data plane hangs up on everyone who is not in Config.UIDs before it
// reads or writes a byte, and the control plane, which is a user of its own, could not
// reach a socket that is the data plane's alone.
func Listen(path string, group int) (*net.UnixListener, error) {
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".socket-*")); err == nil {
		for _, dir := range left { // of processes that were killed in here
			_ = os.RemoveAll(dir) // it only takes room
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".socket-") // mode 0700: nobody connects before the modes are right
	if err != nil {
		return nil, fmt.Errorf("making the socket %s: %w", path, err)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	mode := os.FileMode(0o666)
	if group >= 0 {
		mode = 0o660
		err = os.Chown(made, -1, group)
	}
	if err = errors.Join(err, os.Chmod(made, mode)); err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making the socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// accept takes connections until ctx ends; each has a goroutine that serve waits for.
func (p *Plane) accept(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var logged time.Time
	var refused int // since then
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("taking connections: %w", err)
		}
		if _, err := peer.Admit(conn, p.config.UIDs...); err != nil {
			conn.Close()
			refused++
			if time.Since(logged) >= time.Minute { // anybody may try, and fill the log
				p.log.Warn("refused connections", "number", refused, "last", err)
				logged, refused = time.Now(), 0
			}
			continue
		}
		p.talks.Go(func() { p.talk(conn) })
	}
}

// session is one connection of a control plane.
type session struct {
	conn   net.Conn
	out    chan message // what the data plane says by itself
	closed chan struct{}
	once   sync.Once
	write  sync.Mutex    // one frame at a time
	asked  chan struct{} // capacity 1: a question is being answered
	work   sync.WaitGroup
}

// unheard is how many events may wait for a control plane that does not read, before
// it is taken for dead; patience is how long one write may take.
const (
	unheard  = 4096
	patience = 10 * time.Second
)

func (s *session) close() {
	s.once.Do(func() { close(s.closed); s.conn.Close() })
}

func (s *session) send(m message) error {
	b, err := frame(m)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = s.conn.Write(b)
	return err
}

// talk listens to one connection until it breaks, is replaced by a newer one, or
// misbehaves. Then nothing changes: what is enforced stays.
func (p *Plane) talk(conn net.Conn) {
	s := &session{conn: conn, out: make(chan message, unheard), closed: make(chan struct{}), asked: make(chan struct{}, 1)}
	defer s.close()
	if !p.welcome(s) {
		return
	}
	defer s.work.Wait()
	defer s.close()
	s.work.Go(s.sayEvents)
	err := p.listen(s)
	p.mu.Lock()
	if p.current == s {
		p.current = nil
	}
	p.mu.Unlock()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		p.log.Warn("the control plane's connection ended", "error", err)
	}
}

// welcome makes s the one that is listened to and says hello; false when Run has ended.
func (p *Plane) welcome(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	if p.current != nil {
		p.log.Info("a newer control plane connected")
		p.current.close()
	}
	p.current = s
	s.out <- message{Kind: hello}
	return true
}

func (s *session) sayEvents() {
	for {
		select {
		case <-s.closed:
			return
		case m := <-s.out:
			if s.send(m) != nil {
				s.close()
				return
			}
		}
	}
}

// tell queues an event for the control plane; with none connected it is dropped, since
// the next one sends a plan first. It never waits.
func (p *Plane) tell(e Event) {
	if p.current == nil {
		return
	}
	select {
	case p.current.out <- message{Kind: event, Event: &e}:
	default:
		p.current.close()
	}
}

// hangUp ends every connection, and lets no new one begin.
func (p *Plane) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		p.current.close()
	}
	p.current, p.ended = nil, true
	if p.config.Conn != nil {
		p.config.Conn.Close()
	}
}

// listen answers every order. A malformed frame or another version is answered once,
// and ends the connection.
func (p *Plane) listen(s *session) error {
	var plan *assembly
	for {
		m, err := readMessage(s.conn)
		if err != nil {
			if errors.Is(err, ErrVersion) || errors.Is(err, errFrame) {
				err = errors.Join(err, s.send(encode(m.ID, fmt.Errorf("%w: %w", ErrRefused, err))))
			}
			return err
		}
		if m.Kind == ask {
			plan = nil // an order is sent whole, so there is none
			if err := p.asked(s, m); err != nil {
				return err
			}
			continue
		}
		if plan, err = assemble(plan, m); plan != nil && m.Kind != commit {
			continue // answered at its commit
		}
		var faults []fault
		if err == nil {
			faults, err = p.order(s, m, plan)
			plan = nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		err = s.send(withFaults(encode(m.ID, err), faults))
		p.tidy()
		if err != nil {
			return err
		}
	}
}

// order does what one message asks; plan is there for a commit. It returns the devices
// that are not as it says, though it was taken.
func (p *Plane) order(s *session, m message, plan *assembly) ([]fault, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.current != s:
		return nil, net.ErrClosed // a newer control plane spoke meanwhile
	case m.Kind == apply && m.Entry != nil:
		err := p.move(*m.Entry)
		if errors.Is(err, quarantine.ErrOutdated) {
			return []fault{newFault(m.Entry.Device, err)}, err
		}
		return nil, err
	case m.Kind == refresh && m.Fresh != nil:
		return nil, p.prolong(*m.Fresh)
	case m.Kind == commit && plan != nil:
		whole, err := plan.whole()
		if err == nil {
			err = p.replace(whole)
		}
		if err != nil {
			return nil, err
		}
		return p.unmet(), nil
	default:
		return nil, fmt.Errorf("%w: an order %.32q without its content", ErrRefused, m.Kind)
	}
}
