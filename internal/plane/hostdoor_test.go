package plane

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/internal/config"
)

// looker is a user who may look; whoever is neither root nor listed is a stranger.
const looker, stranger = 4_000_000_001, 4_000_000_002

// busyListener fails a few times before it takes connections, as one does that finds no
// free file descriptor.
type busyListener struct {
	*net.UnixListener
	failures atomic.Int32
}

func (l *busyListener) AcceptUnix() (*net.UnixConn, error) {
	if l.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: syscall.EMFILE}
	}
	return l.UnixListener.AcceptUnix()
}

// doorLab is a door whose visitors are whom user says.
type doorLab struct {
	t      *testing.T
	config config.Config
	guard  *hostGuard
	user   atomic.Uint32
	end    context.CancelFunc
	ended  chan error
}

func newDoorLab(t *testing.T, failures int32) *doorLab {
	t.Helper()
	dir := t.TempDir()
	d := &doorLab{t: t, ended: make(chan error, 1)}
	d.guard, _ = guardIn(t, dir, tcp(22))
	d.config.Dataplane.Socket = filepath.Join(dir, "dataplane.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hostSocket(d.config), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	busy := &busyListener{UnixListener: l}
	busy.failures.Store(failures)
	var ctx context.Context
	ctx, d.end = context.WithCancel(t.Context())
	door := hostDoor{
		guard: d.guard, look: []uint32{looker}, log: slog.New(slog.DiscardHandler),
		held: func() (firewall.Ruleset, bool) { return firewall.Ruleset{}, false },
		who:  func(*net.UnixConn) (uint32, error) { return d.user.Load(), nil },
	}
	go func() { d.ended <- door.serve(ctx, busy) }()
	return d
}

// visit opens a connection as user and says nothing.
func (d *doorLab) visit(user uint32) net.Conn {
	d.t.Helper()
	d.user.Store(user)
	conn, err := net.Dial("unix", hostSocket(d.config))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

// hungUp waits until the door hangs up, well before it would for want of patience.
func (d *doorLab) hungUp(conn net.Conn, what string) {
	d.t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(hostPatience / 2)); err != nil {
		d.t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		d.t.Errorf("%s: %v, want that it is hung up on", what, err)
	}
}

// TestDoorIsNotBlocked: idle connections of a user who may look, more than the door takes,
// keep root from nothing; and those that end make room again.
func TestDoorIsNotBlocked(t *testing.T) {
	d := newDoorLab(t, 0)
	var idle []net.Conn
	for range hostAskers {
		idle = append(idle, d.visit(looker))
	}
	d.hungUp(d.visit(looker), "one too many") // so those before were taken
	d.user.Store(0)
	for range hostAskers + 1 {
		if _, err := ShowHost(soon(t), d.config); err != nil {
			t.Fatalf("root, while another user holds all that it may: %v", err)
		}
	}
	d.user.Store(looker)
	if _, err := ShowHost(soon(t), d.config); err == nil {
		t.Error("a user has more connections than it may have")
	}
	idle[0].Close()
	for ctx := soon(t); ; {
		if _, err := ShowHost(ctx, d.config); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("a connection that ended makes no room")
		}
	}
	d.end()
	d.hungUp(idle[1], "the door is closed")
	select {
	case err := <-d.ended:
		if err != nil {
			t.Error(err)
		}
	case <-soon(t).Done():
		t.Error("the door waits for idle connections")
	}
}

// TestDoorSurvivesWantOfDescriptors: a connection that cannot be taken does not end the
// data plane; a socket that is gone does.
func TestDoorSurvivesWantOfDescriptors(t *testing.T) {
	d := newDoorLab(t, 3)
	if _, err := ShowHost(soon(t), d.config); err != nil {
		t.Errorf("after three failures: %v", err)
	}
	d.end()
	if err := <-d.ended; err != nil {
		t.Error(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := (hostDoor{log: slog.New(slog.DiscardHandler)}).serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a socket that is gone: %v", err)
	}
}

// TestDoorByUser: a stranger is hung up on, and who may look may not change.
func TestDoorByUser(t *testing.T) {
	d := newDoorLab(t, 0)
	d.hungUp(d.visit(stranger), "a stranger")
	d.user.Store(looker)
	if _, err := ShowHost(soon(t), d.config); err != nil {
		t.Errorf("looking: %v", err)
	}
	if err := d.guard.try(tcp(80), time.Minute); err != nil {
		t.Fatal(err)
	}
	defer d.guard.end()
	if _, err := ConfirmHost(soon(t), d.config); err == nil {
		t.Error("a user who may look confirms")
	}
	if _, err := RevertHost(soon(t), d.config); err == nil {
		t.Error("a user who may look reverts")
	}
	d.user.Store(0)
	if _, err := ConfirmHost(soon(t), d.config); err != nil {
		t.Errorf("root confirms: %v", err)
	}
}
