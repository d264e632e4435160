package plane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/peer"
)

// hostSocket is the data plane's administrative socket, beside that for control planes.
func hostSocket(c config.Config) string {
	return filepath.Join(filepath.Dir(c.Dataplane.Socket), "host.sock")
}

// hostPatience is how long one exchange on it may take.
const hostPatience = 10 * time.Second

// hostAskers is how many connections one user may hold at a time. Each user has a number of
// its own, so that what others hold, the control plane's above all, costs root none.
const hostAskers = 4

// acceptAgain is how soon the door takes connections again after it could not, as for want
// of file descriptors.
const acceptAgain = 100 * time.Millisecond

// hostDoor answers on the administrative socket. Root and the data plane's own user may
// change the host's rules; the control plane's users may look, and no more: a control plane
// that was taken over must not open the host.
type hostDoor struct {
	guard *hostGuard
	held  func() (firewall.Ruleset, bool) // what the kernel holds for certain
	look  []uint32
	who   func(*net.UnixConn) (uint32, error) // peer.User when nil
	log   *slog.Logger
}

// hostListener is a *net.UnixListener.
type hostListener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// serve answers until ctx ends, and then ends every connection.
func (d hostDoor) serve(ctx context.Context, l hostListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	users := hostUsers{holds: make(map[uint32]int)}
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("taking administrative connections: %w", err)
		}
		if err != nil {
			d.log.Warn("an administrative connection could not be taken; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptAgain):
			}
			continue
		}
		user, err := d.admit(conn)
		if err == nil && !users.enter(user) {
			err = fmt.Errorf("user %d holds %d connections already", user, hostAskers)
		}
		if err != nil {
			d.log.Debug("an administrative connection was refused", "error", err)
			conn.Close()
			continue
		}
		all.Go(func() {
			defer conn.Close()
			defer users.leave(user) // first: who sees the end may come again
			if err := d.answer(ctx, conn, user); err != nil {
				d.log.Debug("an administrative connection ended", "error", err)
			}
		})
	}
}

// hostUsers counts connections.
type hostUsers struct {
	mu    sync.Mutex
	holds map[uint32]int
}

func (u *hostUsers) enter(user uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.holds[user] >= hostAskers {
		return false
	}
	u.holds[user]++
	return true
}

func (u *hostUsers) leave(user uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.holds[user]--; u.holds[user] == 0 {
		delete(u.holds, user)
	}
}

// admit says whose conn is. A stranger is refused before a byte is read.
func (d hostDoor) admit(conn *net.UnixConn) (uint32, error) {
	who := d.who
	if who == nil {
		who = peer.User
	}
	user, err := who(conn)
	if err == nil && !mayChange(user) && !slices.Contains(d.look, user) {
		err = fmt.Errorf("user %d may not ask", user)
	}
	return user, err
}

func mayChange(user uint32) bool { return user == 0 || user == uint32(os.Geteuid()) }

// answer reads one request and answers it.
func (d hostDoor) answer(ctx context.Context, conn *net.UnixConn, who uint32) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(hostPatience)); err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(conn, hostLimit+1))
	if err != nil {
		return err
	}
	r, err := parseHostRequest(text)
	if err == nil && !mayChange(who) && r.Do != hostShow && r.Do != hostHeld {
		err = fmt.Errorf("user %d may look at the host's rules, and not change them", who)
	}
	var held *firewall.Ruleset
	if err == nil {
		held, err = d.do(r)
	}
	s := d.guard.state()
	a := hostAnswer{Version: hostVersion, InForce: newHostRecord(s.InForce), Confirmed: newHostRecord(s.Confirmed), Until: s.Until, Held: held}
	if err != nil {
		a.Error = err.Error()
		d.log.Warn("an administrative request failed", "request", r.Do, "user", who, "error", err)
	} else if r.Do != hostShow && r.Do != hostHeld {
		d.log.Info("administrative request done", "request", r.Do, "user", who)
	}
	return json.NewEncoder(conn).Encode(a)
}

