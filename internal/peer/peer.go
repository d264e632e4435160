// Package peer asks the kernel whose the other end of a Unix socket is. The kernel noted it
// when the connection was made; nothing that the other end sends counts, and an error means
// that it is nobody who may do anything.
package peer

import (
	"errors"
	"fmt"
	"net"
	"slices"
)

// ErrStranger reports a user who may not be at the other end.
var ErrStranger = errors.New("this user may not connect")

// Nobody is a user id that no process has.
const Nobody = ^uint32(0)

// User is whose the other end of conn is; with an error it is Nobody.
func User(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Nobody, fmt.Errorf("asking whose a connection is: %w", err)
	}
	user := Nobody
	if e := raw.Control(func(fd uintptr) { user, err = ask(int(fd)) }); e != nil || err != nil {
		return Nobody, fmt.Errorf("asking whose a connection is: %w", errors.Join(e, err))
	}
	return user, nil
}

// Admit returns whose the other end of conn is, and an error unless that is one of allowed:
// ErrStranger, or why the kernel did not tell. None allowed lets nobody in.
func Admit(conn *net.UnixConn, allowed ...uint32) (uint32, error) {
	user, err := User(conn)
	if err != nil {
		return Nobody, err
	}
	if user == Nobody || !slices.Contains(allowed, user) {
		return user, fmt.Errorf("%w: user %d", ErrStranger, user)
	}
	return user, nil
}
