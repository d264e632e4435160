package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of systemd-logind on the bus (org.freedesktop.login1(5)).
const (
	logindName    = "org.freedesktop.login1"
	logindPath    = dbus.ObjectPath("/org/freedesktop/login1")
	logindManager = "org.freedesktop.login1.Manager."
	logindSession = "org.freedesktop.login1.Session"

	lockLook = 100 * time.Millisecond // between two looks at a session that is not locked yet
)

// seat is one session of logind's.
type seat struct {
	ID, User string
	Path     dbus.ObjectPath
}

// graphical are the types of sessions that a screen lock can be asked for.
var graphical = []string{"x11", "wayland", "mir"}

// lockSessions asks logind to lock every session of a user, and succeeds once every
// graphical one says that it is: whoever draws the lock sets LockedHint then, and asking
// alone proves nothing.
func lockSessions(ctx context.Context) (string, error) {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("asking logind: %w", err)
	}
	defer bus.Close()
	var list []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	if err := bus.Object(logindName, logindPath).CallWithContext(ctx, logindManager+"ListSessions", 0).Store(&list); err != nil {
		return "", fmt.Errorf("asking logind for its sessions: %w", err)
	}
	var shown []seat // graphical
	var text []string
	var faults []error
	for _, l := range list {
		s := seat{l.ID, l.User, l.Path}
		kind, err := s.property(ctx, bus, "Type")
		class, fault := s.property(ctx, bus, "Class")
		if err = errors.Join(err, fault); err != nil {
			faults = append(faults, err)
			continue
		}
		if c, _ := class.(string); !strings.HasPrefix(c, "user") {
			continue // a login screen, a lock screen, a background service
		}
		if err := bus.Object(logindName, s.Path).CallWithContext(ctx, logindSession+".Lock", 0).Err; err != nil {
			faults = append(faults, fmt.Errorf("locking session %s of %s: %w", s.ID, s.User, err))
			continue
		}
		if k, _ := kind.(string); slices.Contains(graphical, k) {
			shown = append(shown, s)
		} else {
			text = append(text, s.ID)
		}
	}
	if err := errors.Join(append(faults, awaitLocked(ctx, bus, shown))...); err != nil {
		return "", err
	}
	switch {
	case len(shown) == 0 && len(text) == 0:
		return "nobody has a session", nil
	case len(shown) == 0:
		return "", fmt.Errorf("no session has a screen lock: %s are text sessions", strings.Join(text, ", "))
	case len(text) > 0:
		return fmt.Sprintf("locked: %s; text sessions have no screen lock: %s", seats(shown), strings.Join(text, ", ")), nil
	}
	return "locked: " + seats(shown), nil
}

// awaitLocked waits until every session says that it is locked.
func awaitLocked(ctx context.Context, bus *dbus.Conn, open []seat) error {
	look := time.NewTicker(lockLook)
	defer look.Stop()
	for {
		var still []seat
		for _, s := range open {
			hint, err := s.property(ctx, bus, "LockedHint")
			if ctx.Err() != nil {
				return fmt.Errorf("asked, and not locked: %s", seats(open))
			}
			if err != nil {
				return err
			}
			if locked, _ := hint.(bool); !locked {
				still = append(still, s)
			}
		}
		if open = still; len(open) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("asked, and not locked: %s", seats(open))
		}
	}
}

func (s seat) property(ctx context.Context, bus *dbus.Conn, name string) (any, error) {
	var v dbus.Variant
	err := bus.Object(logindName, s.Path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, logindSession, name).Store(&v)
	if err != nil {
		return nil, fmt.Errorf("asking for %s of session %s: %w", name, s.ID, err)
	}
	return v.Value(), nil
}

func seats(list []seat) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = fmt.Sprintf("session %s of %s", s.ID, s.User)
	}
	return strings.Join(out, ", ")
}