// do does what r asks for; the ruleset is there for a question about it.
func (d hostDoor) do(r hostRequest) (*firewall.Ruleset, error) {
	switch r.Do {
	case hostShow:
		return nil, nil
	case hostHeld:
		held, certain := d.held()
		if !certain {
			return nil, errors.New("the data plane is not certain what the kernel holds")
		}
		return &held, nil
	case hostTry:
		return nil, d.guard.try(r.Services.services(), time.Duration(r.Seconds)*time.Second)
	case hostConfirm:
		return nil, d.guard.confirm()
	case hostRevert:
		return nil, d.guard.takeBack()
	default:
		return nil, fmt.Errorf("unknown request %.32q", r.Do)
	}
}

// TryHost puts the host rules of c in force at the running data plane, which takes them
// back after d unless ConfirmHost comes first. Everything but the services (interface,
// ports of the tunnel, times) stays as the data plane was started with.
func TryHost(ctx context.Context, c config.Config, d time.Duration) (HostState, error) {
	services := newHostRecord(ConfiguredHost(c))
	return askHost(ctx, c, hostRequest{Do: hostTry, Seconds: int(d / time.Second), Services: &services})
}

// ConfirmHost keeps what is being tried.
func ConfirmHost(ctx context.Context, c config.Config) (HostState, error) {
	return askHost(ctx, c, hostRequest{Do: hostConfirm})
}

// RevertHost takes back at once what is being tried.
func RevertHost(ctx context.Context, c config.Config) (HostState, error) {
	return askHost(ctx, c, hostRequest{Do: hostRevert})
}

// ShowHost says what is in force.
func ShowHost(ctx context.Context, c config.Config) (HostState, error) {
	return askHost(ctx, c, hostRequest{Do: hostShow})
}

// ConfiguredHost are the services that c asks for.
func ConfiguredHost(c config.Config) HostServices { return servicesOf(hostRules(c)) }

// heldRules asks what the data plane has the kernel hold.
func heldRules(ctx context.Context, c config.Config) (firewall.Ruleset, error) {
	a, err := exchange(ctx, c, hostRequest{Do: hostHeld})
	if err == nil && a.Held == nil {
		err = errors.New("the data plane does not say what it holds")
	}
	if err != nil {
		return firewall.Ruleset{}, err
	}
	return *a.Held, nil
}

// HeldPools are the networks of the pools that the running data plane enforces. An error
// says that it enforces none for certain.
func HeldPools(ctx context.Context, c config.Config) ([]netip.Prefix, error) {
	r, err := heldRules(ctx, c)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	for _, p := range r.Pools {
		for _, x := range []netip.Prefix{p.IPv4, p.IPv6} {
			if x.IsValid() {
				all = append(all, x)
			}
		}
	}
	return all, nil
}

// askHost asks the data plane. With an error that the data plane gave, the state is how
// things stand.
func askHost(ctx context.Context, c config.Config, r hostRequest) (HostState, error) {
	a, err := exchange(ctx, c, r)
	return HostState{InForce: a.InForce.services(), Confirmed: a.Confirmed.services(), Until: a.Until}, err
}

// exchange asks one thing and takes one answer.
func exchange(ctx context.Context, c config.Config, r hostRequest) (hostAnswer, error) {
	r.Version = hostVersion
	conn, err := (&net.Dialer{Timeout: hostPatience}).DialContext(ctx, "unix", hostSocket(c))
	if err != nil {
		return hostAnswer{}, fmt.Errorf("asking the data plane, which must be running: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(2 * hostPatience)); err != nil {
		return hostAnswer{}, fmt.Errorf("asking the data plane: %w", err)
	}
	text, err := json.Marshal(r)
	if err == nil {
		_, err = conn.Write(text)
	}
	if err == nil {
		err = conn.(*net.UnixConn).CloseWrite()
	}
	var reply []byte
	if err == nil {
		reply, err = io.ReadAll(io.LimitReader(conn, heldLimit))
	}
	if err == nil && len(reply) == 0 {
		err = fmt.Errorf("it hung up: only root, and the users the data plane is told of, may ask, each %d times at once", hostAskers)
	}
	var a hostAnswer
	if err == nil {
		err = json.Unmarshal(reply, &a)
	}
	if err == nil && a.Version != hostVersion {
		err = fmt.Errorf("it speaks version %d, this program %d", a.Version, hostVersion)
	}
	if err != nil {
		return hostAnswer{}, fmt.Errorf("asking the data plane: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}
