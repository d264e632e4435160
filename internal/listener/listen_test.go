package listener

import (
	"net"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListenersAreTakenOver: every listener handed over under a name is taken, once, and
// no other descriptor is touched.
func TestListenersAreTakenOver(t *testing.T) {
	const base = 700 // descriptors in a row, as a service manager passes them
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(int(f.Fd()), base+i, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	defer func(was int) { firstInherited = was }(firstInherited)
	firstInherited = base
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("LISTEN_FDS", "3")
	t.Setenv("LISTEN_FDNAMES", "enroll:api:enroll")
	for name, want := range map[string]int{"enroll": 2, "api": 1, "agent": 0} {
		got, err := Inherited(name)
		if err != nil || len(got) != want {
			t.Errorf("%s: %d listeners, %v", name, len(got), err)
		}
		for _, l := range got {
			l.Close()
		}
	}
	t.Setenv("LISTEN_PID", "1")
	if got, err := Inherited("enroll"); err != nil || got != nil {
		t.Errorf("meant for another process: %v %v", got, err)
	}
}
