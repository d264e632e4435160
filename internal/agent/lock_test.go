package agent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// logindSeat is a session of the stand-in.
type logindSeat struct {
	id, kind, class string
	locked          bool
}

// fakeLogind is a system bus with a systemd-logind on it.
type fakeLogind struct {
	mu    sync.Mutex
	seats []*logindSeat
	deaf  bool // answers Lock, and nothing follows
	after int  // a session is locked only once it was looked at so often
	looks int
	calls []string
}

// serve answers on a socket of its own, which the environment then names.
func (l *fakeLogind) serve(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	listener, err := net.Listen("unix", path)
	must(t, err)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				l.talk(c)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		open.Wait()
	})
	return path
}

// talk speaks the D-Bus protocol (dbus-specification, "Auth Protocol" and "Message
// Protocol").
func (l *fakeLogind) talk(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.Trim(line, "\x00\r\n")
		switch {
		case line == "AUTH":
			fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		case strings.HasPrefix(line, "AUTH EXTERNAL"):
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case line == "BEGIN":
			l.messages(c, r)
			return
		default:
			fmt.Fprint(c, "ERROR\r\n")
		}
	}
}

func (l *fakeLogind) messages(c net.Conn, r io.Reader) {
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		if m.Type != dbus.TypeMethodCall {
			continue
		}
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()), dbus.FieldSender: dbus.MakeVariant("org.freedesktop.DBus"),
		}}
		reply.Body = l.answer(m)
		if len(reply.Body) > 0 {
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		}
		if encode(c, reply, m.Serial()) != nil {
			return
		}
	}
}

func (l *fakeLogind) answer(m *dbus.Message) []any {
	l.mu.Lock()
	defer l.mu.Unlock()
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	member, _ := m.Headers[dbus.FieldMember].Value().(string)
	if member == "Hello" {
		return []any{":1.1"}
	}
	type listed struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	if member == "ListSessions" {
		all := []listed{}
		for _, s := range l.seats {
			all = append(all, listed{s.id, 1000, "alice", "seat0", dbus.ObjectPath("/org/freedesktop/login1/session/" + s.id)})
		}
		return []any{all}
	}
	i := slices.IndexFunc(l.seats, func(s *logindSeat) bool { return strings.HasSuffix(string(path), "/"+s.id) })
	if i < 0 {
		return nil
	}
	s := l.seats[i]
	if member == "Lock" {
		l.calls = append(l.calls, s.id)
		s.locked = s.locked || !l.deaf && l.after == 0 && slices.Contains(graphical, s.kind)
		return nil
	}
	switch m.Body[1] {
	case "Type":
		return []any{dbus.MakeVariant(s.kind)}
	case "Class":
		return []any{dbus.MakeVariant(s.class)}
	}
	if l.looks++; l.looks == l.after {
		s.locked = true
	}
	return []any{dbus.MakeVariant(s.locked)}
}

// asked are the sessions that were to be locked.
func (l *fakeLogind) asked() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.calls)
}

// TestLockIsSeen: asking logind is not enough: a graphical session that does not say that
// it is locked makes the command fail, within its deadline.
func TestLockIsSeen(t *testing.T) {
	screen := func(id, kind string) *logindSeat { return &logindSeat{id: id, kind: kind, class: "user"} }
	for _, c := range []struct {
		name   string
		logind *fakeLogind
		asked  []string
		ok     bool
		detail string
	}{
		{"one screen", &fakeLogind{seats: []*logindSeat{screen("2", "wayland")}}, []string{"2"}, true, "session 2 of alice"},
		{"two, and a text session", &fakeLogind{seats: []*logindSeat{screen("2", "wayland"), screen("3", "tty"), screen("4", "x11")}}, []string{"2", "3", "4"}, true, "no screen lock: 3"},
		{"a login screen", &fakeLogind{seats: []*logindSeat{{id: "c1", kind: "wayland", class: "greeter"}}}, nil, true, "nobody"},
		{"nobody", &fakeLogind{}, nil, true, "nobody"},
		{"after a while", &fakeLogind{seats: []*logindSeat{screen("2", "x11")}, after: 3}, []string{"2"}, true, "locked"},
		{"answered, not locked", &fakeLogind{seats: []*logindSeat{screen("2", "wayland")}, deaf: true}, []string{"2"}, false, "asked, and not locked: session 2 of alice"},
		{"one of two", &fakeLogind{seats: []*logindSeat{screen("2", "wayland"), {id: "5", kind: "x11", class: "user", locked: true}}, deaf: true}, []string{"2", "5"}, false, "session 2"},
		{"text alone", &fakeLogind{seats: []*logindSeat{screen("3", "tty")}}, []string{"3"}, false, "text sessions"},
	} {
		c.logind.serve(t)
		limit := 20 * time.Second
		if c.logind.deaf {
			limit = 300 * time.Millisecond // as long as nothing happens
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		detail, err := lockSessions(ctx)
		cancel()
		if err != nil {
			detail = err.Error()
		}
		if (err == nil) != c.ok || !strings.Contains(detail, c.detail) || !slices.Equal(c.logind.asked(), c.asked) {
			t.Errorf("%s: %v, %q, asked %v", c.name, err, detail, c.logind.asked())
		}
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if _, err := lockSessions(t.Context()); err == nil {
		t.Error("without a bus: done")
	}
}
