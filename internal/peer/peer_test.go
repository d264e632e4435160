package peer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// pair is both ends of a connection over a socket of the file system.
func pair(t *testing.T) (here, there *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if there, err = net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr)); err != nil {
		t.Fatal(err)
	}
	if here, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

// TestUser: the kernel says who runs this test, at both ends, and also after the other end
// has gone.
func TestUser(t *testing.T) {
	here, there := pair(t)
	me := uint32(os.Getuid())
	for _, conn := range []*net.UnixConn{here, there} {
		if got, err := User(conn); err != nil || got != me {
			t.Errorf("user %d, %v; this is %d", got, err, me)
		}
	}
	there.Close()
	if got, err := User(here); err != nil || got != me {
		t.Errorf("after the other end has gone: user %d, %v", got, err)
	}
}

// TestAdmit: only who is listed gets in, and nobody where the kernel does not say who it is.
func TestAdmit(t *testing.T) {
	here, _ := pair(t)
	me := uint32(os.Getuid())
	if got, err := Admit(here, me+1, me); err != nil || got != me {
		t.Errorf("user %d, %v", got, err)
	}
	for _, allowed := range [][]uint32{nil, {me + 1}, {Nobody}} {
		if got, err := Admit(here, allowed...); !errors.Is(err, ErrStranger) || got != me {
			t.Errorf("with %v allowed: user %d, %v", allowed, got, err)
		}
	}
	here.Close()
	if got, err := Admit(here, me, 0, Nobody); err == nil || got != Nobody {
		t.Errorf("of a closed connection: user %d, %v", got, err)
	}
}
